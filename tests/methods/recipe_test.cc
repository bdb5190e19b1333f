#include "methods/recipe.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "methods/pass_driver.h"
#include "methods/recipe_checks.h"
#include "methods/text_file.h"

namespace cachette {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Options = std::map<std::string, std::string>;

constexpr int64_t kBlock = ops::kBlockTokens;

OptionValue ValueOf(const Recipe& recipe, const std::string& name) {
  for (const OptionInfo& info : recipe.Options())
    if (info.name == name) return info.value;
  ADD_FAILURE() << name << " is not declared";
  return false;
}

TEST(Recipe, UnknownNamesGetTheNearest) {
  EXPECT_THAT(Refusal("streming", {}),
              HasSubstr("unknown recipe 'streming' ('cachette recipes' lists them all); did you mean 'streaming'?"));
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
              HasSubstr("recipe streaming has no option 'recent_windw' ('cachette recipes streaming' lists its "
                        "options); did you mean 'recent_window'?"));
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
  EXPECT_THAT(Refusal("heads", {}), HasSubstr("--allocator.mask-file"));
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

TEST(Recipe, PlacesOfScoredRecipesThatCannotBe) {
  // Sinks and window, or the scorer's window, leave no place to compete for.
  EXPECT_THAT(Refusal("snapkv", {{"budget", "64"}}), HasSubstr("budget 64 entries leaves no place beside the 64"));
  EXPECT_TRUE(Recipe::Create("snapkv", {{"budget", "65"}}).ok());
  EXPECT_THAT(Refusal("rkv", {{"budget", "8"}}), HasSubstr("beside the 8 that recipe rkv always keeps"));
  EXPECT_THAT(Refusal("adakv", {{"budget", "20"}, {"window", "20"}}), HasSubstr("beside the 20"));
  EXPECT_THAT(Refusal("random", {{"budget", "36"}}), HasSubstr("beside the 36"));
  EXPECT_TRUE(Recipe::Create("random", {{"budget", "37"}}).ok());
  EXPECT_TRUE(Recipe::Create("tova", {{"budget", "1"}}).ok());
  EXPECT_THAT(Refusal("h2o", {{"budget", "-3"}}), HasSubstr("budget -3"));
  for (const char* fraction : {"-0.1", "1.01", "100"})
    EXPECT_THAT(Refusal("snapkv", {{"keep_fraction", fraction}}), HasSubstr("outside (0, 1]")) << fraction;
  EXPECT_FALSE(Recipe::Create("snapkv", {{"keep_fraction", "nan"}}).ok());
  EXPECT_THAT(Refusal("snapkv", {{"keep_extra", "-1"}}), HasSubstr("keep_extra -1"));
  EXPECT_THAT(Refusal("snapkv", {{"budget", "100"}, {"keep_fraction", "0.5"}}), HasSubstr("exclude each other"));
  EXPECT_THAT(Refusal("snapkv", {{"budget", "100"}, {"keep_extra", "5"}}), HasSubstr("exclude each other"));
  EXPECT_THAT(Refusal("rkv", {{"keep_extra", "5"}}), HasSubstr("give keep_fraction too"));
  EXPECT_TRUE(Recipe::Create("rkv", {{"keep_extra", "5"}, {"keep_fraction", "0.5"}}).ok());
  for (const char* name : {"full", "streaming", "heads"})
    EXPECT_THAT(Refusal(name, {{"keep_fraction", "0.5"}}), HasSubstr("scores no entries")) << name;
}

TEST(Recipe, PartsOfScoredRecipesThatCannotBe) {
  EXPECT_THAT(Refusal("snapkv", {{"patch", "64"}}), HasSubstr("needs trigger.prefill=chunked"));
  EXPECT_THAT(Refusal("snapkv", {{"patch", "-1"}, {"prefill", "chunked"}}), HasSubstr("trigger.patch -1"));
  EXPECT_THAT(Refusal("snapkv", {{"prefill", "patched"}}), HasSubstr("neither post_fill nor chunked"));
  EXPECT_THAT(Refusal("snapkv", {{"pool_width", "4"}}), HasSubstr("must be odd"));
  EXPECT_THAT(Refusal("rkv", {{"pool_width", "0"}}), HasSubstr("must be odd"));
  EXPECT_THAT(Refusal("snapkv", {{"pool", "median"}}), HasSubstr("none of none, avg and max"));
  EXPECT_THAT(Refusal("adakv", {{"reduce", "sum"}}), HasSubstr("neither mean nor max"));
  EXPECT_THAT(Refusal("adakv", {{"floor_share", "1.5"}}), HasSubstr("in [0, 1]"));
  EXPECT_THAT(Refusal("adakv", {{"skeleton", "cone"}}), HasSubstr("neither uniform nor pyramid"));
  EXPECT_THAT(Refusal("adakv", {{"beta", "0"}}), HasSubstr("1 or more"));
  EXPECT_THAT(Refusal("pyramidkv", {{"beta", "0"}}), HasSubstr("1 or more"));
  EXPECT_THAT(Refusal("chunkkv", {{"chunk_tokens", "0"}}), HasSubstr("1 or more"));
  EXPECT_THAT(Refusal("chunkkv", {{"reuse_layers", "0"}}), HasSubstr("1 or more"));
  EXPECT_THAT(Refusal("h2o", {{"recent_share", "2"}}), HasSubstr("in [0, 1]"));
  EXPECT_THAT(Refusal("tova", {{"decode_every", "-1"}}), HasSubstr("0 or more"));
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
    if (row().apply_budget != nullptr || retrieves()) options["budget"] = std::to_string(kBudget);
    if (retrieves()) options.insert({{"recent_window", "19"}, {"dense_layers", "0"}});
    return options;
  }

  bool is_scored() const { return row().make_parts().scorer != nullptr; }
  bool retrieves() const { return row().make_parts().retrieval != nullptr; }
  // Windows and sinks of a few entries, so that short prompts have something to choose.
  Options ScoredOptions() const {
    Options options;
    const auto plain = Recipe::Create(row().name, {});
    CACHETTE_CHECK(plain.ok());
    for (const OptionInfo& info : plain->Options()) {
      if (info.name == "scorer.window" || info.name == "protect.recent_window")
        options.insert_or_assign(info.name, "5");
      if (info.name == "protect.sinks") options.insert_or_assign(info.name, "2");
    }
    return options;
  }
  // Prefill that evicts once, after each chunk, and after each chunk with a patch.
  static std::vector<Options> Schedules() {
    return {{{"trigger.prefill", "post_fill"}},
            {{"trigger.prefill", "chunked"}},
            {{"trigger.prefill", "chunked"}, {"trigger.patch", "5"}}};
  }
  Recipe Made(Options options, const Options& more, const CacheShape& shape) const {
    options.insert(more.begin(), more.end());
    auto recipe = Recipe::Create(row().name, options);
    EXPECT_TRUE(recipe.ok()) << recipe.failure().message;
    EXPECT_TRUE(recipe->Prepare(shape).ok());
    return *std::move(recipe);
  }
  CacheShape ShapeOf(const Recipe& recipe) const {
    CacheShape shape = Shape(2, 2);
    shape.has_scores = recipe.has_running_score();
    shape.units = recipe.unit_shape();
    return shape;
  }

  static constexpr int64_t kBudget = 40;
  const TextFile mask_{"0 1\n1 0\n"};
};
INSTANTIATE_TEST_SUITE_P(Rows, EveryRecipe, ::testing::Range(0, static_cast<int>(AllRecipes().size())),
                         [](const auto& row) {
                           std::string name = AllRecipes()[static_cast<size_t>(row.param)].name;
                           for (char& c : name)
                             if (c == '+') c = 'P';  // names of tests are made of letters
                           return name;
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
  if (is_scored() || retrieves()) return;  // below
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

// What a retrieving recipe promises at every edge: sinks and recent window stay in the stream, nothing dies, and tiers,
// streams, units and ledger agree.
TEST_P(EveryRecipe, RetrievedEntriesLiveInOneTierOrTheOther) {
  if (!retrieves()) return;
  for (const int64_t num_prompt : {int64_t{1}, kBlock - 1, kBlock, kBlock + 1, 2 * kBlock + 19, int64_t{200}})
    for (const int64_t chunk : {1, 7, 16, 1000}) {
      SCOPED_TRACE(fmt::format("prompt {} chunk {}", num_prompt, chunk));
      Recipe recipe = Made(SmallOptions(), {}, Shape(2, 2));
      const CacheShape shape = ShapeOf(recipe);
      const auto slow = RecordStore::Create("ram", shape.format.block_bytes());
      ASSERT_TRUE(slow.ok());
      Tier tier(TierKind::kHost);
      SequenceCache cache(tier, shape, slow->get());
      const SequenceCache* sequence = &cache;
      PassDriver driver(std::move(recipe), cache);
      const auto expect_whole = [&] {
        ASSERT_THAT(CheckInvariants(tier, {&sequence, 1}), IsEmpty());
        ASSERT_EQ(cache.ledger().total_live_entries(), 4 * cache.num_tokens());
        for (int i = 0; i < 4; ++i) {
          const std::vector<int32_t> kept = LivePositions(cache.stream(i / 2, i % 2));
          const int64_t num_tokens = cache.num_tokens(), num_sinks = std::min<int64_t>(kBlock, num_tokens);
          ASSERT_GE(static_cast<int64_t>(kept.size()), std::min<int64_t>(num_tokens, kBlock + 19));
          for (int64_t s = 0; s < num_sinks; ++s) ASSERT_EQ(kept[static_cast<size_t>(s)], s);
          for (int64_t r = 1; r <= std::min<int64_t>(num_tokens - num_sinks, 19); ++r)
            ASSERT_EQ(kept[kept.size() - static_cast<size_t>(r)], num_tokens - r);
        }
      };
      for (int turn = 0; turn < 2; ++turn) {
        driver.Prefill(num_prompt, chunk);
        expect_whole();
        for (int i = 0; i < 50; ++i) {
          driver.Decode(1);
          expect_whole();
          if (HasFatalFailure()) return;
        }
      }
      EXPECT_EQ(cache.ledger().Footprint(), 1.0);
      EXPECT_GT(cache.units(1, 1).num_units(), 0);
      EXPECT_LE(cache.stream(1, 1).num_live(), shape.units.local_entries);
    }
}

// A scored recipe's promises at every edge: what stays is a sorted subset of what was there, after each pass that
// evicts no more of it than there are places on average over the KV heads, and pool, streams and ledger agree.
TEST_P(EveryRecipe, ScoredEntriesStayWithinTheirPlaces) {
  if (!is_scored()) return;
  constexpr double kFraction = 0.3;
  for (const Options& schedule : Schedules())
    for (const bool has_budget : {false, true})
      for (const int64_t num_prompt : {int64_t{1}, int64_t{2}, kBlock - 1, kBlock, kBlock + 1, int64_t{39}, int64_t{40},
                                       int64_t{41}, int64_t{150}})
        for (const int64_t chunk : {1, 7, 16, 1000}) {
          Options limit = schedule;
          limit[has_budget ? "budget" : "keep_fraction"] = has_budget ? std::to_string(kBudget) : "0.3";
          Recipe recipe = Made(ScoredOptions(), limit, Shape(2, 2));
          SCOPED_TRACE(fmt::format("prompt {} chunk {} patch {} {}", num_prompt, chunk, recipe.num_patch_tokens(),
                                   has_budget ? "budget" : "fraction"));
          const bool is_per_chunk = recipe.parts().trigger->acts_per_chunk();
          const int64_t least = recipe.parts().protect == nullptr ? 0 : recipe.parts().protect->least_entries();
          const CacheShape shape = ShapeOf(recipe);
          Tier tier(TierKind::kHost);
          SequenceCache cache(tier, shape);
          const SequenceCache* sequence = &cache;
          PassDriver driver(std::move(recipe), cache);
          // Most entries per KV head on average, after the last eviction and since.
          int64_t places = 0, since = 0, num_decoded = 0;
          for (int64_t begin = 0; begin < num_prompt + 30;) {
            const bool is_prefill = begin < num_prompt;
            PassInfo pass{is_prefill ? Phase::kPrefill : Phase::kDecode, begin, 1};
            if (is_prefill) {
              pass.num_tokens = std::min<int64_t>(chunk, num_prompt - begin);
              pass.is_last_prefill_chunk = begin + pass.num_tokens == num_prompt;
              if (!pass.is_last_prefill_chunk)
                pass.num_transient = std::min(driver.run().recipe().num_patch_tokens(), num_prompt);
            }
            std::vector<std::vector<int32_t>> before, after;
            for (int i = 0; i < 4; ++i) {
              before.push_back(LivePositions(cache.stream(i / 2, i % 2)));
              for (int64_t t = 0; t < pass.num_tokens; ++t) before.back().push_back(static_cast<int32_t>(begin + t));
            }
            driver.Pass(pass);
            ASSERT_THAT(CheckInvariants(tier, {&sequence, 1}), IsEmpty());
            ASSERT_EQ(cache.HeldBytes(), static_cast<int64_t>(tier.owned_bytes()));
            for (int i = 0; i < 4; ++i) {
              const std::vector<int32_t> kept = LivePositions(cache.stream(i / 2, i % 2));
              ASSERT_TRUE(std::is_sorted(kept.begin(), kept.end()));
              const std::vector<int32_t>& there = before[static_cast<size_t>(i)];
              ASSERT_TRUE(std::includes(there.begin(), there.end(), kept.begin(), kept.end()));
            }
            begin += pass.num_tokens;
            num_decoded = is_prefill ? 0 : num_decoded + 1;
            const bool fires = driver.run().recipe().parts().trigger->FiresAfter({pass, num_decoded});
            since = fires ? 0 : since + pass.num_tokens;
            if (fires && has_budget) {
              places = std::min(begin, kBudget);
            } else if (fires && is_prefill) {
              const int64_t count = is_per_chunk ? pass.num_tokens : num_prompt;
              const auto share = static_cast<int64_t>(std::nearbyint(kFraction * static_cast<double>(count)));
              places = (is_per_chunk ? places : 0) + std::min(std::max(share, least), count);
            }
            ASSERT_LE(cache.ledger().total_live_entries(), 4 * (places + since)) << "after token " << begin;
          }
          const Ledger& ledger = cache.ledger();
          EXPECT_GT(ledger.Footprint(), 0.0);
          EXPECT_LE(ledger.Footprint(), 1.0);
          EXPECT_GE(ledger.TransientPeakEntries(), ledger.PeakEntries());
        }
}

TEST_P(EveryRecipe, KeepingAllIsTheFullCache) {
  if (!is_scored()) return;
  for (const Options& schedule : Schedules())
    for (const char* limit : {"keep_fraction", "budget"}) {
      Recipe recipe = Made(schedule, {{limit, limit == std::string("budget") ? "1000" : "1"}}, Shape(2, 2));
      const CacheShape shape = ShapeOf(recipe);
      Tier tier(TierKind::kHost);
      SequenceCache cache(tier, shape);
      PassDriver driver(std::move(recipe), cache);
      driver.Prefill(90, 16);
      driver.Decode(140);  // past R-KV's stride
      EXPECT_EQ(cache.ledger().Footprint(), 1.0) << limit;
      EXPECT_EQ(cache.ledger().Peak(), 1.0);
      EXPECT_EQ(cache.ledger().total_live_entries(), 4 * 230);
    }
}

// A copy of a run goes on like the original, and gives back all that it held.
TEST_P(EveryRecipe, CopiesGoOnAlikeAndReturnTheirBlocks) {
  for (const Options& schedule : is_scored() ? Schedules() : std::vector<Options>{Options()}) {
    Options options = is_scored() ? ScoredOptions() : SmallOptions();
    if (is_scored()) options["budget"] = std::to_string(kBudget);
    Recipe recipe = Made(options, schedule, Shape(2, 2));
    const CacheShape shape = ShapeOf(recipe);
    const auto slow = RecordStore::Create("ram", shape.format.block_bytes());
    ASSERT_TRUE(slow.ok());
    Tier tier(TierKind::kHost);
    SequenceCache cache(tier, shape, slow->get());
    PassDriver driver(std::move(recipe), cache);
    driver.Prefill(100, 30);
    driver.Decode(3);
    const size_t owned_bytes = tier.owned_bytes();
    std::vector<std::vector<int32_t>> original, of_copy, again;
    const auto list = [](const SequenceCache& from, std::vector<std::vector<int32_t>>& to) {
      for (int i = 0; i < 4; ++i) {
        to.push_back(LivePositions(from.stream(i / 2, i % 2)));
        for (int64_t u = 0; from.has_units() && u < from.units(i / 2, i % 2).num_units(); ++u) {
          const std::span<const int32_t> of_unit = from.units(i / 2, i % 2).positions(u);
          to.emplace_back(of_unit.begin(), of_unit.end());
        }
      }
    };
    list(cache, original);
    {
      auto copy = cache.Clone();
      ASSERT_TRUE(copy.ok());
      size_t guessed_bytes = 0;  // not copied
      for (int i = 0; retrieves() && i < 4; ++i)
        guessed_bytes += cache.guesses(i / 2, i % 2).size() * shape.format.block_bytes();
      EXPECT_EQ(tier.owned_bytes(), 2 * owned_bytes - guessed_bytes);
      PassDriver copy_driver(driver, *copy);
      copy_driver.Decode(135);
      list(*copy, of_copy);
      list(cache, again);
      const SequenceCache* both[] = {&cache, &*copy};
      EXPECT_THAT(CheckInvariants(tier, both), IsEmpty());
    }
    EXPECT_EQ(again, original);
    EXPECT_EQ(tier.owned_bytes(), owned_bytes);
    driver.Decode(135);
    again.clear();
    list(cache, again);
    EXPECT_EQ(again, of_copy);
  }
}

TEST_P(EveryRecipe, FootprintNeverRisesWhenThePlacesFall) {
  if (!is_scored()) return;
  const std::vector<std::pair<const char*, std::vector<const char*>>> limits = {
      {"budget", {"1000", "200", "100", "64", "40", "17", "8"}},
      {"keep_fraction", {"1", "0.9", "0.7", "0.5", "0.25", "0.1", "0.01"}}};
  for (const Options& schedule : Schedules())
    for (const auto& [limit, values] : limits) {
      double last_footprint = 1.0, last_peak = 1.0;
      for (const char* value : values) {
        Options options = schedule;
        options[limit] = value;
        Recipe recipe = Made(ScoredOptions(), options, Shape(2, 2));
        const CacheShape shape = ShapeOf(recipe);
        Tier tier(TierKind::kHost);
        SequenceCache cache(tier, shape);
        PassDriver driver(std::move(recipe), cache);
        driver.Prefill(150, 20);
        driver.Decode(60);
        EXPECT_LE(cache.ledger().Footprint(), last_footprint) << limit << " " << value;
        EXPECT_LE(cache.ledger().Peak(), last_peak) << limit << " " << value;
        last_footprint = cache.ledger().Footprint();
        last_peak = cache.ledger().Peak();
      }
      EXPECT_LT(last_footprint, 0.9) << limit;
    }
}

TEST_P(EveryRecipe, FootprintNeverRisesWhenTheBudgetFalls) {
  if (row().apply_budget == nullptr) {
    EXPECT_EQ(Recipe::Create(row().name, {{"budget", "100"}}).ok(), is_scored() || retrieves());
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
