#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/result.h"

namespace cachette {

// SHA-256 in 64 lower-case hexadecimal digits.
std::string Sha256(std::span<const std::byte> bytes);

// Of a whole file. Errors: kNotFound, kInvalidArgument (not a regular file), kIo. Reads it once, 1 MiB at a time.
Result<std::string> Sha256OfFile(const std::string& path);

// The same, remembered in cache_folder under the file's absolute path, size and time of last change, so that a model
// is not read whole on each start. A remembered line that does not fit or parse is ignored; when nothing can be
// remembered, nothing is. cache_folder: usually UserCacheFolder(); "" switches remembering off.
Result<std::string> RememberedSha256OfFile(const std::string& path, const std::string& cache_folder);

// $XDG_CACHE_HOME/cachette, or ~/.cache/cachette, or "" when neither is known. Not created here.
std::string UserCacheFolder();

}  // namespace cachette
