#pragma once

#include <nlohmann/json_fwd.hpp>

namespace cachette::cli {

enum class JsonStyle : bool { kIndented, kOneLine };

// One JSON value on standard output. Bytes that are no UTF-8 (a file's name may hold some) become U+FFFD.
void PrintJson(const nlohmann::ordered_json& json, JsonStyle style = JsonStyle::kIndented);

}  // namespace cachette::cli
