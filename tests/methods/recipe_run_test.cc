// What a run remembers between passes: prompts, decoded tokens, queries.

#include "methods/recipe_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "methods/pass_driver.h"

namespace cachette {
namespace {

using Options = std::map<std::string, std::string>;

class Running {
 public:
  Running(const char* name, const Options& options)
      : cache_(tier_, ShapeOf(name, options)), driver_(Made(name, options), cache_) {}

  PassDriver& driver() { return driver_; }
  SequenceCache& cache() { return cache_; }
  int64_t num_live() const { return cache_.stream(1, 0).num_live(); }
  std::vector<int32_t> Positions() const {
    std::vector<int32_t> positions;
    const HeadStream& stream = cache_.stream(1, 0);
    for (int64_t slot = 0; slot < stream.num_slots(); ++slot)
      if (stream.IsLive(slot)) positions.push_back(stream.positions()[static_cast<size_t>(slot)]);
    return positions;
  }
  // The first part of a prompt that is never finished.
  void BeginPrompt(int64_t num_tokens) {
    driver_.Pass({.phase = Phase::kPrefill, .first_token = cache_.num_tokens(), .num_tokens = num_tokens});
  }

 private:
  static Recipe Made(const char* name, const Options& options) {
    auto recipe = Recipe::Create(name, options);
    EXPECT_TRUE(recipe.ok()) << recipe.failure().message;
    EXPECT_TRUE(recipe->Prepare({.num_layers = 2, .num_kv_heads = 2, .format = {Dtype::kF16, 8}}).ok());
    return *std::move(recipe);
  }
  static CacheShape ShapeOf(const char* name, const Options& options) {
    return {.num_layers = 2,
            .num_kv_heads = 2,
            .format = {Dtype::kF16, 8},
            .has_scores = Made(name, options).has_running_score()};
  }

  Tier tier_{TierKind::kHost};
  SequenceCache cache_;
  PassDriver driver_;
};

TEST(RecipeRun, LooksOnlyForRecipesThatScore) {
  EXPECT_FALSE(Running("full", {}).driver().run().observes());
  EXPECT_FALSE(Running("streaming", {}).driver().run().observes());
  EXPECT_TRUE(Running("knorm", {}).driver().run().observes());
}

TEST(RecipeRun, AStepThatDidNotFitDoesNotCount) {
  Running run("rkv", {{"budget", "20"}, {"scorer.window", "4"}, {"trigger.decode_every", "4"}});
  run.driver().Prefill(30, 30);
  ASSERT_EQ(run.num_live(), 20);
  for (int64_t token = 1; token <= 12; ++token) {
    // The engine opens the pass with the recipe before it finds that there is no room.
    run.driver().run().BeforePass(run.driver().cx(), run.cache(),
                                  {.phase = Phase::kDecode, .first_token = run.cache().num_tokens(), .num_tokens = 1});
    run.driver().Decode(1);
    EXPECT_EQ(run.num_live(), 20 + token % 4) << token;
  }
}

TEST(RecipeRun, AFractionLeavesEarlierTurnsAlone) {
  for (const char* prefill : {"post_fill", "chunked"}) {
    Running run("snapkv", {{"keep_fraction", "0.5"}, {"scorer.window", "3"}, {"trigger.prefill", prefill}});
    run.driver().Prefill(40, 10);
    run.driver().Decode(6);
    const std::vector<int32_t> before = run.Positions();
    EXPECT_EQ(before.size(), 26u);
    run.driver().Prefill(30, 10);
    const std::vector<int32_t> after = run.Positions();
    EXPECT_EQ(after.size(), 26u + 15u);
    EXPECT_TRUE(std::equal(before.begin(), before.end(), after.begin()));
  }
}

TEST(RecipeRun, ABudgetIsOneForAllTurns) {
  for (const char* prefill : {"post_fill", "chunked"}) {
    Running run("snapkv", {{"budget", "24"}, {"scorer.window", "3"}, {"trigger.prefill", prefill}});
    run.driver().Prefill(40, 10);
    EXPECT_EQ(run.num_live(), 24);
    run.driver().Decode(6);
    EXPECT_EQ(run.num_live(), 30);
    run.driver().Prefill(30, 10);
    EXPECT_EQ(run.num_live(), 24);
  }
}

TEST(RecipeRun, PlacesOfTheOutputAreThoseThatThePromptsWereLeftWith) {
  Running run("tova", {{"keep_fraction", "0.5"}});
  run.driver().Prefill(40, 40);
  run.driver().Decode(5);
  EXPECT_EQ(run.num_live(), 20);
  run.driver().Prefill(20, 7);
  EXPECT_EQ(run.num_live(), 30);
  run.driver().Decode(5);
  EXPECT_EQ(run.num_live(), 30);
}

// A prompt that was broken off is part of the one that takes it up, but not of one after an answer.
TEST(RecipeRun, AnUnfinishedPromptIsTakenUp) {
  Running taken_up("knorm", {{"keep_fraction", "0.5"}});
  taken_up.BeginPrompt(20);
  taken_up.driver().Prefill(20, 20);
  EXPECT_EQ(taken_up.num_live(), 20);

  Running answered("knorm", {{"keep_fraction", "0.5"}});
  answered.BeginPrompt(20);
  answered.driver().Decode(1);
  answered.driver().Prefill(20, 20);
  EXPECT_EQ(answered.num_live(), 20 + 1 + 10);
}

// Two layers remember three queries of two heads in each of two groups; nothing looks back during the output.
TEST(RecipeRun, RememberedQueriesAreMetadata) {
  Running run("snapkv", {{"keep_fraction", "1"}, {"scorer.window", "3"}});
  run.driver().Prefill(10, 10);
  const int64_t bytes = 2 * 3 * (2 * PassDriver::kGroupSize * 8) * static_cast<int64_t>(sizeof(float));
  const Ledger& ledger = run.cache().ledger();
  EXPECT_EQ(ledger.ByteArea(TierKind::kHost), 2 * 2 * Triangle(10) * 32 + 10 * bytes);
  run.driver().Decode(1);
  run.driver().Decode(1);
  EXPECT_EQ(ledger.ByteArea(TierKind::kHost), 2 * 2 * Triangle(12) * 32 + 11 * bytes);
}

}  // namespace
}  // namespace cachette
