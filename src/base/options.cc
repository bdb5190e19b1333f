#include "base/options.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <type_traits>

namespace cachette {
namespace {

template <class T>
Result<OptionValue> ParseNumber(const std::string& name, std::string_view text, const char* expected) {
  T value{};
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status == std::errc::invalid_argument || end != text.data() + text.size())
    return Fail(Error::kInvalidArgument, fmt::format("option {}: '{}' is not {}", name, text, expected));
  bool is_in_range = status == std::errc();
  if constexpr (std::is_floating_point_v<T>)
    is_in_range = is_in_range && std::isfinite(value);  // from_chars reads "nan"
  if (!is_in_range)
    return Fail(Error::kInvalidArgument, fmt::format("option {}: '{}' is out of range for {}", name, text, expected));
  return OptionValue(value);
}

}  // namespace

Result<OptionValue> ParseOption(const std::string& name, std::string_view text, const OptionValue& type) {
  if (std::holds_alternative<int64_t>(type)) return ParseNumber<int64_t>(name, text, "a whole number");
  if (std::holds_alternative<double>(type)) return ParseNumber<double>(name, text, "a number");
  if (std::holds_alternative<std::string>(type)) return OptionValue(std::string(text));
  if (text == "true" || text == "on" || text == "1" || text.empty()) return OptionValue(true);
  if (text == "false" || text == "off" || text == "0") return OptionValue(false);
  return Fail(Error::kInvalidArgument, fmt::format("option {}: '{}' is not true or false", name, text));
}

}  // namespace cachette
