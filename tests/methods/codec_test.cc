// Recipes with a codec: which go together, and when entries are encoded.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "methods/pass_driver.h"
#include "methods/recipe_checks.h"

namespace cachette {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Options = std::map<std::string, std::string>;

CacheShape CodedShape(const Recipe& recipe) {
  return {.num_layers = 2, .num_kv_heads = 2, .format = {Dtype::kF16, 16}, .codec = recipe.codec()};
}

// A sequence under a recipe, every invariant checked after each pass.
class CodedRun {
 public:
  CodedRun(const char* name, const Options& options)
      : recipe_(Make(name, options)), cache_(tier_, CodedShape(recipe_)) {
    driver_.emplace(std::move(recipe_), cache_);
  }

  void Chunk(int64_t num_tokens, bool is_last) {
    Pass({.phase = Phase::kPrefill,
          .first_token = cache_.num_tokens(),
          .num_tokens = num_tokens,
          .is_last_prefill_chunk = is_last,
          .num_transient = is_last ? 0 : driver_->run().recipe().num_patch_tokens()});
  }
  void Decode(int64_t num_tokens) {
    for (int64_t i = 0; i < num_tokens; ++i)
      Pass({.phase = Phase::kDecode, .first_token = cache_.num_tokens(), .num_tokens = 1});
  }

  int64_t coded(int layer = 1, int head = 1) const { return cache_.stream(layer, head).num_coded_slots(); }
  int64_t live(int layer = 1, int head = 1) const { return cache_.stream(layer, head).num_live(); }
  SequenceCache& cache() { return cache_; }
  PassDriver& driver() { return *driver_; }

 private:
  static Recipe Make(const char* name, const Options& options) {
    auto recipe = Recipe::Create(name, options);
    EXPECT_TRUE(recipe.ok()) << name;
    return std::move(*recipe);
  }
  void Pass(const PassInfo& pass) {
    driver_->Pass(pass);
    const SequenceCache* all[] = {&cache_};
    EXPECT_THAT(CheckInvariants(tier_, all), IsEmpty());
  }

  Recipe recipe_;
  Tier tier_{TierKind::kHost};
  SequenceCache cache_;
  std::optional<PassDriver> driver_;
};

TEST(RecipeCodec, NamesAndBits) {
  EXPECT_EQ(Recipe::Create("full", {})->codec().bits, 0);
  EXPECT_EQ(Recipe::Create("full", {{"codec", "plain"}})->codec().bits, 0);
  EXPECT_EQ(Recipe::Create("full", {{"codec", "kivi8"}})->codec().bits, 8);
  EXPECT_EQ(Recipe::Create("full", {{"codec", "kivi4"}})->codec(), (KvCodec{4, 128}));
  EXPECT_EQ(Recipe::Create("full", {{"codec", "kivi2"}, {"codec_residual", "0"}})->codec(), (KvCodec{2, 0}));
  EXPECT_THAT(Refusal("full", {{"codec", "kivi3"}}), HasSubstr("'kivi3' is none of plain, kivi8, kivi4 and kivi2"));
  EXPECT_THAT(Refusal("full", {{"codec", "kivi4"}, {"codec_residual", "-1"}}), HasSubstr("codec_residual -1"));
}

TEST(RecipeCodec, RecipesThatWouldTouchCodedEntriesAreRefused) {
  for (const char* name : {"streaming", "heads"})
    EXPECT_THAT(Refusal(name, {{"codec", "kivi4"}}), HasSubstr("codec kivi4 cannot rewrite coded entries")) << name;
  EXPECT_THAT(Refusal("streaming", {{"codec", "kivi8"}, {"positions", "cache"}}), HasSubstr("positions=original"));
  for (const char* name : {"h2o", "tova", "rkv"})
    EXPECT_THAT(Refusal(name, {{"codec", "kivi2"}}), HasSubstr("evicts during generation")) << name;
  EXPECT_THAT(Refusal("h2o", {{"codec", "kivi2"}, {"decode_every", "0"}}), HasSubstr("scores of all entries"));
  EXPECT_THAT(Refusal("snapkv", {{"codec", "kivi4"}, {"budget", "512"}, {"prefill", "chunked"}}),
              HasSubstr("compete after each chunk"));
  for (const char* name : {"tova", "rkv"})
    EXPECT_TRUE(Recipe::Create(name, {{"codec", "kivi4"}, {"decode_every", "0"}}).ok()) << name;
  for (const char* name : {"full", "snapkv", "pyramidkv", "adakv", "chunkkv", "knorm", "random"})
    EXPECT_TRUE(Recipe::Create(name, {{"codec", "kivi4"}}).ok()) << name;
}

TEST(RecipeCodec, FullCacheEncodesAfterEachChunkAndEachStep) {
  CodedRun run("full", {{"codec", "kivi4"}, {"codec_residual", "100"}});
  run.Chunk(150, false);
  EXPECT_EQ(run.coded(), 0);
  run.Chunk(150, false);
  EXPECT_EQ(run.coded(), 192);  // 300 - 100 = 3 blocks and 8
  run.Chunk(300, true);
  EXPECT_EQ(run.coded(), 448);
  run.Decode(11);
  EXPECT_EQ(run.coded(), 448);
  run.Decode(1);  // 612 - 100 = 8 blocks
  EXPECT_EQ(run.coded(), 512);
  EXPECT_EQ(run.live(), 612);
  EXPECT_EQ(run.cache().ledger().Footprint(), 1.0);
}

// What still has to compete stays plain, and what was kept is encoded with its holes closed.
TEST(RecipeCodec, PostFillEncodesWhatThePromptKept) {
  CodedRun run("knorm", {{"codec", "kivi8"}, {"keep_fraction", "0.5"}, {"codec_residual", "0"}});
  run.Chunk(400, false);
  EXPECT_EQ(run.coded(), 0);
  run.Chunk(400, true);
  EXPECT_EQ(run.live(), 400);
  EXPECT_EQ(run.coded(), 384);
  run.Decode(48);
  EXPECT_EQ(run.coded(), 448);
}

TEST(RecipeCodec, ChunkedEncodesAfterEachEviction) {
  for (const char* name : {"snapkv", "random", "knorm"}) {
    CodedRun run(name,
                 {{"codec", "kivi2"}, {"keep_fraction", "0.5"}, {"prefill", "chunked"}, {"codec_residual", "64"}});
    run.Chunk(400, false);
    EXPECT_EQ(run.live(), 200);
    EXPECT_EQ(run.coded(), 128);
    run.Chunk(400, false);
    EXPECT_EQ(run.live(), 400);
    EXPECT_EQ(run.coded(), 320);
    run.Chunk(37, true);
    run.Decode(70);
    EXPECT_LT(run.live() - run.coded(), 64 + 64);
  }
}

TEST(RecipeCodec, PatchedChunksLeaveBeforeTheyAreEncoded) {
  CodedRun run(
      "snapkv",
      {{"codec", "kivi4"}, {"keep_fraction", "0.5"}, {"prefill", "chunked"}, {"patch", "16"}, {"codec_residual", "0"}});
  run.Chunk(256, false);
  EXPECT_EQ(run.live(), 128);
  EXPECT_EQ(run.coded(), 128);
  run.Chunk(256, true);
  EXPECT_EQ(run.coded(), 256);
}

// With a fraction each prompt gives up its own part; with a budget the second would compete with coded entries.
TEST(RecipeCodec, ASecondPromptCompetesForItself) {
  CodedRun run("knorm", {{"codec", "kivi4"}, {"keep_fraction", "0.5"}, {"codec_residual", "0"}});
  run.Chunk(256, true);
  run.Decode(5);
  run.Chunk(256, true);
  EXPECT_EQ(run.live(), 128 + 5 + 128);
  EXPECT_EQ(run.coded(), 256);

  CodedRun budgeted("knorm", {{"codec", "kivi4"}, {"budget", "128"}, {"codec_residual", "0"}});
  budgeted.Chunk(256, true);
  EXPECT_EQ(budgeted.coded(), 128);
  SequenceCache& cache = budgeted.cache();
  PassDriver& driver = budgeted.driver();
  const PassInfo second{
      .phase = Phase::kPrefill, .first_token = cache.num_tokens(), .num_tokens = 10, .is_last_prefill_chunk = true};
  driver.run().BeforePass(driver.cx(), cache, second);
  ASSERT_TRUE(cache.BeginPass(second).ok());
  const std::vector<float> rows(10 * 2 * 2 * 16, 1.0f);
  ASSERT_TRUE(cache.Append(driver.cx(), 0, rows.data(), 32, rows.data(), 32).ok());
  const auto refused = driver.run().AfterAttention(driver.cx(), cache,
                                                   {.q = rows.data(), .q_stride = 64, .num_rows = 10, .group_size = 2});
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.failure().message, HasSubstr("codec kivi4 cannot rewrite the entries of an earlier prompt"));
}

}  // namespace
}  // namespace cachette
