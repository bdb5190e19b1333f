#include "engine/version.h"

namespace cachette {

// The definitions come from the build system; a build without it still compiles.
#ifndef CACHETTE_VERSION
#define CACHETTE_VERSION "0.0.0"
#endif
#ifndef CACHETTE_COMMIT
#define CACHETTE_COMMIT "unknown"
#endif
#ifndef CACHETTE_BUILD_TYPE
#define CACHETTE_BUILD_TYPE "unknown"
#endif
const char* const kVersion = CACHETTE_VERSION;
const char* const kCommit = CACHETTE_COMMIT;
const char* const kBuildType = CACHETTE_BUILD_TYPE;

}  // namespace cachette
