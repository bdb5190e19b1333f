// The single-key and multi-key needles of RULER (arXiv:2404.06654), in its wording: niah_single_1..3,
// niah_multikey_1..3. One key is asked, so the prompt is in the singular. Deviations: words, keys and essays are our
// own (the essays are one public-domain text), so scores are not to be put beside published ones; haystacks grow by
// sentences, not by words.

#include <fmt/format.h>

#include <algorithm>

#include "eval/tasks/families.h"
#include "eval/tasks/haystack.h"
#include "eval/tasks/words.h"

namespace cachette {
namespace {

enum class Haystack : uint8_t { kNoise, kEssays, kNeedles };
enum class Shape : uint8_t { kWords, kNumber, kUuid };

struct Needles {
  Haystack haystack;
  Shape key;
  Shape value;
  int64_t num_keys;  // those of a needles haystack not counted
};

constexpr const char* kNoiseLine =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";
constexpr int kNumberDigits = 7;
constexpr int64_t kReplyTokens = 128;
constexpr int kNumDepths = 40;  // evenly spaced from 0 to 100 %

std::string Draw(WordSource& words, Shape shape) {
  switch (shape) {
    case Shape::kWords: return words.WordKey();
    case Shape::kNumber: return words.Number(kNumberDigits);
    case Shape::kUuid: return words.Uuid();
  }
  return "";
}

// Puts needles in front of the sentences at distinct depths.
std::string HideInEssays(const std::vector<std::string>& needles, int64_t num_sentences, Rng& rng) {
  const std::vector<std::string> sentences = HaystackSentences(num_sentences, rng);
  std::vector<int64_t> depths = DrawDistinct(kNumDepths, static_cast<int64_t>(needles.size()), rng);
  std::sort(depths.begin(), depths.end());
  std::string text;
  size_t next = 0;
  const auto add = [&text](const std::string& sentence) {
    if (!text.empty()) text += ' ';
    text += sentence;
  };
  for (int64_t i = 0; i <= num_sentences; ++i) {
    for (; next < needles.size() && num_sentences * depths[next] / (kNumDepths - 1) == i; ++next) add(needles[next]);
    if (i < num_sentences) add(sentences[static_cast<size_t>(i)]);
  }
  return text;
}

Sample Draft(const Needles& kind, Rng& rng, int64_t num_items, int64_t num_questions) {
  WordSource words(rng);
  const char* const what = kind.value == Shape::kUuid ? "uuid" : "number";
  const int64_t num_keys = std::max(kind.num_keys, num_questions);
  std::vector<std::string> keys, values, needles;
  const auto draw_needle = [&](bool is_asked) {
    const std::string key = Draw(words, kind.key);
    const std::string value = Draw(words, kind.value);
    if (is_asked) {
      keys.push_back(key);
      values.push_back(value);
    }
    return fmt::format("One of the special magic {}s for {} is: {}.", what, key, value);
  };
  for (int64_t i = 0; i < num_keys; ++i) needles.push_back(draw_needle(true));

  Sample sample;
  sample.context = fmt::format(
      "A special magic {0} is hidden within the following text. Make sure to memorize it. I will quiz you about the "
      "{0} "
      "afterwards.\n",
      what);
  if (kind.haystack == Haystack::kEssays) {
    sample.context += HideInEssays(needles, num_items, rng) + "\n";
  } else {
    std::vector<std::string> lines;
    for (int64_t i = 0; i < num_items; ++i)
      lines.push_back(kind.haystack == Haystack::kNoise ? std::string(kNoiseLine) : draw_needle(false));
    HideLines(needles, lines, rng);
    for (const std::string& line : lines) sample.context += line + "\n";
  }
  for (const int64_t asked : DrawDistinct(num_keys, num_questions, rng))
    sample.questions.push_back(
        {fmt::format(
             "What is the special magic {0} for {1} mentioned in the provided text? The special magic {0} for {1} "
             "mentioned in the provided text is",
             what, keys[static_cast<size_t>(asked)]),
         values[static_cast<size_t>(asked)]});
  return sample;
}

template <Haystack haystack, Shape key, Shape value, int64_t num_keys>
Task Row(const char* name, const char* summary) {
  return {.name = name,
          .scenario = "LISO",
          .summary = summary,
          .form = AnswerForm::kContained,
          .length_of = LengthOf::kPromptAndReply,
          .reply_tokens = kReplyTokens,
          .min_items = [](int64_t) { return int64_t{1}; },
          .draft =
              [](Rng& rng, int64_t num_items, int64_t num_questions) {
                return Draft({haystack, key, value, num_keys}, rng, num_items, num_questions);
              }};
}

}  // namespace

Task NiahSingle1Task() {
  return Row<Haystack::kNoise, Shape::kWords, Shape::kNumber, 1>("niah_single_1", "RULER: a number in repeated noise");
}
Task NiahSingle2Task() {
  return Row<Haystack::kEssays, Shape::kWords, Shape::kNumber, 1>("niah_single_2", "RULER: a number in an essay");
}
Task NiahSingle3Task() {
  return Row<Haystack::kEssays, Shape::kWords, Shape::kUuid, 1>("niah_single_3", "RULER: a UUID in an essay");
}
Task NiahMultikey1Task() {
  return Row<Haystack::kEssays, Shape::kWords, Shape::kNumber, 4>("niah_multikey_1",
                                                                  "RULER: one of 4 keys in an essay");
}
Task NiahMultikey2Task() {
  return Row<Haystack::kNeedles, Shape::kWords, Shape::kNumber, 1>("niah_multikey_2", "RULER: one of many keys");
}
Task NiahMultikey3Task() {
  return Row<Haystack::kNeedles, Shape::kUuid, Shape::kUuid, 1>("niah_multikey_3",
                                                                "RULER: one of many UUIDs, values are UUIDs");
}

}  // namespace cachette
