#include "io/json_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "io/temp_folder.h"

namespace cachette {
namespace {

using testing::HasSubstr;

TEST(JsonFile, ReadsValues) {
  const TempFolder folder;
  const auto json = ReadJsonFile(folder.Write("config.json", R"({"hidden_size": 576, "tie": true, "e": [1, 2.5]})"));
  ASSERT_TRUE(json.ok()) << json.failure().message;
  EXPECT_EQ((*json)["hidden_size"], 576);
  EXPECT_EQ((*json)["e"][1], 2.5);
}

TEST(JsonFile, NamesFileByteAndReason) {
  const TempFolder folder;
  const std::string path = folder.Write("config.json", R"({"a": 1,})");
  const auto json = ReadJsonFile(path);
  ASSERT_FALSE(json.ok());
  EXPECT_EQ(json.failure().error, Error::kCorrupt);
  EXPECT_THAT(json.failure().message, testing::StartsWith(path + ": not valid JSON at byte 9: syntax error"));
  EXPECT_EQ(ReadJsonFile(folder / "absent").failure().error, Error::kNotFound);
  EXPECT_EQ(ReadJsonFile(folder.Write("empty", "")).failure().error, Error::kCorrupt);
}

TEST(JsonFile, EveryTruncationFails) {
  const std::string text = R"({"a": [1, -2.5e3, "x\u00e9", null, true], "b": {"c": {}}})";
  ASSERT_TRUE(ParseJson(text, "t").ok());
  for (size_t keep = 0; keep < text.size(); ++keep) EXPECT_FALSE(ParseJson(text.substr(0, keep), "t").ok()) << keep;
}

TEST(JsonFile, MessagesHoldNothingUnprintable) {
  const auto json = ParseJson("{\"a\": \x1b[31m\xff\n}", "t");
  ASSERT_FALSE(json.ok());
  for (const char c : json.failure().message) EXPECT_TRUE(c >= 0x20 && c < 0x7f);
}

TEST(JsonFile, RepeatedKeys) {
  const char* const text = R"({"a": 1, "b": {"a": 2, "c": {"a": 3}, "c": 4}})";
  ASSERT_TRUE(ParseJson(text, "t").ok());
  EXPECT_EQ((*ParseJson(text, "t"))["b"]["c"], 4);
  const auto refused = ParseJson(text, "t", RepeatedKeys::kRefuse);
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.failure().message, HasSubstr("'c' occurs twice"));
  // The same key in different objects is none.
  EXPECT_TRUE(ParseJson(R"({"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]})", "t", RepeatedKeys::kRefuse).ok());
}

}  // namespace
}  // namespace cachette
