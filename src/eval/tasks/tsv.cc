// tsv: turn a list in HTML into tab-separated rows. The whole context is the question's subject, so there is one.

#include <fmt/format.h>

#include "eval/tasks/families.h"
#include "eval/tasks/words.h"

namespace cachette {
namespace {

Sample DraftTsv(Rng& rng, int64_t num_rows, int64_t) {
  WordSource words(rng);
  Sample sample;
  std::string answer;
  for (int64_t i = 0; i < num_rows; ++i) {
    const std::string name = words.Name();
    const std::string city = words.Name();
    const uint64_t extension = 100 + rng.Below(9900);
    sample.context += fmt::format("<li><b>{}</b> lives in <i>{}</i>, extension {}.</li>\n", name, city, extension);
    answer += fmt::format("{}{}\t{}\t{}", answer.empty() ? "" : "\n", name, city, extension);
  }
  sample.questions.push_back({"TSV of name, city, extension:\n", std::move(answer)});
  return sample;
}

}  // namespace

Task TsvTask() {
  return {.name = "tsv",
          .scenario = "LILO",
          .summary = "write a list in HTML as tab-separated rows",
          .form = AnswerForm::kLines,
          .length_of = LengthOf::kPrompt,
          .reply_tokens = 0,
          .min_items = [](int64_t) { return int64_t{1}; },
          .draft = DraftTsv};
}

}  // namespace cachette
