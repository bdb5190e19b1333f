// path: follow roads from one town to another. Every town has one road out, so the way is the only one.

#include <fmt/format.h>

#include <algorithm>

#include "eval/tasks/families.h"
#include "eval/tasks/words.h"

namespace cachette {
namespace {

constexpr int64_t kMinHops = 2;
constexpr int64_t kMaxHops = 60;

// The roads are one cycle through all towns.
Sample DraftPath(Rng& rng, int64_t num_towns, int64_t num_questions) {
  WordSource words(rng);
  std::vector<std::string> towns, roads;
  for (int64_t i = 0; i < num_towns; ++i) towns.push_back(words.Name());
  const auto town = [&](int64_t i) -> const std::string& { return towns[static_cast<size_t>(i % num_towns)]; };
  for (int64_t i = 0; i < num_towns; ++i)
    roads.push_back(fmt::format("From {} a road leads to {}.\n", town(i), town(i + 1)));
  Shuffle(roads, rng);
  Sample sample;
  for (const std::string& road : roads) sample.context += road;
  for (const int64_t start : DrawDistinct(num_towns, num_questions, rng)) {
    const auto drawn = kMinHops + static_cast<int64_t>(rng.Below(kMaxHops - kMinHops + 1));
    const int64_t num_hops = std::min(drawn, num_towns - 1);
    std::string answer = town(start);
    for (int64_t i = 1; i <= num_hops; ++i) answer += " -> " + town(start + i);
    sample.questions.push_back({fmt::format("Path from {} to {}:", town(start), town(start + num_hops)), answer});
  }
  return sample;
}

}  // namespace

Task PathTask() {
  return {.name = "path",
          .scenario = "LILO",
          .summary = "write the way between two towns, up to 60 roads, from a shuffled list of roads",
          .form = AnswerForm::kLine,
          .length_of = LengthOf::kPrompt,
          .reply_tokens = 0,
          .min_items = [](int64_t num_questions) { return std::max(num_questions, kMinHops + 1); },
          .draft = DraftPath};
}

}  // namespace cachette
