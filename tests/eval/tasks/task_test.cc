// Samples of every family: the same on every run, as long as was asked, each answer to be found where it should be.

#include "eval/tasks/task.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "text/tokenizer.h"

namespace cachette {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

// One token per byte, and token 256 in front of every text.
const Tokenizer& Bytes() {
  static const Tokenizer tokenizer = [] {
    static std::vector<std::string> tokens;
    for (int b = 0; b < 256; ++b) tokens.push_back(fmt::format("<0x{:02X}>", b));
    tokens.push_back("<s>");
    TokenizerSpec spec;
    spec.kind = TokenizerKind::kSentencePieceBpe;
    spec.tokens.assign(tokens.begin(), tokens.end());
    spec.scores.assign(tokens.size(), 0.0f);
    spec.types.assign(256, TokenType::kByte);
    spec.types.push_back(TokenType::kControl);
    spec.maps_space_marker = false;
    spec.bos_id = 256;
    auto made = Tokenizer::Create(spec);
    EXPECT_TRUE(made.ok()) << made.failure().message;
    return std::move(*made);
  }();
  return tokenizer;
}

EncodedSample Make(const std::string& task, int64_t length, int64_t num_questions = 1, int64_t seed = 1,
                   int64_t idx = 0) {
  const auto found = FindTask(task);
  EXPECT_TRUE(found.ok());
  auto made = MakeSample(**found, Bytes(), {length, SampleRequest::kUnlimited, num_questions, seed, idx});
  EXPECT_TRUE(made.ok()) << (made.ok() ? "" : made.failure().message);
  return std::move(*made);
}

std::vector<std::string> LinesOf(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

int CountOf(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

class EveryTask : public testing::TestWithParam<const char*> {};

TEST_P(EveryTask, IsAFunctionOfItsRequest) {
  const EncodedSample first = Make(GetParam(), 5000, 2, 7, 3), again = Make(GetParam(), 5000, 2, 7, 3);
  EXPECT_EQ(first.context, again.context);
  EXPECT_EQ(first.questions, again.questions);
  EXPECT_EQ(first.text.questions[0].answer, again.text.questions[0].answer);
  EXPECT_NE(first.text.context, Make(GetParam(), 5000, 2, 8, 3).text.context);
  EXPECT_NE(first.text.context, Make(GetParam(), 5000, 2, 7, 4).text.context);
}

TEST_P(EveryTask, FillsTheLengthAndNeverPassesIt) {
  const Task& task = **FindTask(GetParam());
  for (const int64_t length : {2000, 5003, 20000}) {
    for (const int64_t num_questions : {1, 3}) {
      const EncodedSample sample = Make(GetParam(), length, num_questions);
      int64_t longest = 0;
      for (size_t i = 0; i < sample.questions.size(); ++i) {
        const bool covers_reply = task.length_of == LengthOf::kPromptAndReply;
        longest = std::max(longest, sample.PromptTokens(i) + (covers_reply ? sample.reply_limits[i] : 0));
        // A token is a byte here, behind one bos.
        EXPECT_EQ(sample.PromptTokens(i),
                  static_cast<int64_t>(1 + sample.text.context.size() + sample.text.questions[i].text.size()));
      }
      EXPECT_LE(longest, length);
      // One more item did not fit: sentences of the essay are the longest ones, up to some 400 bytes.
      EXPECT_GE(longest, length - 420) << length << " " << num_questions;
    }
  }
}

TEST_P(EveryTask, LeavesRoomForTheReplyInTheModelsContext) {
  const Task& task = **FindTask(GetParam());
  const auto sample = MakeSample(task, Bytes(), {3000, 3000, 1, 1, 0});
  ASSERT_TRUE(sample.ok()) << sample.failure().message;
  EXPECT_LE(sample->PromptTokens(0) + sample->reply_limits[0], 3000);
}

TEST_P(EveryTask, RefusesALengthThatHoldsNothing) {
  const auto sample = MakeSample(**FindTask(GetParam()), Bytes(), {50, SampleRequest::kUnlimited, 1, 1, 0});
  ASSERT_FALSE(sample.ok());
  EXPECT_EQ(sample.failure().error, Error::kInvalidArgument);
  EXPECT_THAT(sample.failure().message, HasSubstr(GetParam()));
  EXPECT_THAT(sample.failure().message, HasSubstr("50"));
}

INSTANTIATE_TEST_SUITE_P(Families, EveryTask,
                         testing::Values("kv", "niah", "path", "walk", "tsv", "niah_single_1", "niah_single_2",
                                         "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3"));

TEST(Tasks, EveryRowIsTested) { EXPECT_EQ(AllTasks().size(), 11u); }

TEST(Tasks, AnUnknownNameHasANearestOne) {
  const auto found = FindTask("niah_singel_2");
  ASSERT_FALSE(found.ok());
  EXPECT_THAT(found.failure().message, HasSubstr("did you mean 'niah_single_2'?"));
}

// A needle's value stands once in the context, in a line with its key.
TEST(Lookups, AnswersStandOnceAndBesideTheirKeys) {
  for (const char* task : {"kv", "niah"}) {
    std::set<std::string> styles;
    for (int64_t idx = 0; idx < 40; ++idx) {
      const EncodedSample sample = Make(task, 6000, 4, 1, idx);
      const std::string& context = sample.text.context;
      EXPECT_THAT(context, StartsWith("Some special magic numbers are hidden within the following text. Memorize "
                                      "them.\n"));
      EXPECT_THAT(context, EndsWith("\nQuestions:\n"));
      ASSERT_EQ(sample.text.questions.size(), 4u);
      std::set<std::string> asked;
      for (const Question& question : sample.text.questions) {
        EXPECT_TRUE(asked.insert(question.text).second);
        EXPECT_TRUE(std::regex_match(question.answer, std::regex("[1-9][0-9]{4}([0-9]{2})?"))) << question.answer;
        EXPECT_EQ(CountOf(context, question.answer), 1) << question.answer;
        std::smatch match;
        ASSERT_TRUE(std::regex_search(question.text, match, std::regex("[a-z]+-[a-z]+-[0-9]{1,3}")));
        const std::string key = match.str();
        std::string line, expected_question;
        for (const std::string& each : LinesOf(context))
          if (each.find(question.answer) != std::string::npos) line = each;
        if (line == "One of the special magic numbers for " + key + " is: " + question.answer + ".") {
          styles.insert("sentence");
          expected_question =
              "What is the special magic number for " + key + "? The special magic number for " + key + " is: ";
        } else if (line == "\"" + key + "\": \"" + question.answer + "\",") {
          styles.insert("json");
          expected_question = "\"" + key + "\": \"";
        } else if (line == key + " = " + question.answer) {
          styles.insert("assignment");
          expected_question = key + " = ";
        }
        EXPECT_EQ(question.text, expected_question) << line;
      }
    }
    EXPECT_EQ(styles.size(), 3u) << task;
  }
}

TEST(Path, AnswersFollowTheRoads) {
  std::set<size_t> hops;
  for (int64_t idx = 0; idx < 60; ++idx) {
    const EncodedSample sample = Make("path", 6000, 3, 1, idx);
    std::map<std::string, std::string> roads;
    const std::regex road("From ([A-Z][a-z]+) a road leads to ([A-Z][a-z]+)\\.");
    for (const std::string& line : LinesOf(sample.text.context)) {
      std::smatch match;
      ASSERT_TRUE(std::regex_match(line, match, road)) << line;
      EXPECT_TRUE(roads.emplace(match[1], match[2]).second) << "two roads out of " << match[1];
    }
    for (const Question& question : sample.text.questions) {
      std::smatch ends;
      ASSERT_TRUE(std::regex_search(question.text, ends, std::regex("^Path from ([A-Z][a-z]+) to ([A-Z][a-z]+):")));
      std::string way = ends[1], at = ends[1];
      size_t num_hops = 0;
      for (; at != ends[2].str() && num_hops < 100; ++num_hops) {
        at = roads.at(at);
        way += " -> " + at;
      }
      EXPECT_EQ(question.answer, way);
      hops.insert(num_hops);
    }
  }
  EXPECT_LE(*hops.rbegin(), 60u);
  EXPECT_GT(*hops.rbegin(), 50u);
  EXPECT_LT(*hops.begin(), 10u);
}

TEST(Walk, AnswersGoRoundTheCycle) {
  std::set<size_t> sizes;
  for (int64_t idx = 0; idx < 60; ++idx) {
    const EncodedSample sample = Make("walk", 4000, 2, 1, idx);
    std::map<std::string, std::string> next;
    for (const std::string& line : LinesOf(sample.text.context)) {
      std::smatch match;
      ASSERT_TRUE(std::regex_match(line, match, std::regex("([A-Z][a-z]+) goes to ([A-Z][a-z]+)\\."))) << line;
      EXPECT_TRUE(next.emplace(match[1], match[2]).second);
    }
    sizes.insert(next.size());
    for (const Question& question : sample.text.questions) {
      std::smatch start;
      ASSERT_TRUE(std::regex_search(question.text, start, std::regex("^Start at ([A-Z][a-z]+) and write every step:")));
      std::string at = start[1];
      const std::vector<std::string> steps = LinesOf(question.answer);
      EXPECT_GE(steps.size(), next.size());
      for (const std::string& step : steps) {
        ASSERT_EQ(step, at);
        at = next.at(at);
      }
    }
  }
  EXPECT_GE(*sizes.begin(), 6u);
  EXPECT_LE(*sizes.rbegin(), 40u);
  EXPECT_GT(*sizes.rbegin(), *sizes.begin() + 20);
}

TEST(Tsv, AnswersHaveARowForEveryItem) {
  const EncodedSample sample = Make("tsv", 4000, 4);
  ASSERT_EQ(sample.text.questions.size(), 1u);  // there is one thing to ask
  EXPECT_THAT(sample.text.questions[0].text, StartsWith("TSV of name, city, extension:"));
  std::string rows;
  for (const std::string& line : LinesOf(sample.text.context)) {
    std::smatch match;
    ASSERT_TRUE(std::regex_match(
        line, match, std::regex("<li><b>([A-Z][a-z]+)</b> lives in <i>([A-Z][a-z]+)</i>, extension ([0-9]+)\\.</li>")))
        << line;
    rows += fmt::format("{}{}\t{}\t{}", rows.empty() ? "" : "\n", match[1].str(), match[2].str(), match[3].str());
  }
  EXPECT_EQ(sample.text.questions[0].answer, rows);
}

TEST(RulerNeedles, KindsAndCountsAreThoseOfTheTask) {
  const std::string word = "[a-z]+-[a-z]+", number = "[0-9]{7}",
                    uuid = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}";
  struct Row {
    const char* task;
    std::string key, value;
    int num_needles;  // 0: many
  };
  const Row rows[] = {{"niah_single_1", word, number, 1},   {"niah_single_2", word, number, 1},
                      {"niah_single_3", word, uuid, 1},     {"niah_multikey_1", word, number, 4},
                      {"niah_multikey_2", word, number, 0}, {"niah_multikey_3", uuid, uuid, 0}};
  for (const Row& row : rows) {
    const EncodedSample sample = Make(row.task, 9000);
    const std::string kind = row.value == uuid ? "uuid" : "number";
    const std::regex needle("One of the special magic " + kind + "s for (" + row.key + ") is: (" + row.value + ")\\.");
    std::map<std::string, std::string> found;
    const std::string& context = sample.text.context;
    for (auto it = std::sregex_iterator(context.begin(), context.end(), needle); it != std::sregex_iterator(); ++it)
      EXPECT_TRUE(found.emplace((*it)[1], (*it)[2]).second);
    if (row.num_needles > 0)
      EXPECT_EQ(found.size(), static_cast<size_t>(row.num_needles)) << row.task;
    else
      EXPECT_GT(found.size(), 40u) << row.task;
    const Question& question = sample.text.questions[0];
    std::smatch match;
    ASSERT_TRUE(std::regex_match(question.text, match,
                                 std::regex("What is the special magic " + kind + " for (" + row.key +
                                            ") mentioned in the provided text\\? The special magic " + kind +
                                            " for \\1 mentioned in the provided text is")))
        << question.text;
    EXPECT_EQ(question.answer, found.at(match[1])) << row.task;
    EXPECT_EQ(CountOf(context, question.answer), 1);
  }
}

}  // namespace
}  // namespace cachette
