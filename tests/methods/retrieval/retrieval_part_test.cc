// The parts of retrieval recipes one by one: when output closes, what stands for a unit, what options are refused.

#include "methods/retrieval/retrieval_part.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "base/rng.h"
#include "methods/recipe.h"
#include "methods/recipe_checks.h"
#include "methods/retrieval/indexes/cuboid_mean.h"
#include "methods/retrieval/indexes/mean_key.h"
#include "methods/retrieval/indexes/min_max.h"
#include "methods/retrieval/triggers/coverage.h"
#include "methods/retrieval/triggers/query_cosine.h"
#include "methods/retrieval/triggers/stride.h"
#include "methods/retrieval/units/clusters.h"
#include "methods/retrieval/units/pages.h"
#include "methods/retrieval/units/segments.h"
#include "methods/text_file.h"

namespace cachette {
namespace {

using ::testing::HasSubstr;
using Options = std::map<std::string, std::string>;

const CacheShape kShape = {.num_layers = 3, .num_kv_heads = 2, .format = {Dtype::kF16, 8}};

TEST(Pages, CloseWhenWhole) {
  const Pages pages(32);
  for (const int64_t aged : {0, 1, 16, 31}) EXPECT_EQ(pages.NumToClose({100, aged, {}}), 0) << aged;
  for (const int64_t aged : {32, 33, 64, 1000}) EXPECT_EQ(pages.NumToClose({100, aged, {}}), 32) << aged;
  EXPECT_EQ(pages.most_open_entries(), 31);
  EXPECT_EQ(pages.prompt_window(), 32);
}

TEST(ClusterUnits, CloseEverySoManyEntries) {
  const Clusters clusters({.keys = 16, .window = 0, .close_every = 48, .cap = 2});
  for (const int64_t aged : {0, 47}) EXPECT_EQ(clusters.NumToClose({5, aged, {}}), 0);
  for (const int64_t aged : {48, 49, 96}) EXPECT_EQ(clusters.NumToClose({5, aged, {}}), 48);
  EXPECT_EQ(clusters.run_entries(), 0);
}

TEST(Segments, EndAtTheNextBoundaryOrTheCap) {
  Segments segments;
  segments.segment_entries = 20;
  const std::vector<int32_t> boundaries = {10, 13, 14, 60};
  const auto close = [&](int64_t first, int64_t aged) { return segments.NumToClose({first, aged, boundaries}); };
  EXPECT_EQ(close(4, 5), 0) << "the segment before the first boundary is not over";
  EXPECT_EQ(close(4, 6), 6);
  EXPECT_EQ(close(4, 100), 6);
  EXPECT_EQ(close(10, 2), 0) << "a boundary at its own first entry is where it begins";
  EXPECT_EQ(close(10, 3), 3);
  EXPECT_EQ(close(13, 1), 1);
  EXPECT_EQ(close(14, 19), 0);
  EXPECT_EQ(close(14, 20), 20) << "longer than the cap: cut";
  EXPECT_EQ(close(41, 19), 19);
  EXPECT_EQ(close(60, 19), 0) << "the last one is open until it reaches the cap";
  EXPECT_EQ(close(60, 20), 20);
  EXPECT_EQ(segments.NumToClose({0, 0, {}}), 0);
  EXPECT_EQ(segments.most_open_entries(), 19);
}

// Every key between the corners, corners reached; one key is a box of no size.
TEST(MinMaxIndex, TheBoxHoldsAllKeysAndNoMore) {
  Rng rng(3);
  for (const int64_t count : {1, 2, 16, 33}) {
    std::vector<float> keys, low(8), high(8);
    for (int64_t i = 0; i < count * 8; ++i) keys.push_back(static_cast<float>(rng.Normal()));
    MinMax().Summarise(keys.data(), count, 8, low.data(), high.data());
    for (size_t c = 0; c < 8; ++c) {
      bool touches_low = false, touches_high = false;
      for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
        const float key = keys[i * 8 + c];
        EXPECT_TRUE(low[c] <= key && key <= high[c]);
        touches_low = touches_low || key == low[c];
        touches_high = touches_high || key == high[c];
      }
      EXPECT_TRUE(touches_low && touches_high);
    }
  }
}

// By hand: channel 0 has keys 0, 1, 5 (middle 2.5, mean distance 6.5 / 3), channel 1 is constant.
TEST(CuboidMeanIndex, IsTheMiddleAndTheMeanDistanceFromIt) {
  std::vector<float> keys(3 * 8, 4.0f), low(8), high(8);
  keys[0] = 0;
  keys[8] = 1;
  keys[16] = 5;
  CuboidMean().Summarise(keys.data(), 3, 8, low.data(), high.data());
  EXPECT_FLOAT_EQ(low[0], 2.5f - 6.5f / 3);
  EXPECT_FLOAT_EQ(high[0], 2.5f + 6.5f / 3);
  EXPECT_EQ(low[1], 4.0f);
  EXPECT_EQ(high[1], 4.0f);
}

TEST(MeanKeyIndex, IsTheMean) {
  const std::vector<float> keys = {1, 2, 3, 4, 5, 6, 7, 8, 3, 2, 1, 0, -1, -2, -3, -4};
  std::vector<float> mean(8);
  for (const ops::GroupReduce reduce : {ops::GroupReduce::kMean, ops::GroupReduce::kMeanSoftmax}) {
    const MeanKey index(reduce);
    index.Summarise(keys.data(), 2, 8, mean.data(), nullptr);
    EXPECT_EQ(mean, (std::vector<float>{2, 2, 2, 2, 2, 2, 2, 2}));
    EXPECT_EQ(index.reduce(), reduce);
  }
}

TEST(RetrievalTriggers, FireAtTheirThresholds) {
  Stride stride;
  stride.stride = 3;
  EXPECT_FALSE(stride.Fires({.steps_since = 2}));
  EXPECT_TRUE(stride.Fires({.steps_since = 3}));
  const Coverage coverage(0.9);
  EXPECT_FALSE(coverage.Fires({.coverage = 0.9f}));
  EXPECT_TRUE(coverage.Fires({.coverage = 0.8999f}));
  EXPECT_FALSE(coverage.Fires({.coverage = 1.0f}));
  QueryCosine previous(QueryCosine::Against::kPrevious), last(QueryCosine::Against::kLast);
  ASSERT_TRUE(previous.Prepare(kShape).ok() && last.Prepare(kShape).ok());
  const RetrievalMoment turned = {.layer = 2, .cosine_previous = 0.69f, .cosine_last = 0.71f};
  EXPECT_TRUE(previous.Fires(turned));
  EXPECT_FALSE(last.Fires(turned));
}

// A tau per layer, from a file.
TEST(RetrievalTriggers, ThresholdFilesHaveOneLinePerLayer) {
  const TextFile good("# taus\n0.5\n0.25\n\n-0.75\n"), few("0.5\n0.6\n"), many("1\n1\n1\n1\n"),
      outside("0.5\n0.5\n1.5\n"), words("0.5\nhigh\n0.5\n");
  for (const char* kind : {"prev", "last"}) {
    const std::string option = fmt::format("{}_taus", kind);
    const auto refusal = [&](const std::string& path) {
      auto recipe = Recipe::Create("louis", {{"trigger.kind", kind}, {option, path}});
      EXPECT_TRUE(recipe.ok());
      const auto prepared = recipe->Prepare(kShape);
      return prepared.ok() ? std::string() : prepared.failure().message;
    };
    EXPECT_EQ(refusal(good.path()), "");
    EXPECT_THAT(refusal(few.path()), HasSubstr("has 2 lines; this model has 3 layers"));
    EXPECT_THAT(refusal(many.path()), HasSubstr("has 4 lines; this model has 3 layers"));
    EXPECT_THAT(refusal(outside.path()), HasSubstr("1.5"));
    EXPECT_THAT(refusal(words.path()), HasSubstr("high"));
    EXPECT_THAT(refusal("/no/such/taus"), HasSubstr("/no/such/taus"));
    auto recipe = Recipe::Create("louis", {{"trigger.kind", kind}, {option, good.path()}});
    ASSERT_TRUE(recipe.ok() && recipe->Prepare(kShape).ok());
    const RetrievalTrigger& trigger = **recipe->parts().retrieval->trigger;
    EXPECT_TRUE(trigger.Fires({.layer = 0, .cosine_previous = 0.4f, .cosine_last = 0.4f}));
    EXPECT_FALSE(trigger.Fires({.layer = 1, .cosine_previous = 0.4f, .cosine_last = 0.4f}));
    EXPECT_FALSE(trigger.Fires({.layer = 2, .cosine_previous = -0.7f, .cosine_last = -0.7f}));
    EXPECT_TRUE(trigger.Fires({.layer = 2, .cosine_previous = -0.8f, .cosine_last = -0.8f}));
  }
  EXPECT_THAT(Refusal("louis", {{"prev_tau", "1.1"}}), HasSubstr("prev_tau 1.1 is no cosine"));
}

TEST(RetrievalOptions, UnknownKindsNameTheKnownOnes) {
  EXPECT_THAT(Refusal("louis", {{"units.kind", "segments"}}), HasSubstr("kind 'segments' is none of pages, clusters"));
  EXPECT_THAT(Refusal("louis", {{"output_units.kind", "page"}}),
              HasSubstr("kind 'page' is none of pages, clusters, segments"));
  EXPECT_THAT(Refusal("quest", {{"index.kind", ""}}),
              HasSubstr("none of min_max, cuboid_mean, mean_key, mean_key_softmax"));
  EXPECT_THAT(Refusal("quest", {{"trigger.kind", "never"}}),
              HasSubstr("kind 'never' is none of every, stride, prev, last, coverage"));
  EXPECT_THAT(Refusal("quest", {{"kind", "pages"}}), HasSubstr("ambiguous"));
  EXPECT_THAT(Refusal("quest", {{"page_entries", "32"}}), HasSubstr("ambiguous"));
}

TEST(RetrievalOptions, WhatCannotBeIsRefused) {
  EXPECT_THAT(Refusal("louis", {{"budget", "15"}}), HasSubstr("budget 15 entries is less than one block of 16"));
  EXPECT_THAT(Refusal("louis", {{"budget", "-1"}}), HasSubstr("budget -1"));
  EXPECT_TRUE(Recipe::Create("louis", {{"budget", "16"}}).ok());
  EXPECT_THAT(Refusal("louis", {{"protect.sinks", "17"}}), HasSubstr("protect.sinks 17 must be a multiple of 16"));
  EXPECT_THAT(Refusal("louis", {{"protect.sinks", "-16"}}), HasSubstr("protect.sinks -16"));
  EXPECT_THAT(Refusal("louis", {{"recent_window", "-1"}}), HasSubstr("protect.recent_window -1"));
  EXPECT_THAT(Refusal("louis", {{"keep_fraction", "0.5"}}), HasSubstr("takes no keep_fraction"));
  EXPECT_THAT(Refusal("louis", {{"positions", "cache"}}), HasSubstr("positions=cache"));
  EXPECT_THAT(Refusal("louis", {{"codec", "kivi4"}}), HasSubstr("moves them between tiers"));
  EXPECT_THAT(Refusal("quest", {{"units.page_entries", "24"}}), HasSubstr("page_entries 24"));
  EXPECT_THAT(Refusal("quest", {{"units.page_entries", "0"}}), HasSubstr("page_entries 0"));
  EXPECT_THAT(Refusal("quest", {{"stride", "0"}, {"trigger.kind", "stride"}}), HasSubstr("stride 0 must be 1 or more"));
  EXPECT_THAT(Refusal("louis+", {{"least_coverage", "0"}}), HasSubstr("least_coverage 0 is outside (0, 1]"));
  EXPECT_THAT(Refusal("louis", {{"units.cluster_keys", "0"}}), HasSubstr("cluster_keys 0"));
  EXPECT_THAT(Refusal("louis", {{"units.cluster_cap", "-1"}}), HasSubstr("cluster_cap -1"));
  EXPECT_THAT(Refusal("louis", {{"units.cluster_window", "100"}}), HasSubstr("cluster_window 100"));
  EXPECT_THAT(Refusal("louis", {{"units.iterations", "0"}}), HasSubstr("iterations 0"));
  EXPECT_THAT(Refusal("clusterkv", {{"output_units.close_every", "20"}}), HasSubstr("close_every 20"));
  EXPECT_THAT(Refusal("louis", {{"segment_entries", "0"}}), HasSubstr("segment_entries 0"));
}

TEST(RetrievalOptions, OfTheWorkingSet) {
  EXPECT_THAT(Refusal("louis", {{"attend", "some"}}), HasSubstr("attend 'some' is none of selection, best and all"));
  for (const char* pool : {"0", "0.99", "-1", "1e7"})
    EXPECT_THAT(Refusal("louis", {{"pool", pool}}), HasSubstr("pool")) << pool;
  for (const char* share : {"0", "-0.5", "1.01"}) {
    EXPECT_THAT(Refusal("louis+", {{"until", share}}), HasSubstr("until")) << share;
    EXPECT_THAT(Refusal("louis+", {{"selected", share}}), HasSubstr("selected")) << share;
  }
  EXPECT_THAT(Refusal("louis", {{"until", "0.9"}}), HasSubstr("use attend=best or attend=all"));
  EXPECT_THAT(Refusal("quest", {{"ahead", "both"}}), HasSubstr("ahead 'both' is none of none, fetch and select"));
  EXPECT_THAT(Refusal("louis", {{"next_keys", "-1"}}), HasSubstr("next_keys -1"));
  EXPECT_THAT(Refusal("louis", {{"next_positions", "0"}}), HasSubstr("next_positions 0"));
  EXPECT_THAT(Refusal("louis", {{"next_positions", "1025"}}), HasSubstr("next_positions 1025"));
  EXPECT_THAT(Refusal("louis", {{"dense_layers", "-1"}}), HasSubstr("dense_layers -1"));
  EXPECT_THAT(Refusal("louis", {{"dense_layers", "4"}}), HasSubstr("dense_layers 4"));
  auto all_dense = Recipe::Create("louis", {{"dense_layers", "3"}});
  EXPECT_TRUE(all_dense.ok() && all_dense->Prepare(kShape).ok());
}

// What a stream may hold between passes depends on what closes last.
TEST(RetrievalOptions, LocalEntriesHaveRoomForOpenOutput) {
  for (const auto& [options, open] : std::vector<std::pair<Options, int64_t>>{
           {{{"output_units.kind", "pages"}, {"output_units.page_entries", "48"}}, 47},
           {{{"output_units.kind", "clusters"}, {"output_units.close_every", "320"}}, 319},
           {{{"output_units.kind", "segments"}, {"segment_entries", "70"}}, 69}}) {
    const auto recipe = Recipe::Create("louis", options);
    ASSERT_TRUE(recipe.ok());
    EXPECT_GE(recipe->unit_shape().local_entries, 16 + 128 + open);
    EXPECT_LE(recipe->unit_shape().local_entries, 16 + 128 + open + 17);
  }
}

}  // namespace
}  // namespace cachette
