#include "text/unicode_nfc.h"

#include <gtest/gtest.h>

#include "recorded.h"
#include "text/utf8.h"

namespace cachette {
namespace {

TEST(UnicodeNfc, EqualsPythonOnRandomMarksAndLetters) {
  const auto rows = RecordedJson("nfc.json");
  ASSERT_GE(rows.size(), 400u);
  for (const auto& row : rows) {
    const std::string text = row[0], expected = row[1];
    EXPECT_EQ(ToNfc(text), expected) << row.dump();
    EXPECT_EQ(ToNfc(expected), expected);
    EXPECT_TRUE(text == expected || !IsCertainlyNfc(text)) << row.dump();
  }
}

TEST(UnicodeNfc, QuickCheckNeverPassesWhatChanges) {
  for (uint32_t c = 0; c < 0x30000; ++c) {
    if (c >= 0xd800 && c <= 0xdfff) continue;
    for (const char* before : {"", "e", "\u0b47", "\u1100"}) {
      std::string text = before;
      AppendUtf8(c, text);
      ASSERT_TRUE(!IsCertainlyNfc(text) || ToNfc(text) == text) << std::hex << c;
    }
  }
}

TEST(UnicodeNfc, CommonTextPassesTheQuickCheck) {
  for (const char* text :
       {"", "plain", "Größe ŒUVRE", "Нещо", "Ελληνικά", "日本語のテキスト", "한국어", "العربية", "🙂👍🏽"}) {
    EXPECT_TRUE(IsCertainlyNfc(text)) << text;
  }
}

}  // namespace
}  // namespace cachette
