#include "text/utf8.h"

#include <gtest/gtest.h>

#include <vector>

namespace cachette {
namespace {

std::string Encoded(uint32_t c) {
  std::string text;
  AppendUtf8(c, text);
  return text;
}

TEST(Utf8, EveryCodePointRoundTrips) {
  for (uint32_t c = 0; c < 0x110000; ++c) {
    const std::string text = Encoded(c);
    const bool is_surrogate = c >= 0xd800 && c <= 0xdfff;
    ASSERT_EQ(FindInvalidUtf8(text), is_surrogate ? 0 : std::string_view::npos) << std::hex << c;
    size_t pos = 0;
    ASSERT_EQ(NextCodePoint(text, pos), c);
    ASSERT_EQ(pos, text.size());
  }
}

// Of all strings of up to three bytes, exactly the encodings of code points (and their joins) are valid.
TEST(Utf8, TwoAndThreeByteStringsAreValidOnlyWhenTheyDecode) {
  size_t num_valid_two = 0, num_valid_three = 0;
  for (int a = 0; a < 256; ++a) {
    for (int b = 0; b < 256; ++b) {
      const std::string two{static_cast<char>(a), static_cast<char>(b)};
      num_valid_two += FindInvalidUtf8(two) == std::string_view::npos;
      if (a < 0x80) continue;
      for (int c = 0; c < 256; ++c)
        num_valid_three += FindInvalidUtf8(two + static_cast<char>(c)) == std::string_view::npos;
    }
  }
  EXPECT_EQ(num_valid_two, 128u * 128 + 1920);                         // two ASCII, or U+0080 to U+07FF
  EXPECT_EQ(num_valid_three, 1920u * 128 + (0x10000 - 0x800 - 2048));  // starting with a non-ASCII byte
}

TEST(Utf8, InvalidBytesAreFoundWhereTheyStart) {
  const std::vector<std::pair<std::string, size_t>> cases = {{"\x80", 0},
                                                             {"abc\xff", 3},
                                                             {"abcdefgh\xc0\x80", 8},
                                                             {"\xe0\x80\x80", 0},
                                                             {"\xed\xa0\x80", 0},
                                                             {"\xf0\x80\x80\x80", 0},
                                                             {"\xf4\x90\x80\x80", 0},
                                                             {"é\xc3", 2},
                                                             {"1234567\xe2\x82", 7},
                                                             {"\xf8\x88\x80\x80\x80", 0}};
  for (const auto& [text, at] : cases) EXPECT_EQ(FindInvalidUtf8(text), at) << text;
  EXPECT_EQ(FindInvalidUtf8(""), std::string_view::npos);
}

TEST(Utf8, CompletePartIsTakenAndTheRestWaits) {
  const std::string text = "aé漢🙂";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    std::string pending = text.substr(0, cut), out;
    TakeCompleteUtf8(pending, out);
    EXPECT_EQ(FindInvalidUtf8(out), std::string_view::npos);
    EXPECT_EQ(out + pending, text.substr(0, cut));
    EXPECT_LT(pending.size(), 4u);
  }
  std::string pending = "a\xff\xe2\x82z\xf0\x9f", out;
  TakeCompleteUtf8(pending, out);
  EXPECT_EQ(out, "a\ufffd\ufffd\ufffdz");
  EXPECT_EQ(pending, "\xf0\x9f");
}

TEST(Utf8, SpacesAreUnicodesAndPythons) {
  size_t num_unicode = 0, num_python = 0;
  for (uint32_t c = 0; c < 0x110000; ++c) {
    num_unicode += IsUnicodeSpace(c);
    num_python += IsPythonSpace(c);
  }
  EXPECT_EQ(num_unicode, 25u);  // White_Space of PropList.txt
  EXPECT_EQ(num_python, 29u);   // sum(chr(c).isspace() for c in range(0x110000))
}

}  // namespace
}  // namespace cachette
