#include "eval/fidelity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "support/tiny_engine.h"

namespace cachette {
namespace {

using test::TinyEngine;

std::string Text(size_t num_bytes) {
  std::string text;
  for (size_t i = 0; text.size() < num_bytes; ++i) text += "line " + std::to_string(i * i) + "\n";
  text.resize(num_bytes);
  return text;
}

TEST(Kl, OfTwoCoins) {
  const float p[] = {0.0f, 0.0f}, q[] = {0.0f, std::log(3.0f)};
  const double expected = 0.5 * std::log(0.5 / 0.25) + 0.5 * std::log(0.5 / 0.75);
  EXPECT_NEAR(KlDivergence(p, q), expected, 1e-7);  // logits are floats
  const float shifted[] = {100.0f, 100.0f};
  EXPECT_NEAR(KlDivergence(shifted, q), expected, 1e-7);
  EXPECT_EQ(KlDivergence(p, p), 0.0);
}

TEST(Fidelity, OfTheFullCacheIsPerfect) {
  const auto engine = TinyEngine();
  const auto full = engine->MakeRecipe("full", {});
  ASSERT_TRUE(full.ok());
  const auto result = MeasureFidelity(*engine, *full, Text(600), {.text_tokens = 500, .decode_tokens = 40}, 128);
  ASSERT_TRUE(result.ok()) << result.failure().message;
  EXPECT_EQ(result->prompt_tokens, 500 - 40 - 1);
  EXPECT_EQ(result->compared_tokens, 40);
  EXPECT_EQ(result->kl_max, 0.0);
  EXPECT_EQ(result->top1_agreement, 1.0);
  EXPECT_EQ(result->perplexity, result->perplexity_full);
  EXPECT_GT(result->perplexity, 1.0);
  EXPECT_EQ(result->footprint, 1.0);
  EXPECT_EQ(result->peak, 1.0);
}

TEST(Fidelity, FallsWithTheFootprint) {
  const auto engine = TinyEngine();
  double last_kl = 0;
  double last_footprint = 1;
  for (const char* budget : {"200", "16"}) {
    const auto recipe = engine->MakeRecipe("streaming", {{"budget", budget}});
    ASSERT_TRUE(recipe.ok());
    const auto result = MeasureFidelity(*engine, *recipe, Text(600), {.text_tokens = 0, .decode_tokens = 60}, 64);
    ASSERT_TRUE(result.ok()) << result.failure().message;
    EXPECT_GT(result->kl_mean, last_kl);
    EXPECT_LE(result->kl_median, result->kl_p90);
    EXPECT_LE(result->kl_p90, result->kl_p99);
    EXPECT_LE(result->kl_p99, result->kl_max);
    EXPECT_LT(result->footprint, last_footprint);
    last_kl = result->kl_mean;
    last_footprint = result->footprint;
  }
}

TEST(Fidelity, BadInputIsOneSentence) {
  const auto engine = TinyEngine();
  const auto full = *engine->MakeRecipe("full", {});
  const auto refuse = [&](const std::string& text, const FidelityOptions& options, const char* part) {
    const auto result = MeasureFidelity(*engine, full, text, options, 64);
    ASSERT_FALSE(result.ok()) << part;
    EXPECT_EQ(result.failure().error, Error::kInvalidArgument);
    EXPECT_THAT(result.failure().message, testing::HasSubstr(part));
  };
  refuse("", {}, "too few");
  refuse(Text(100), {.text_tokens = 0, .decode_tokens = 100}, "--decode-tokens");
  refuse(Text(100), {.text_tokens = 10, .decode_tokens = 10}, "--text-tokens");
  refuse(Text(100), {.text_tokens = -1, .decode_tokens = 10}, "text_tokens is -1");
  refuse(Text(100), {.text_tokens = 0, .decode_tokens = 0}, "decode_tokens is 0");
}

}  // namespace
}  // namespace cachette
