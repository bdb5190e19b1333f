#include "text/tokenizer_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "vocabularies.h"

namespace cachette {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A byte-level tokenizer of three letters.
json Small() {
  return json::parse(R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}, "normalizer": null,
    "post_processor": null, "added_tokens": [{"id": 3, "content": "<s>", "special": true}, {"id": 4, "content": "<t>"}]})");
}

Result<TokenizerSpec> Read(const json& tokenizer, const json& config = json::object()) {
  return SpecFromTokenizerJson(tokenizer.dump(), config.dump());
}

TEST(TokenizerJson, ReadsModelAndAddedTokens) {
  const Result<TokenizerSpec> spec = Read(Small());
  ASSERT_TRUE(spec.ok()) << spec.failure().message;
  EXPECT_EQ(spec->kind, TokenizerKind::kByteLevelBpe);
  EXPECT_THAT(spec->tokens, ElementsAre("a", "b", "ab", "<s>", "<t>"));
  EXPECT_THAT(spec->types, ElementsAre(TokenType::kNormal, TokenType::kNormal, TokenType::kNormal, TokenType::kControl,
                                       TokenType::kUserDefined));
  const Result<Tokenizer> tokenizer = Tokenizer::Create(*spec);
  EXPECT_THAT(*tokenizer->Encode("ab<s>ba<t>"), ElementsAre(2, 3, 1, 0, 4));
}

TEST(TokenizerJson, MergesMayBePairsAndIdsMayHaveGaps) {
  json small = Small();
  small["model"]["merges"] = json::parse(R"([["a", "b"]])");
  small["added_tokens"][0]["id"] = 7;
  const Result<TokenizerSpec> spec = Read(small);
  ASSERT_TRUE(spec.ok()) << spec.failure().message;
  ASSERT_EQ(spec->tokens.size(), 8u);
  EXPECT_EQ(spec->types[5], TokenType::kUnused);
  EXPECT_TRUE(Tokenizer::Create(*spec).ok());
}

TEST(TokenizerJson, ConfigNamesSpecialTokensAndTemplate) {
  json config = {
      {"bos_token", "<s>"}, {"eos_token", {{"content", "<t>"}}}, {"chat_template", "hello"}, {"add_bos_token", true}};
  Result<TokenizerSpec> spec = Read(Small(), config);
  EXPECT_EQ(spec->bos_id, 3);
  EXPECT_EQ(spec->eos_id, 4);
  EXPECT_EQ(spec->pad_id, -1);
  EXPECT_EQ(spec->chat_template, "hello");
  EXPECT_THAT(spec->prefix_ids, ElementsAre(3));
  config["chat_template"] =
      json::parse(R"([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}])");
  config["add_bos_token"] = false;
  config["add_eos_token"] = true;
  spec = Read(Small(), config);
  EXPECT_EQ(spec->chat_template, "d");
  EXPECT_TRUE(spec->prefix_ids.empty());
  EXPECT_THAT(spec->suffix_ids, ElementsAre(4));
}

TEST(TokenizerJson, PostProcessorAddsUnlessTheConfigSaysNo) {
  json small = Small();
  small["post_processor"] = json::parse(
      R"({"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "TemplateProcessing",
          "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<t>"}}]}]})");
  Result<TokenizerSpec> spec = Read(small);
  ASSERT_TRUE(spec.ok()) << spec.failure().message;
  EXPECT_THAT(spec->prefix_ids, ElementsAre(3));
  EXPECT_THAT(spec->suffix_ids, ElementsAre(4));
  spec = Read(small, {{"bos_token", "<s>"}, {"add_bos_token", false}});
  EXPECT_TRUE(spec->prefix_ids.empty());
  EXPECT_THAT(spec->suffix_ids, ElementsAre(4));
}

TEST(TokenizerJson, PrefixSpaceOfByteLevel) {
  json small = Small();
  small["pre_tokenizer"]["add_prefix_space"] = true;
  small["model"]["vocab"] = {{"a", 0}, {"b", 1}, {"ab", 2}, {"\u0120", 5}};
  const Result<Tokenizer> tokenizer = Tokenizer::Create(*Read(small));
  EXPECT_THAT(*tokenizer->Encode("a"), ElementsAre(5, 0));
  EXPECT_THAT(*tokenizer->Encode(" a"), ElementsAre(5, 0));  // has one already
  EXPECT_THAT(*tokenizer->Encode("a<s>a"), ElementsAre(5, 0, 3, 5, 0));
}

TEST(TokenizerJson, WhatIsNotImplementedIsNamed) {
  const std::vector<std::pair<std::function<void(json&)>, const char*>> cases = {
      {[](json& t) { t["model"]["type"] = "Unigram"; }, "Unigram"},
      {[](json& t) { t["model"]["type"] = "WordPiece"; }, "WordPiece"},
      {[](json& t) { t["model"]["end_of_word_suffix"] = "</w>"; }, "end_of_word_suffix"},
      {[](json& t) { t["model"]["dropout"] = 0.1; }, "dropout"},
      {[](json& t) {
         t["normalizer"] = {{"type", "NFKC"}};
       },
       "NFKC"},
      {[](json& t) {
         t["normalizer"] = json::parse(R"({"type": "Sequence", "normalizers": [{"type": "Lowercase"}]})");
       },
       "Lowercase"},
      {[](json& t) {
         t["normalizer"] = json::parse(R"({"type": "Replace", "pattern": {"String": "x"}, "content": "y"})");
       },
       "Replace"},
      {[](json& t) {
         t["pre_tokenizer"] = {{"type", "Whitespace"}};
       },
       "Whitespace"},
      {[](json& t) { t["pre_tokenizer"] = nullptr; }, "neither byte-level nor"},
      {[](json& t) { t["model"]["byte_fallback"] = true; }, "byte_fallback"},
      {[](json& t) {
         t["pre_tokenizer"] = json::parse(R"({"type": "Sequence", "pretokenizers": [
             {"type": "Split", "pattern": {"Regex": "x"}, "behavior": "MergedWithNext"}, {"type": "ByteLevel"}]})");
       },
       "MergedWithNext"},
      {[](json& t) {
         t["post_processor"] = {{"type", "BertProcessing"}};
       },
       "BertProcessing"},
      {[](json& t) { t["added_tokens"][0]["single_word"] = true; }, "single_word"},
  };
  for (const auto& [change, name] : cases) {
    json tokenizer = Small();
    change(tokenizer);
    const Result<TokenizerSpec> spec = Read(tokenizer);
    ASSERT_FALSE(spec.ok()) << name;
    EXPECT_EQ(spec.failure().error, Error::kUnsupported) << spec.failure().message;
    EXPECT_THAT(spec.failure().message, HasSubstr(name));
  }
}

TEST(TokenizerJson, BrokenFilesAreRefused) {
  const auto corrupt = [](const Result<TokenizerSpec>& spec, const char* message) {
    ASSERT_FALSE(spec.ok()) << message;
    EXPECT_EQ(spec.failure().error, Error::kCorrupt);
    EXPECT_THAT(spec.failure().message, HasSubstr(message));
  };
  corrupt(SpecFromTokenizerJson("", ""), "not a JSON object");
  corrupt(SpecFromTokenizerJson("[1]", ""), "not a JSON object");
  corrupt(SpecFromTokenizerJson(Small().dump(), "nonsense"), "tokenizer_config.json");
  const std::vector<std::pair<std::function<void(json&)>, const char*>> cases = {
      {[](json& t) { t["model"]["vocab"] = json::array(); }, "vocab"},
      {[](json& t) { t["model"]["vocab"]["a"] = "x"; }, "id of token \"a\""},
      {[](json& t) { t["model"]["vocab"]["a"] = -1; }, "id of token \"a\""},
      {[](json& t) { t["model"]["vocab"]["a"] = 1 << 30; }, "id of token \"a\""},
      {[](json& t) { t["model"]["merges"] = 5; }, "merges"},
      {[](json& t) { t["model"]["merges"][0] = 5; }, "merge"},
      {[](json& t) { t["model"]["merges"][0] = "ab"; }, "\"ab\""},
      {[](json& t) { t["added_tokens"][0].erase("content"); }, "content"},
      {[](json& t) { t["added_tokens"][0]["id"] = nullptr; }, "<s>"},
      {[](json& t) { t["added_tokens"] = 3; }, "added token"},
      {[](json& t) {
         t["post_processor"] =
             json::parse(R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<x>"}}]})");
       },
       "<x>"},
  };
  for (const auto& [change, message] : cases) {
    json tokenizer = Small();
    change(tokenizer);
    corrupt(Read(tokenizer), message);
  }
}

}  // namespace
}  // namespace cachette
