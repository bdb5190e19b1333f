#include "text/marked_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace cachette {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(MarkedText, NeighboursBecomeOneRange) {
  MarkedText text = {"ab"};
  text.AppendLiteral("");
  EXPECT_THAT(text.literal, IsEmpty());
  text.AppendLiteral("cd");
  text.Append(MarkedText::Literal("e"));
  text.Append("f");
  text.Append(MarkedText::Literal(""));
  text.Append(MarkedText::Literal("g"));
  EXPECT_EQ(text.text, "abcdefg");
  EXPECT_THAT(text.literal, ElementsAre(TextRange{2, 5}, TextRange{6, 7}));
}

// Every part of a text with two ranges, against marks kept byte by byte.
TEST(MarkedText, PartsKeepTheirMarks) {
  MarkedText text = {"a"};
  text.AppendLiteral("bc");
  text.Append("de");
  text.AppendLiteral("f");
  const std::string marks = ".xx..x";
  for (size_t begin = 0; begin <= marks.size(); ++begin) {
    for (size_t count = 0; begin + count <= marks.size(); ++count) {
      const MarkedText part = text.Part(begin, count);
      EXPECT_EQ(part.text, text.text.substr(begin, count));
      std::string part_marks(count, '.');
      for (const TextRange& range : part.literal) {
        ASSERT_LT(range.begin, range.end);
        ASSERT_LE(range.end, count);
        for (size_t i = range.begin; i < range.end; ++i) part_marks[i] = 'x';
      }
      EXPECT_EQ(part_marks, marks.substr(begin, count)) << begin << " " << count;
    }
  }
  EXPECT_EQ(text.Part(std::string_view(text.text).substr(2, 2)).literal, text.Part(2, 2).literal);
  EXPECT_EQ(text.Part(std::string_view()).text, "");
}

}  // namespace
}  // namespace cachette
