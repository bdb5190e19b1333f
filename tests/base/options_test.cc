#include "base/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

namespace cachette {
namespace {

using ::testing::HasSubstr;

struct Sample {
  bool is_fast = false;
  int64_t num_sinks = 4;
  double share = 0.5;
  std::string path = "x";

  void VisitOptions(OptionVisitor& v) {
    v(is_fast, "is_fast", "whether");
    v(num_sinks, "sinks", "entries");
    v(share, "share", "fraction");
    v(path, "path", "file");
  }
};

TEST(Options, ListsNamesValuesAndHelpInOrder) {
  Sample sample;
  std::vector<OptionInfo> list;
  ListOptions(sample, "part.", list);
  ASSERT_EQ(list.size(), 4u);
  EXPECT_EQ(list[0].name, "part.is_fast");
  EXPECT_EQ(list[1].name, "part.sinks");
  EXPECT_EQ(list[1].help, "entries");
  EXPECT_EQ(list[0].value, OptionValue(false));
  EXPECT_EQ(list[1].value, OptionValue(int64_t{4}));
  EXPECT_EQ(list[2].value, OptionValue(0.5));
  EXPECT_EQ(list[3].value, OptionValue(std::string("x")));
}

TEST(Options, SetTouchesExactlyTheNamedField) {
  Sample sample;
  EXPECT_TRUE(SetOption(sample, "sinks", OptionValue(int64_t{7})));
  EXPECT_EQ(sample.num_sinks, 7);
  EXPECT_FALSE(sample.is_fast);
  EXPECT_EQ(sample.share, 0.5);
  EXPECT_FALSE(SetOption(sample, "sink", OptionValue(int64_t{7})));
  EXPECT_FALSE(SetOption(sample, "", OptionValue(int64_t{7})));
}

OptionValue Parsed(const char* text, const OptionValue& type) {
  const auto value = ParseOption("o", text, type);
  EXPECT_TRUE(value.ok()) << text;
  return value.ok() ? *value : type;
}
std::string Refusal(const char* text, const OptionValue& type) {
  const auto value = ParseOption("o", text, type);
  EXPECT_FALSE(value.ok()) << text;
  if (value.ok()) return "";
  EXPECT_EQ(value.failure().error, Error::kInvalidArgument);
  return value.failure().message;
}

TEST(Options, ParsesEveryType) {
  for (const char* yes : {"true", "on", "1", ""}) EXPECT_EQ(Parsed(yes, false), OptionValue(true)) << yes;
  for (const char* no : {"false", "off", "0"}) EXPECT_EQ(Parsed(no, true), OptionValue(false)) << no;
  EXPECT_EQ(Parsed("-12", int64_t{0}), OptionValue(int64_t{-12}));
  EXPECT_EQ(Parsed("9223372036854775807", int64_t{0}), OptionValue(std::numeric_limits<int64_t>::max()));
  EXPECT_EQ(Parsed("0.25", 0.0), OptionValue(0.25));
  EXPECT_EQ(Parsed("1e-3", 0.0), OptionValue(1e-3));
  EXPECT_EQ(Parsed("3", 0.0), OptionValue(3.0));
  EXPECT_EQ(Parsed("", std::string()), OptionValue(std::string()));
  EXPECT_EQ(Parsed("a b", std::string()), OptionValue(std::string("a b")));
}

TEST(Options, RefusesWhatIsNotOfTheType) {
  EXPECT_EQ(Refusal("maybe", false), "option o: 'maybe' is not true or false");
  for (const char* text : {"", " 4", "4 ", "4x", "x", "0x10", "4.0", "+4"})
    EXPECT_EQ(Refusal(text, int64_t{0}), "option o: '" + std::string(text) + "' is not a whole number");
  for (const char* text : {"", "a", "0.5x", "0,5", "."})
    EXPECT_EQ(Refusal(text, 0.0), "option o: '" + std::string(text) + "' is not a number");
}

TEST(Options, RefusesNumbersOutOfRange) {
  EXPECT_THAT(Refusal("9223372036854775808", int64_t{0}), HasSubstr("out of range"));
  EXPECT_THAT(Refusal("1e999", 0.0), HasSubstr("out of range"));
  for (const char* text : {"nan", "inf", "-inf", "NAN"}) EXPECT_THAT(Refusal(text, 0.0), HasSubstr("out of range"));
}

}  // namespace
}  // namespace cachette
