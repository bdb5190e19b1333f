#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace cachette {

// What to do when an object names a key twice: JSON leaves it open; formats that must not be ambiguous refuse.
enum class RepeatedKeys : uint8_t { kKeepLast, kRefuse };

// text as JSON; name is for messages. Errors: kCorrupt with the byte offset and the reason.
Result<nlohmann::json> ParseJson(std::string_view text, const std::string& name,
                                 RepeatedKeys repeated_keys = RepeatedKeys::kKeepLast);

// Errors: those of MappedFile::Open and of ParseJson.
Result<nlohmann::json> ReadJsonFile(const std::string& path);

}  // namespace cachette
