#include "cli/print_json.h"

#include <cstdio>
#include <nlohmann/json.hpp>

namespace cachette::cli {

void PrintJson(const nlohmann::ordered_json& json, JsonStyle style) {
  const std::string text =
      json.dump(style == JsonStyle::kOneLine ? -1 : 2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) +
      "\n";
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace cachette::cli
