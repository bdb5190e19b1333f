#pragma once

namespace cachette {

extern const char* const kVersion;    // "0.1.0"
extern const char* const kCommit;     // git commit of the source tree at configure time, or "unknown"
extern const char* const kBuildType;  // "Release", ...

}  // namespace cachette
