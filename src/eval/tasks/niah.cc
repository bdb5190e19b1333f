// niah: a few keys hidden in prose or in source code.

#include <algorithm>

#include "eval/tasks/families.h"
#include "eval/tasks/haystack.h"
#include "eval/tasks/kv_lines.h"

namespace cachette {
namespace {

constexpr int64_t kNumNeedles = 4;  // at least; as many as questions

Sample DraftNiah(Rng& rng, int64_t num_lines, int64_t num_questions) {
  WordSource words(rng);
  const int64_t num_needles = std::max(kNumNeedles, num_questions);
  KvLines needles = DrawKvLines(words, num_needles, num_questions);
  const HaystackText text = rng.Below(2) == 0 ? HaystackText::kProse : HaystackText::kCode;
  std::vector<std::string> lines = HaystackLines(text, num_lines, rng);
  HideLines(needles.lines, lines, rng);
  std::string context = kKvHeading;
  for (const std::string& line : lines) context += line + "\n";
  return {context + kKvQuestions, std::move(needles.questions)};
}

}  // namespace

Task NiahTask() {
  return {.name = "niah",
          .scenario = "LISO",
          .summary = "find one of a few keys in prose or source code",
          .form = AnswerForm::kNumber,
          .length_of = LengthOf::kPrompt,
          .reply_tokens = 0,
          .min_items = [](int64_t) { return int64_t{1}; },
          .draft = DraftNiah};
}

}  // namespace cachette
