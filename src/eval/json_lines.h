#pragma once
// Files of one JSON object a line, with messages that name the line.

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"

namespace cachette {

struct JsonLine {
  nlohmann::json object;
  int64_t number = 0;  // from 1
  std::string where;   // "FILE line 3"
};

// Calls f for every line that is not blank. Stops at the first failure of f and returns it.
// Errors: kNotFound, kIo; kCorrupt (no object, or a last line that was cut).
Result<void> ForEachJsonLine(const std::string& path, const std::function<Result<void>(const JsonLine&)>& f);

// A field that must be a whole number from min to max. Errors: kCorrupt.
Result<int64_t> WholeNumber(const JsonLine& line, const char* name, int64_t min, int64_t max);

}  // namespace cachette
