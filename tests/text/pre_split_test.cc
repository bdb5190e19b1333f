#include "text/pre_split.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "recorded.h"

namespace cachette {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<std::string> SplitBy(const std::vector<SplitRule>& rules, std::string_view text) {
  const Result<PreSplitter> splitter = PreSplitter::Create(rules);
  EXPECT_TRUE(splitter.ok());
  std::vector<std::string_view> pieces;
  EXPECT_TRUE(splitter->Split(text, pieces).ok());
  return {pieces.begin(), pieces.end()};
}

const PreSplitFamily& Family(std::string_view name) {
  for (const PreSplitFamily& family : PreSplitFamilies()) {
    if (std::ranges::find(family.names, name) != family.names.end()) return family;
  }
  ADD_FAILURE() << "no family " << name;
  return PreSplitFamilies()[0];
}

TEST(PreSplit, FamiliesDifferWhereTheyAreKnownTo) {
  const char* text = "I'LL pay 1234\n\n  now!";
  EXPECT_THAT(SplitBy(Family("gpt-2").rules, text), ElementsAre("I", "'", "LL", " pay", " 1234", "\n\n ", " now", "!"));
  EXPECT_THAT(SplitBy(Family("smollm").rules, text),
              ElementsAre("I", "'", "LL", " pay", " ", "1", "2", "3", "4", "\n\n ", " now", "!"));
  EXPECT_THAT(SplitBy(Family("llama-bpe").rules, text),
              ElementsAre("I", "'LL", " pay", " ", "123", "4", "\n\n", " ", " now", "!"));
  EXPECT_THAT(SplitBy(Family("qwen2").rules, text),
              ElementsAre("I", "'LL", " pay", " ", "1", "2", "3", "4", "\n\n", " ", " now", "!"));
}

TEST(PreSplit, PiecesAreTheTextForEveryFamilyAndText) {
  for (const PreSplitFamily& family : PreSplitFamilies()) {
    for (const auto& text : RecordedJson("texts.json")) {
      std::string joined;
      for (const std::string& piece : SplitBy(family.rules, text.get<std::string>())) {
        EXPECT_FALSE(piece.empty());
        joined += piece;
      }
      EXPECT_EQ(joined, text.get<std::string>()) << family.names[0];
    }
  }
}

TEST(PreSplit, NoRulesAndEmptyText) {
  EXPECT_THAT(SplitBy({}, "a b"), ElementsAre("a b"));
  EXPECT_THAT(SplitBy({}, ""), IsEmpty());
  EXPECT_THAT(SplitBy({{"x*"}}, "aa"), ElementsAre("aa"));  // empty matches cut nothing
  EXPECT_THAT(SplitBy({{"[a-z]+", /*drops_gaps=*/true}}, "ab, cd!"), ElementsAre("ab", "cd"));
}

TEST(PreSplit, SpaceIsUnicodeWhiteSpace) {
  // PCRE2's own \s also matches U+180E, which is not white space in Unicode.
  EXPECT_THAT(SplitBy({{R"(\s)"}}, "a\u180eb\u2003c\u0085d"), ElementsAre("a\u180eb", "\u2003", "c", "\u0085", "d"));
  EXPECT_THAT(SplitBy({{R"([^\s]+)"}}, "a\u180eb\u3000c"), ElementsAre("a\u180eb", "\u3000", "c"));
  EXPECT_THAT(SplitBy({{R"(\S+)"}}, "a\u180eb c"), ElementsAre("a\u180eb", " ", "c"));
}

// A regular expression that backtracks per character would need 10^10 steps per text here.
TEST(PreSplit, AdversarialTextTakesLinearTime) {
  constexpr size_t kBytes = 1 << 18;
  std::vector<std::string> texts;
  for (const char* unit :
       {" ", "\n", "\r", " \n", "\t ", "a", "'", "1", "!", "' ", "\u00a0", "é", "\u0301", "'l", " !", "\n\n "}) {
    std::string text;
    while (text.size() < kBytes) text += unit;
    texts.push_back(text);
    texts.push_back(text + "x");
    texts.push_back("x" + text + "\u4e00");
  }
  const auto start = std::chrono::steady_clock::now();
  size_t num_bytes = 0;
  for (const char* name : {"gpt-2", "smollm", "llama-bpe", "qwen2", "default"}) {
    const Result<PreSplitter> splitter = PreSplitter::Create(Family(name).rules);
    ASSERT_TRUE(splitter.ok());
    for (const std::string& text : texts) {
      std::vector<std::string_view> pieces;
      const Result<void> split = splitter->Split(text, pieces);
      ASSERT_TRUE(split.ok()) << name << ": " << split.failure().message;
      num_bytes += text.size();
    }
  }
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  EXPECT_LT(taken.count() / static_cast<double>(num_bytes), 1e-6) << "seconds per byte";  // 1 MB/s, sanitizers included
}

TEST(PreSplit, PatternsThatCannotBeReadAreRefused) {
  for (const char* pattern : {"(", "[a-z&&[^x]]", R"(\h+)", R"(a\Kb)", R"(\C)", "(?<n>a", R"(\p{NoSuchThing})"}) {
    const Result<PreSplitter> splitter = PreSplitter::Create({{pattern}});
    ASSERT_FALSE(splitter.ok()) << pattern;
    EXPECT_EQ(splitter.failure().error, Error::kUnsupported);
    EXPECT_THAT(splitter.failure().message, HasSubstr(pattern));
  }
}

TEST(PreSplit, AFilesRunawayPatternFailsInsteadOfHanging) {
  const Result<PreSplitter> splitter = PreSplitter::Create({{"(?:a|a|aa)+$"}});
  ASSERT_TRUE(splitter.ok());
  std::vector<std::string_view> pieces;
  const std::string text = std::string(200, 'a') + "b";
  const Result<void> split = splitter->Split(text, pieces);
  ASSERT_FALSE(split.ok());
  EXPECT_EQ(split.failure().error, Error::kUnsupported);
  EXPECT_THAT(split.failure().message, HasSubstr("(?:a|a|aa)+$"));
}

}  // namespace
}  // namespace cachette
