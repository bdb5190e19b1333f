#include "text/gguf_vocab.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "vocabularies.h"

namespace cachette {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

TEST(GgufVocab, UnknownNamesAreRefusedWithTheKnownOnes) {
  const auto vocab = SmolLm2Vocab();
  vocab->fields.pre = "klingon";
  Result<TokenizerSpec> spec = SpecFromGgufFields(vocab->fields);
  ASSERT_FALSE(spec.ok());
  EXPECT_EQ(spec.failure().error, Error::kUnsupported);
  EXPECT_THAT(spec.failure().message, AllOf(HasSubstr("\"klingon\""), HasSubstr("gpt-2"), HasSubstr("llama-bpe"),
                                            HasSubstr("qwen2"), HasSubstr("smollm"), HasSubstr("default")));
  vocab->fields.model = "bert";
  spec = SpecFromGgufFields(vocab->fields);
  ASSERT_FALSE(spec.ok());
  EXPECT_THAT(spec.failure().message, AllOf(HasSubstr("\"bert\""), HasSubstr("gpt2"), HasSubstr("llama")));
}

TEST(GgufVocab, FamiliesSetWhatGoesWithThem) {
  const auto vocab = SmolLm2Vocab();
  vocab->fields.add_bos.reset();
  const auto with_pre = [&](const char* pre) {
    vocab->fields.pre = pre;
    return *SpecFromGgufFields(vocab->fields);
  };
  EXPECT_TRUE(with_pre("llama-bpe").ignore_merges);
  EXPECT_THAT(with_pre("llama-bpe").prefix_ids, ElementsAre(1));
  EXPECT_TRUE(with_pre("qwen2").normalizes_nfc);
  EXPECT_TRUE(with_pre("qwen2").prefix_ids.empty());
  EXPECT_EQ(with_pre("smollm").pre_split.size(), 2u);
  EXPECT_EQ(with_pre("").pre_split.size(), with_pre("default").pre_split.size());
  vocab->fields.add_bos = false;
  EXPECT_TRUE(with_pre("llama-bpe").prefix_ids.empty());
}

TEST(GgufVocab, SentencePieceDefaultsAreLlamas) {
  const auto vocab = SentencePieceVocab();
  Result<TokenizerSpec> spec = SpecFromGgufFields(vocab->fields);
  ASSERT_TRUE(spec.ok());
  EXPECT_EQ(spec->space_prefix, SpacePrefix::kEveryFragment);
  EXPECT_THAT(spec->prefix_ids, ElementsAre(1));
  EXPECT_TRUE(spec->suffix_ids.empty());
  vocab->fields.add_space_prefix = false;
  vocab->fields.add_bos = false;
  spec = SpecFromGgufFields(vocab->fields);
  EXPECT_EQ(spec->space_prefix, SpacePrefix::kNever);
  EXPECT_TRUE(spec->prefix_ids.empty());
  vocab->fields.remove_extra_whitespaces = true;
  spec = SpecFromGgufFields(vocab->fields);
  ASSERT_FALSE(spec.ok());
  EXPECT_EQ(spec.failure().error, Error::kUnsupported);
}

TEST(GgufVocab, EndOfGenerationComesFromIdsAndNames) {
  const auto vocab = SmolLm2Vocab();
  vocab->fields.eot_id = 5;
  vocab->fields.eom_id = 7;
  const Result<TokenizerSpec> spec = SpecFromGgufFields(vocab->fields);
  EXPECT_THAT(spec->extra_end_ids, UnorderedElementsAre(5, 7, 0));  // 0 is <|endoftext|>; eos 2 stands apart
}

TEST(GgufVocab, CorruptArraysAreRefused) {
  const auto vocab = SmolLm2Vocab();
  vocab->merge_text[3] = "nospace";
  vocab->Point();
  Result<TokenizerSpec> spec = SpecFromGgufFields(vocab->fields);
  ASSERT_FALSE(spec.ok());
  EXPECT_EQ(spec.failure().error, Error::kCorrupt);
  EXPECT_THAT(spec.failure().message, AllOf(HasSubstr("merge 3"), HasSubstr("nospace")));
  for (const char* merge : {"", " ", " a", "a "}) {
    vocab->merge_text[3] = merge;
    vocab->Point();
    EXPECT_FALSE(SpecFromGgufFields(vocab->fields).ok()) << '"' << merge << '"';
  }
  vocab->merge_text[3] = "a b";
  vocab->types[4] = 7;
  vocab->Point();
  spec = SpecFromGgufFields(vocab->fields);
  ASSERT_FALSE(spec.ok());
  EXPECT_THAT(spec.failure().message, HasSubstr("token 4 has type 7"));
}

}  // namespace
}  // namespace cachette
