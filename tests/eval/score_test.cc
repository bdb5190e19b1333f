#include "eval/score.h"

#include <gtest/gtest.h>

namespace cachette {
namespace {

TEST(Score, NumbersEndWhereTheirDigitsEnd) {
  EXPECT_EQ(AnswerIn(AnswerForm::kNumber, " 12345\",", "12345"), "12345");
  EXPECT_FALSE(IsAnswerComplete(AnswerForm::kNumber, "", "12345"));
  EXPECT_FALSE(IsAnswerComplete(AnswerForm::kNumber, "\n 12345", "12345"));
  EXPECT_TRUE(IsAnswerComplete(AnswerForm::kNumber, "12345.", "12345"));
  EXPECT_TRUE(IsAnswerComplete(AnswerForm::kNumber, "no", "12345"));
  EXPECT_EQ(ScoreReply(AnswerForm::kNumber, "12345", "12345").exact, 1.0);
  EXPECT_EQ(ScoreReply(AnswerForm::kNumber, "12345\nmore", "12345").exact, 1.0);
  EXPECT_EQ(ScoreReply(AnswerForm::kNumber, "123456", "12345").exact, 0.0);
  EXPECT_EQ(ScoreReply(AnswerForm::kNumber, "12395", "12345").exact, 0.0);
  EXPECT_DOUBLE_EQ(ScoreReply(AnswerForm::kNumber, "12395", "12345").prefix_share, 0.6);
  EXPECT_EQ(ScoreReply(AnswerForm::kNumber, "", "12345").prefix_share, 0.0);
  EXPECT_EQ(ScoreReply(AnswerForm::kNumber, "about 12345", "12345").exact, 0.0);
}

TEST(Score, LinesEndWithTheirNewline) {
  EXPECT_FALSE(IsAnswerComplete(AnswerForm::kLine, "\na -> b", "a -> b"));
  EXPECT_TRUE(IsAnswerComplete(AnswerForm::kLine, "a -> b\n", "a -> b"));
  EXPECT_EQ(ScoreReply(AnswerForm::kLine, " a -> b \nFrom", "a -> b").exact, 1.0);
  EXPECT_EQ(ScoreReply(AnswerForm::kLine, "a -> b -> c", "a -> b").exact, 0.0);
  EXPECT_EQ(ScoreReply(AnswerForm::kLine, "a -> c", "a -> b").exact, 0.0);
}

TEST(Score, AsManyLinesCountAsTheAnswerHas) {
  const char* const answer = "a\tb\nc\td\ne\tf";
  EXPECT_FALSE(IsAnswerComplete(AnswerForm::kLines, "a\tb\nc\td\ne\tf", answer));
  EXPECT_TRUE(IsAnswerComplete(AnswerForm::kLines, "a\tb\nc\td\ne\tf\n", answer));
  EXPECT_EQ(ScoreReply(AnswerForm::kLines, "\na\tb\nc\td\ne\tf\ng\th\n", answer).exact, 1.0);
  EXPECT_EQ(ScoreReply(AnswerForm::kLines, "a\tb\nc\td", answer).exact, 0.0);
  EXPECT_DOUBLE_EQ(ScoreReply(AnswerForm::kLines, "a\tb\nc\td", answer).prefix_share, 7.0 / 11.0);
  EXPECT_DOUBLE_EQ(ScoreReply(AnswerForm::kLines, "a\tb\nx\td\ne\tf", answer).prefix_share, 4.0 / 11.0);
}

TEST(Score, RulersAnswersMayStandAnywhere) {
  EXPECT_FALSE(IsAnswerComplete(AnswerForm::kContained, "it is 1234567.\n", "1234567"));  // it is asked for 128 tokens
  EXPECT_EQ(ScoreReply(AnswerForm::kContained, "well, it is 1234567.", "1234567").exact, 1.0);
  EXPECT_EQ(ScoreReply(AnswerForm::kContained, "ABCD-12", "abcd-12").exact, 1.0);
  EXPECT_EQ(ScoreReply(AnswerForm::kContained, "123456", "1234567").exact, 0.0);
}

}  // namespace
}  // namespace cachette
