// kv: many keys, one asked. Nothing but such lines, so every other key is a distractor.

#include "eval/tasks/families.h"
#include "eval/tasks/kv_lines.h"

namespace cachette {
namespace {

Sample DraftKv(Rng& rng, int64_t num_lines, int64_t num_questions) {
  WordSource words(rng);
  KvLines kv = DrawKvLines(words, num_lines, num_questions);
  std::string context = kKvHeading;
  for (const std::string& line : kv.lines) context += line + "\n";
  return {context + kKvQuestions, std::move(kv.questions)};
}

}  // namespace

Task KvTask() {
  return {.name = "kv",
          .scenario = "LISO",
          .summary = "look up one of many keys",
          .form = AnswerForm::kNumber,
          .length_of = LengthOf::kPrompt,
          .reply_tokens = 0,
          .min_items = [](int64_t num_questions) { return num_questions; },
          .draft = DraftKv};
}

}  // namespace cachette
