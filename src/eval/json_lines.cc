#include "eval/json_lines.h"

#include <fmt/format.h>

#include <string_view>

#include "io/json_file.h"
#include "io/mapped_file.h"

namespace cachette {

Result<void> ForEachJsonLine(const std::string& path, const std::function<Result<void>(const JsonLine&)>& f) {
  CACHETTE_TRY(const MappedFile file, MappedFile::Open(path));
  std::string_view rest(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  for (int64_t number = 1; !rest.empty(); ++number) {
    const size_t end = rest.find('\n');
    const bool is_cut = end == std::string_view::npos;
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(is_cut ? rest.size() : end + 1);
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    JsonLine parsed{{}, number, fmt::format("{} line {}", path, number)};
    Result<nlohmann::json> object = ParseJson(line, parsed.where, RepeatedKeys::kRefuse);
    if (!object.ok()) {
      if (is_cut) return Fail(Error::kCorrupt, fmt::format("{} is cut off: the file is truncated", parsed.where));
      return std::move(object).failure();
    }
    if (!object->is_object()) return Fail(Error::kCorrupt, fmt::format("{} is no JSON object", parsed.where));
    parsed.object = *std::move(object);
    CACHETTE_TRY(f(parsed));
  }
  return Ok();
}

Result<int64_t> WholeNumber(const JsonLine& line, const char* name, int64_t min, int64_t max) {
  const std::string& where = line.where;
  const auto it = line.object.find(name);
  if (it == line.object.end()) return Fail(Error::kCorrupt, fmt::format("{}: field {} is missing", where, name));
  if (!it->is_number_integer())
    return Fail(Error::kCorrupt, fmt::format("{}: field {} is no whole number", where, name));
  const bool is_past_int64 = it->is_number_unsigned() && it->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  const int64_t value = is_past_int64 ? INT64_MAX : it->get<int64_t>();
  if (is_past_int64 || value < min || value > max)
    return Fail(Error::kCorrupt,
                fmt::format("{}: field {} is {}, not from {} to {}", where, name, it->dump(), min, max));
  return value;
}

}  // namespace cachette
