#include "methods/retrieval/unit_maker.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"

namespace cachette {
namespace {

using Options = std::map<std::string, std::string>;
using UnitPositions = std::vector<std::vector<int32_t>>;

constexpr int kHeads = 5, kHeadDim = 8;

// A prompt of random keys, but for KV head 0, whose keys all point the same way: one cluster.
class Prompt {
 public:
  Prompt(const Options& options, int64_t num_tokens, size_t most_key_bytes)
      : recipe_(MakeRecipe(options)),
        shape_{
            .num_layers = 1, .num_kv_heads = kHeads, .format = {Dtype::kF16, kHeadDim}, .units = recipe_->unit_shape()},
        cx_(AllBackends()[0], 2),
        slow_(*RecordStore::Create("ram", shape_.format.block_bytes())),
        cache_(tier_, shape_, slow_.get()),
        maker_(recipe_, 1, most_key_bytes) {
    Rng rng(3);
    std::vector<float> keys;
    for (int64_t t = 0; t < num_tokens; ++t)
      for (int i = 0; i < kHeads * kHeadDim; ++i)
        keys.push_back(i < kHeadDim ? 1.0f : static_cast<float>(rng.Normal()));
    CACHETTE_CHECK(cache_.BeginPass({.num_tokens = num_tokens, .is_last_prefill_chunk = true}).ok());
    CACHETTE_CHECK(cache_.Append(cx_, 0, keys.data(), kHeads * kHeadDim, keys.data(), kHeads * kHeadDim).ok());
    const auto made = maker_.TakePrompt(cx_, cache_, 0, true);
    CACHETTE_CHECK(made.ok());
    num_made_ = *made;
    cache_.EndPass();
  }
  UnitPositions Units(int head) const {
    const UnitTable& table = cache_.units(0, head);
    UnitPositions units;
    for (int64_t u = 0; u < table.num_units(); ++u)
      units.emplace_back(table.positions(u).begin(), table.positions(u).end());
    return units;
  }
  int64_t num_made() const { return num_made_; }
  int64_t least_blocks() const { return recipe_->least_blocks(); }
  std::vector<std::string> Broken() const {
    const SequenceCache* const caches[] = {&cache_};
    return CheckInvariants(tier_, caches);
  }

 private:
  static std::shared_ptr<const Recipe> MakeRecipe(Options options) {
    options.insert({{"protect.sinks", "16"}, {"recent_window", "16"}, {"dense_layers", "0"}});
    auto recipe = Recipe::Create("clusterkv", options);
    CACHETTE_CHECK(recipe.ok());
    return std::make_shared<Recipe>(*std::move(recipe));
  }
  std::shared_ptr<const Recipe> recipe_;
  CacheShape shape_;
  Context cx_;
  Tier tier_{TierKind::kHost};
  std::unique_ptr<RecordStore> slow_;
  SequenceCache cache_;
  UnitMaker maker_;
  int64_t num_made_ = 0;
};

// How many KV heads are grouped at once must not show.
TEST(UnitMaker, GroupsTheSameUnitsInAnyAmountOfMemory) {
  for (const char* window : {"0", "64"}) {
    const Options options = {{"units.cluster_keys", "16"}, {"units.cluster_window", window}};
    const size_t of_head = 480 * kHeadDim * sizeof(float);
    const Prompt all(options, 512, UnitMaker::kMostKeyBytes);
    EXPECT_EQ(all.Broken(), std::vector<std::string>());
    for (const size_t most : {size_t{0}, of_head, 2 * of_head, 3 * of_head + 1, 5 * of_head}) {
      const Prompt some(options, 512, most);
      EXPECT_EQ(some.num_made(), all.num_made());
      for (int head = 0; head < kHeads; ++head) EXPECT_EQ(some.Units(head), all.Units(head)) << head << " " << most;
      EXPECT_EQ(some.Broken(), std::vector<std::string>());
    }
  }
}

// What never fits cannot be retrieved: without a cap of its own a cluster ends where the budget's blocks do.
TEST(UnitMaker, CutsClustersThatAreLongerThanTheBudgetsBlocks) {
  for (const int64_t budget : {16, 17, 100}) {
    const Prompt prompt({{"budget", std::to_string(budget)}, {"units.cluster_keys", "480"}}, 512,
                        UnitMaker::kMostKeyBytes);
    const int64_t most = (budget + 15) / 16 * 16;
    EXPECT_EQ(prompt.least_blocks() * 16, most);
    for (int head = 0; head < kHeads; ++head) {
      const UnitPositions units = prompt.Units(head);
      ASSERT_EQ(static_cast<int64_t>(units.size()), (480 + most - 1) / most) << "one cluster, cut";
      int32_t next = 16;  // pieces in position order
      for (const std::vector<int32_t>& unit : units) {
        EXPECT_LE(static_cast<int64_t>(unit.size()), most);
        for (const int32_t position : unit) EXPECT_EQ(position, next++);
      }
      EXPECT_EQ(next, 496);
    }
    EXPECT_EQ(prompt.Broken(), std::vector<std::string>());
  }
}

TEST(UnitMaker, LeastBlocksHoldTheBudgetAndTheLongestUnit) {
  const auto least = [](const char* name, const Options& options) {
    const auto recipe = Recipe::Create(name, options);
    CACHETTE_CHECK(recipe.ok());
    return recipe->least_blocks();
  };
  EXPECT_EQ(least("louis", {{"budget", "512"}}), 32);
  EXPECT_EQ(least("louis", {{"budget", "513"}}), 33);
  EXPECT_EQ(least("louis", {{"budget", "16"}}), 4) << "a segment of 64";
  EXPECT_EQ(least("louis", {{"budget", "16"}, {"segment_entries", "1"}}), 2) << "a cluster of 32";
  EXPECT_EQ(least("louis+", {{"budget", "16"}}), 1);
  EXPECT_EQ(least("arkvale", {{"budget", "16"}}), 2);
  EXPECT_EQ(least("clusterkv", {{"budget", "16"}}), 1) << "no cap: clusters are cut";
}

}  // namespace
}  // namespace cachette
