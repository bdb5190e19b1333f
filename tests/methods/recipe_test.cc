#include "methods/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "methods/pass_driver.h"
#include "methods/text_file.h"

namespace cachette {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Options = std::map<std::string, std::string>;

constexpr int64_t kBlock = ops::kBlockTokens;

CacheShape Shape(int num_layers, int num_kv_heads) {
  return {.num_layers = num_layers, .num_kv_heads = num_kv_heads, .format = {Dtype::kF16, 8}};
}

OptionValue ValueOf(const Recipe& recipe, const std::string& name) {
  for (const OptionInfo& info : recipe.Options())
    if (info.name == name) return info.value;
  ADD_FAILURE() << name << " is not declared";
  return false;
}

std::string Refusal(const char* name, const Options& options) {
  const auto recipe = Recipe::Create(name, options);
  if (!recipe.ok()) {
    EXPECT_EQ(recipe.failure().error, Error::kInvalidArgument);
    return recipe.failure().message;
  }
  auto prepared_recipe = Recipe::Create(name, options);
  const auto prepared = prepared_recipe->Prepare(Shape(1, 1));
  EXPECT_FALSE(prepared.ok());
  return prepared.ok() ? "" : prepared.failure().message;
}

TEST(Recipe, UnknownNamesGetTheNearest) {
  EXPECT_THAT(Refusal("streming", {}), HasSubstr("unknown recipe 'streming'; did you mean 'streaming'?"));
  EXPECT_THAT(Refusal("ful", {}), HasSubstr("did you mean 'full'?"));
  EXPECT_THAT(Refusal("", {}), HasSubstr("'cachette recipes' lists them all"));
  EXPECT_THAT(Refusal("transformers", {}), ::testing::Not(HasSubstr("did you mean")));
}

TEST(Recipe, OptionsHaveLongShortAndDashedNames) {
  for (const char* name : {"protect.recent_window", "protect.recent-window", "recent_window", "recent-window"}) {
    const auto recipe = Recipe::Create("streaming", {{name, "33"}});
    ASSERT_TRUE(recipe.ok()) << name;
    EXPECT_EQ(ValueOf(*recipe, "protect.recent_window"), OptionValue(int64_t{33}));
    EXPECT_EQ(ValueOf(*recipe, "protect.sinks"), OptionValue(int64_t{4}));
  }
  const auto sparsity = Recipe::Create("heads", {{"head-sparsity", "0.25"}, {"mask-file", "a b"}});
  ASSERT_TRUE(sparsity.ok());
  EXPECT_EQ(ValueOf(*sparsity, "allocator.head_sparsity"), OptionValue(0.25));
  EXPECT_EQ(ValueOf(*sparsity, "allocator.mask_file"), OptionValue(std::string("a b")));
}

TEST(Recipe, UnknownOptionsGetTheNearest) {
  EXPECT_THAT(Refusal("streaming", {{"recent_windw", "3"}}),
              HasSubstr("recipe streaming has no option 'recent_windw'; did you mean 'recent_window'?"));
  EXPECT_THAT(Refusal("streaming", {{"protect.sink", "3"}}), HasSubstr("did you mean 'protect.sinks'?"));
  EXPECT_THAT(Refusal("streaming", {{"mask_file", "m"}}), HasSubstr("has no option 'mask_file'"));
  EXPECT_THAT(Refusal("full", {{"sinks", "3"}}), HasSubstr("recipe full has no option 'sinks'"));
  EXPECT_THAT(Refusal("streaming", {{"", "3"}}), HasSubstr("has no option ''"));
  EXPECT_THAT(Refusal("streaming", {{"allocator.sinks", "3"}}), HasSubstr("has no option 'allocator.sinks'"));
}

TEST(Recipe, BadValuesNameTheOption) {
  EXPECT_THAT(Refusal("streaming", {{"sinks", "four"}}),
              HasSubstr("option protect.sinks: 'four' is not a whole number"));
  EXPECT_THAT(Refusal("streaming", {{"sinks", "-1"}}), HasSubstr("protect.sinks -1"));
  EXPECT_THAT(Refusal("streaming", {{"sinks", "-1"}, {"budget", "100"}}), HasSubstr("protect.sinks -1"));
  EXPECT_THAT(Refusal("streaming", {{"recent_window", "-1"}}), HasSubstr("protect.recent_window -1"));
  EXPECT_THAT(Refusal("heads", {{"head_sparsity", "nan"}}), HasSubstr("out of range"));
  EXPECT_THAT(Refusal("heads", {}), HasSubstr("--allocator.mask_file"));
  EXPECT_THAT(Refusal("streaming", {{"positions", "relative"}}), HasSubstr("'relative' is neither original nor cache"));
}

TEST(Recipe, BudgetsThatCannotBe) {
  EXPECT_THAT(Refusal("streaming", {{"budget", "-1"}}), HasSubstr("budget -1 entries"));
  EXPECT_THAT(Refusal("streaming", {{"budget", "5"}}),
              HasSubstr("budget 5 entries < 4 sinks + 1 recent + the current token"));
  EXPECT_TRUE(Recipe::Create("streaming", {{"budget", "6"}}).ok());
  EXPECT_TRUE(Recipe::Create("streaming", {{"budget", "2"}, {"sinks", "0"}}).ok());
  EXPECT_FALSE(Recipe::Create("streaming", {{"budget", "1"}, {"sinks", "0"}}).ok());
  EXPECT_THAT(Refusal("streaming", {{"budget", "1024"}, {"sinks", "9223372036854775807"}}), HasSubstr("budget 1024"));
  EXPECT_THAT(Refusal("streaming", {{"budget", "9223372036854775808"}}), HasSubstr("out of range"));
  EXPECT_TRUE(Recipe::Create("streaming", {{"budget", "9223372036854775807"}}).ok());
  EXPECT_THAT(Refusal("full", {{"budget", "512"}}), HasSubstr("recipe full keeps every entry and takes no budget"));
  EXPECT_TRUE(Recipe::Create("full", {{"budget", "0"}}).ok());
}

TEST(Recipe, BudgetSetsTheWindowAndEveryOptionIsEchoed) {
  const auto recipe = Recipe::Create("streaming", {{"budget", "512"}, {"sinks", "8"}});
  ASSERT_TRUE(recipe.ok());
  EXPECT_EQ(ValueOf(*recipe, "budget"), OptionValue(int64_t{512}));
  EXPECT_EQ(ValueOf(*recipe, "protect.recent_window"), OptionValue(int64_t{512 - 8 - 1}));
  EXPECT_EQ(ValueOf(*recipe, "positions"), OptionValue(std::string("original")));
}

TEST(Recipe, ContradictingOrRepeatedOptionsAreRefused) {
  EXPECT_THAT(Refusal("streaming", {{"budget", "512"}, {"recent_window", "100"}}),
              HasSubstr("budget 512 entries contradicts option protect.recent_window"));
  EXPECT_TRUE(Recipe::Create("streaming", {{"budget", "512"}, {"recent_window", "507"}}).ok());
  EXPECT_THAT(Refusal("streaming", {{"sinks", "3"}, {"protect.sinks", "5"}}),
              HasSubstr("protect.sinks is given twice"));
  EXPECT_THAT(Refusal("streaming", {{"recent-window", "3"}, {"recent_window", "3"}}), HasSubstr("given twice"));
}

TEST(Recipe, CachePositionsOnlyWhereAllHeadsAreAlike) {
  const auto cache_positions = Recipe::Create("streaming", {{"positions", "cache"}});
  ASSERT_TRUE(cache_positions.ok());
  EXPECT_EQ(cache_positions->rope_positions(), RopePositions::kCacheIndex);
  EXPECT_EQ(Recipe::Create("streaming", {})->rope_positions(), RopePositions::kOriginal);
  EXPECT_THAT(Refusal("full", {{"positions", "cache"}}), HasSubstr("cannot use positions=cache"));
  EXPECT_THAT(Refusal("heads", {{"positions", "cache"}}), HasSubstr("cannot use positions=cache"));
}

// Streaming heads give their blocks back to the pool while retrieval heads of the same layer keep all.
TEST(Recipe, MixedHeadsReallyReturnBlocks) {
  const TextFile mask("1 0 0\n0 1 0\n");
  const CacheShape shape = Shape(2, 3);
  Tier tier(TierKind::kHost);
  SequenceCache cache(tier, shape);
  auto recipe = Recipe::Create("heads", {{"mask_file", mask.path()}, {"sinks", "4"}, {"recent_window", "28"}});
  ASSERT_TRUE(recipe.ok());
  ASSERT_TRUE(recipe->Prepare(shape).ok());
  PassDriver driver(*std::move(recipe), cache);
  driver.Prefill(640, 160);
  const size_t block_bytes = shape.format.block_bytes();
  // Before the next pass streaming heads still hold sinks, window and the whole chunk.
  EXPECT_LE(tier.owned_bytes(), (2 * 40 + 4 * 13) * block_bytes);
  driver.Decode(100);
  const SequenceCache* sequence = &cache;
  EXPECT_THAT(CheckInvariants(tier, {&sequence, 1}), IsEmpty());
  size_t num_blocks = 0;
  for (int layer = 0; layer < 2; ++layer) {
    for (int head = 0; head < 3; ++head) {
      const HeadStream& stream = cache.stream(layer, head);
      const bool is_retrieval = layer == head;
      EXPECT_EQ(stream.num_live(), is_retrieval ? 740 : 4 + 28 + 1);
      EXPECT_LE(stream.num_blocks(), is_retrieval ? 47 : 4);
      num_blocks += static_cast<size_t>(stream.num_blocks());
    }
  }
  EXPECT_EQ(tier.owned_bytes(), num_blocks * block_bytes);
  EXPECT_GE(tier.peak_bytes(), tier.owned_bytes());
}

// ---- What every row of the table promises, whatever its parts. ----

class EveryRecipe : public ::testing::TestWithParam<int> {
 protected:
  const RecipeRow& row() const { return AllRecipes()[static_cast<size_t>(GetParam())]; }
  // Options that make the row runnable: files that it needs, a small budget where it takes one.
  Options SmallOptions() const {
    Options options;
    const auto plain = Recipe::Create(row().name, {});
    CACHETTE_CHECK(plain.ok());
    for (const OptionInfo& info : plain->Options())
      if (info.name == "allocator.mask_file") options[info.name] = mask_.path();
    if (row().apply_budget != nullptr) options["budget"] = std::to_string(kBudget);
    return options;
  }

  static constexpr int64_t kBudget = 40;
  const TextFile mask_{"0 1\n1 0\n"};
};
INSTANTIATE_TEST_SUITE_P(Rows, EveryRecipe, ::testing::Range(0, static_cast<int>(AllRecipes().size())),
                         [](const auto& row) {
                           return std::string(AllRecipes()[static_cast<size_t>(row.param)].name);
                         });

TEST_P(EveryRecipe, DescribesItself) {
  EXPECT_GT(std::string(row().paper).size(), 0u);
  EXPECT_GT(std::string(row().summary).size(), 0u);
  EXPECT_GT(std::string(row().frees).size(), 0u);
  const auto recipe = Recipe::Create(row().name, {});
  ASSERT_TRUE(recipe.ok()) << recipe.failure().message;
  EXPECT_EQ(&recipe->row(), &row());
  std::map<std::string, int> names;
  for (const OptionInfo& info : recipe->Options()) {
    EXPECT_EQ(++names[info.name], 1) << info.name;
    EXPECT_FALSE(info.help.empty()) << info.name;
  }
  for (const auto& [kind, part] : recipe->PartNames()) EXPECT_FALSE(kind.empty() || part.empty());
  // A trigger without the parts that act would do nothing, or worse.
  const RecipeParts parts = row().make_parts();
  EXPECT_TRUE(parts.trigger == nullptr || (parts.allocator != nullptr && parts.fate != nullptr));
}

std::vector<int32_t> LivePositions(const HeadStream& stream) {
  std::vector<int32_t> positions;
  for (int64_t r = 0; r < stream.num_live(); ++r)
    positions.push_back(stream.positions()[static_cast<size_t>(stream.SlotOfRank(r))]);
  return positions;
}

// Chunked prefill of edge lengths and decode: what stays is a sorted subset of what was there, contains what is
// protected, is within the budget unless the head keeps all, and pool, streams and ledger agree.
TEST_P(EveryRecipe, KeepsProtectedEntriesInOrderWithinItsBudget) {
  CacheShape shape = Shape(2, 2);
  for (const int64_t num_prompt :
       {int64_t{1}, kBlock - 1, kBlock, kBlock + 1, int64_t{39}, int64_t{41}, int64_t{200}}) {
    for (const int64_t chunk : {1, 7, 16, 1000}) {
      SCOPED_TRACE("prompt " + std::to_string(num_prompt) + " chunk " + std::to_string(chunk));
      auto recipe = Recipe::Create(row().name, SmallOptions());
      ASSERT_TRUE(recipe.ok()) << recipe.failure().message;
      shape.has_scores = recipe->has_running_score();
      ASSERT_TRUE(recipe->Prepare(shape).ok());
      RecipeParts parts = row().make_parts();  // for its protected ranges
      ASSERT_TRUE(row().apply_budget == nullptr || row().apply_budget(parts, kBudget).ok());

      Tier tier(TierKind::kHost);
      SequenceCache cache(tier, shape);
      const SequenceCache* sequence = &cache;
      PassDriver driver(*std::move(recipe), cache);
      for (int64_t begin = 0; begin < num_prompt + 50;) {
        const bool is_prefill = begin < num_prompt;
        const int64_t count = is_prefill ? std::min<int64_t>(chunk, num_prompt - begin) : 1;
        const PassInfo pass{is_prefill ? Phase::kPrefill : Phase::kDecode, begin, count,
                            is_prefill && begin + count == num_prompt};
        std::vector<std::vector<int32_t>> before, after;
        for (int i = 0; i < 4; ++i) before.push_back(LivePositions(cache.stream(i / 2, i % 2)));
        driver.run().BeforePass(driver.cx(), cache, pass);
        ASSERT_THAT(CheckInvariants(tier, {&sequence, 1}), IsEmpty());
        for (size_t i = 0; i < 4; ++i) {
          const std::vector<int32_t> kept =
              LivePositions(cache.stream(static_cast<int>(i / 2), static_cast<int>(i % 2)));
          ASSERT_TRUE(std::is_sorted(kept.begin(), kept.end()));
          ASSERT_TRUE(std::includes(before[i].begin(), before[i].end(), kept.begin(), kept.end()));
          const auto num_before = static_cast<int64_t>(before[i].size());
          std::vector<RankRange> ranges;
          if (parts.protect != nullptr) parts.protect->Ranges(num_before, kBudget, ranges);
          for (const RankRange& range : ranges)
            ASSERT_TRUE(std::includes(kept.begin(), kept.end(), before[i].begin() + range.begin,
                                      before[i].begin() + range.end));
          const bool keeps_all = cache.stream(static_cast<int>(i / 2), static_cast<int>(i % 2)).num_live() == begin;
          ASSERT_TRUE(is_prefill || keeps_all || static_cast<int64_t>(kept.size()) + 1 <= kBudget);
        }
        driver.Write(pass);
        ASSERT_THAT(CheckInvariants(tier, {&sequence, 1}), IsEmpty());
        begin += count;
      }
      const double footprint = cache.ledger().Footprint();
      EXPECT_GT(footprint, 0.0);
      EXPECT_LE(footprint, 1.0);
      EXPECT_EQ(cache.HeldBytes(), static_cast<int64_t>(tier.owned_bytes()));
    }
  }
}

TEST_P(EveryRecipe, FootprintNeverRisesWhenTheBudgetFalls) {
  if (row().apply_budget == nullptr) {
    EXPECT_FALSE(Recipe::Create(row().name, {{"budget", "100"}}).ok());
    return;
  }
  const CacheShape shape = Shape(2, 2);
  double last_footprint = 1.0, last_peak = 1.0;
  for (const int64_t budget : {1000, 200, 64, 40, 17, 8}) {
    Options options = SmallOptions();
    options["budget"] = std::to_string(budget);
    auto recipe = Recipe::Create(row().name, options);
    ASSERT_TRUE(recipe.ok());
    ASSERT_TRUE(recipe->Prepare(shape).ok());
    Tier tier(TierKind::kHost);
    SequenceCache cache(tier, shape);
    PassDriver driver(*std::move(recipe), cache);
    driver.Prefill(150, 20);
    driver.Decode(60);
    EXPECT_LE(cache.ledger().Footprint(), last_footprint) << budget;
    EXPECT_LE(cache.ledger().Peak(), last_peak) << budget;
    EXPECT_TRUE(budget < 1000 || cache.ledger().Footprint() == 1.0);  // nothing to evict
    last_footprint = cache.ledger().Footprint();
    last_peak = cache.ledger().Peak();
  }
  EXPECT_LT(last_footprint, 0.9);
}

}  // namespace
}  // namespace cachette
