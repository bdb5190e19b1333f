#include "eval/tasks/kv_lines.h"

#include <fmt/format.h>

namespace cachette {
namespace {

enum class Style : uint8_t { kSentence, kJson, kAssignment };
constexpr uint64_t kNumStyles = 3;

std::string LineOf(Style style, const std::string& key, const std::string& value) {
  switch (style) {
    case Style::kSentence: return fmt::format("One of the special magic numbers for {} is: {}.", key, value);
    case Style::kJson: return fmt::format("\"{}\": \"{}\",", key, value);
    case Style::kAssignment: return fmt::format("{} = {}", key, value);
  }
  return "";
}

std::string QuestionOf(Style style, const std::string& key) {
  switch (style) {
    case Style::kSentence:
      return fmt::format("What is the special magic number for {0}? The special magic number for {0} is: ", key);
    case Style::kJson: return fmt::format("\"{}\": \"", key);
    case Style::kAssignment: return fmt::format("{} = ", key);
  }
  return "";
}

}  // namespace

KvLines DrawKvLines(WordSource& words, int64_t num_lines, int64_t num_questions) {
  const auto style = static_cast<Style>(words.rng().Below(kNumStyles));
  const int num_digits = words.rng().Below(2) == 0 ? 5 : 7;
  std::vector<std::string> keys, values;
  KvLines out;
  for (int64_t i = 0; i < num_lines; ++i) {
    keys.push_back(words.NumberedKey());
    values.push_back(words.Number(num_digits));
    out.lines.push_back(LineOf(style, keys.back(), values.back()));
  }
  for (const int64_t asked : DrawDistinct(num_lines, num_questions, words.rng()))
    out.questions.push_back({QuestionOf(style, keys[static_cast<size_t>(asked)]), values[static_cast<size_t>(asked)]});
  return out;
}

}  // namespace cachette
