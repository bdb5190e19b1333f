// walk: go round a short cycle and write every step until the length is used up. The prompt is short, the reply long.

#include <fmt/format.h>

#include <algorithm>

#include "eval/tasks/families.h"
#include "eval/tasks/words.h"

namespace cachette {
namespace {

constexpr int64_t kMinLines = 6;
constexpr int64_t kMaxLines = 40;

// Items are the names to write; the cycle is at least once gone round.
Sample DraftWalk(Rng& rng, int64_t num_steps, int64_t num_questions) {
  WordSource words(rng);
  const auto drawn = kMinLines + static_cast<int64_t>(rng.Below(kMaxLines - kMinLines + 1));
  const int64_t num_lines = std::min(drawn, num_steps);
  std::vector<std::string> names, lines;
  for (int64_t i = 0; i < num_lines; ++i) names.push_back(words.Name());
  const auto name = [&](int64_t i) -> const std::string& { return names[static_cast<size_t>(i % num_lines)]; };
  for (int64_t i = 0; i < num_lines; ++i) lines.push_back(fmt::format("{} goes to {}.\n", name(i), name(i + 1)));
  Shuffle(lines, rng);
  Sample sample;
  for (const std::string& line : lines) sample.context += line;
  for (const int64_t start : DrawDistinct(num_lines, std::min(num_questions, num_lines), rng)) {
    std::string answer = name(start);
    for (int64_t i = 1; i < num_steps; ++i) answer += "\n" + name(start + i);
    sample.questions.push_back({fmt::format("Start at {} and write every step:\n", name(start)), answer});
  }
  return sample;
}

}  // namespace

Task WalkTask() {
  return {.name = "walk",
          .scenario = "SILO",
          .summary = "go round a cycle of 6 to 40 names and write every step",
          .form = AnswerForm::kLines,
          .length_of = LengthOf::kPromptAndReply,
          .reply_tokens = 0,
          .min_items = [](int64_t) { return kMinLines; },
          .draft = DraftWalk};
}

}  // namespace cachette
