#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/result.h"

namespace cachette {

// Replaces path by bytes, whole or not at all: writes a file beside it and renames that. Errors: kIo.
Result<void> WriteFile(const std::string& path, std::span<const std::byte> bytes);

}  // namespace cachette
