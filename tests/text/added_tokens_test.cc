#include "text/added_tokens.h"

#include <gtest/gtest.h>

namespace cachette {
namespace {

using Entry = AddedTokenMatcher::Entry;

TEST(AddedTokens, LeftmostThenLongestWins) {
  const AddedTokenMatcher matcher({{.text = "ab", .id = 1},
                                   {.text = "abcd", .id = 2},
                                   {.text = "b", .id = 3},
                                   {.text = "bcdef", .id = 4},
                                   {.text = "\n", .id = 5},
                                   {.text = "\n\n", .id = 6}});
  size_t at = 99;
  EXPECT_EQ(matcher.Find("xabcdef", 0, false, {}, at)->id, 2);
  EXPECT_EQ(at, 1u);
  EXPECT_EQ(matcher.Find("xabcdef", 2, false, {}, at)->id, 4);
  EXPECT_EQ(at, 2u);
  EXPECT_EQ(matcher.Find("abc", 0, false, {}, at)->id, 1);  // "abcd" is cut off
  EXPECT_EQ(matcher.Find("\n\n\n", 0, false, {}, at)->id, 6);
  EXPECT_EQ(matcher.Find("\n\n\n", 2, false, {}, at)->id, 5);
  EXPECT_EQ(matcher.Find("xyz", 0, false, {}, at), nullptr);
  EXPECT_EQ(matcher.Find("", 0, false, {}, at), nullptr);
  EXPECT_EQ(matcher.Find("ab", 2, false, {}, at), nullptr);
}

TEST(AddedTokens, ControlTokensOnlyWhenAsked) {
  const AddedTokenMatcher matcher({{.text = "<s>", .id = 1, .is_control = true},
                                   {.text = "<", .id = 2},
                                   {.text = "<s>x", .id = 3, .is_control = true}});
  size_t at = 0;
  EXPECT_EQ(matcher.Find("<s>x", 0, true, {}, at)->id, 3);
  EXPECT_EQ(matcher.Find("<s>y", 0, true, {}, at)->id, 1);
  EXPECT_EQ(matcher.Find("<s>y", 0, false, {}, at)->id, 2);
}

TEST(AddedTokens, ControlTokensDoNotReachIntoLiteralText) {
  const AddedTokenMatcher matcher({{.text = "<s>", .id = 1, .is_control = true},
                                   {.text = "<", .id = 2},
                                   {.text = "<s>x", .id = 3, .is_control = true}});
  const auto id_at_start = [&](std::vector<TextRange> literal) {
    size_t at = 0;
    return matcher.Find("<s>x", 0, true, literal, at)->id;
  };
  EXPECT_EQ(id_at_start({{0, 4}}), 2);  // user-defined tokens are text like any other
  EXPECT_EQ(id_at_start({{0, 1}}), 2);
  EXPECT_EQ(id_at_start({{1, 2}}), 2);
  EXPECT_EQ(id_at_start({{2, 3}, {3, 4}}), 2);
  EXPECT_EQ(id_at_start({{3, 4}}), 1);  // the shorter token ends where the literal text begins
  EXPECT_EQ(id_at_start({{4, 9}}), 3);
  size_t at = 0;
  const std::vector<TextRange> first_two = {{0, 3}, {3, 6}};
  EXPECT_EQ(matcher.Find("<s><s><s>", 1, true, first_two, at)->id, 2);
  EXPECT_EQ(at, 3u);
  EXPECT_EQ(matcher.Find("<s><s><s>", 4, true, first_two, at)->id, 1);
  EXPECT_EQ(at, 6u);
}

TEST(AddedTokens, EmptyMatcherFindsNothing) {
  size_t at = 0;
  EXPECT_EQ(AddedTokenMatcher().Find("anything", 0, true, {}, at), nullptr);
}

}  // namespace
}  // namespace cachette
