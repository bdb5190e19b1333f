#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/result.h"

namespace cachette {

// May path be replaced by a file? Nothing there, or a regular file. Errors: kInvalidArgument, saying what is there.
Result<void> CheckReplaceable(const std::string& path);

// Replaces path by bytes, whole or not at all: writes a file beside it and renames that. Errors: those of
// CheckReplaceable; kIo.
Result<void> WriteFile(const std::string& path, std::span<const std::byte> bytes);

}  // namespace cachette
