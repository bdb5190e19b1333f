// The ledger against the closed forms of KV footprint (arXiv:2506.17121), as integers, through cache and recipes.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "eval/footprint.h"
#include "methods/pass_driver.h"
#include "methods/recipe_checks.h"
#include "methods/text_file.h"

namespace cachette {
namespace {

using ::testing::IsEmpty;

struct Case {
  int64_t num_prompt, num_output, chunk, num_sinks, recent_window;
};

// Area and the largest peak point of one head.
struct ClosedForm {
  int64_t area = 0;
  int64_t peak = 0;
};

ClosedForm StreamingForm(const Case& c) {
  const auto past = [&](int64_t a) {
    const int64_t w = std::min(a, c.recent_window);
    return w + std::min(a - w, c.num_sinks);
  };
  ClosedForm form;
  for (int64_t a = 0; a < c.num_prompt; a += c.chunk) {
    const int64_t z = std::min(c.chunk, c.num_prompt - a);
    form.area += Triangle(z) + z * past(a);
    form.peak = std::max(form.peak, z + past(a));
  }
  for (int64_t a = c.num_prompt; a < c.num_prompt + c.num_output; ++a) form.area += 1 + past(a);
  if (c.num_output > 0) form.peak = std::max(form.peak, 1 + past(c.num_prompt + c.num_output - 1));
  return form;
}

FootprintResult Published(const FootprintParams& params) {
  const auto result = FootprintOf(params);
  EXPECT_TRUE(result.ok()) << result.failure().message;
  return result.ok() ? *result : FootprintResult{};
}

Recipe MakeRecipe(const char* name, const std::map<std::string, std::string>& options, const CacheShape& shape) {
  auto recipe = Recipe::Create(name, options);
  EXPECT_TRUE(recipe.ok()) << recipe.failure().message;
  const auto prepared = recipe->Prepare(shape);
  EXPECT_TRUE(prepared.ok()) << prepared.failure().message;
  return *std::move(recipe);
}

Recipe MakeStreaming(const Case& c, const CacheShape& shape) {
  return MakeRecipe(
      "streaming", {{"sinks", std::to_string(c.num_sinks)}, {"recent-window", std::to_string(c.recent_window)}}, shape);
}

std::string Name(const Case& c) {
  return "n " + std::to_string(c.num_prompt) + " m " + std::to_string(c.num_output) + " chunk " +
         std::to_string(c.chunk) + " S " + std::to_string(c.num_sinks) + " W " + std::to_string(c.recent_window);
}

// Area and peak by definition, from the list of lines of one stream per (layer, KV head).
ClosedForm ReduceLines(const Ledger& ledger) {
  const int64_t num_tokens = ledger.num_tokens();
  std::vector<int64_t> change(static_cast<size_t>(num_tokens) + 1);  // of the live count, at each step
  ClosedForm reduced;
  for (const LedgerLine& line : ledger.lines()) {
    for (int64_t i = 0; i < line.num_entries; ++i) {
      const int64_t step = line.event == LedgerEvent::kAppend ? line.step + i : line.step;
      const int sign = line.event == LedgerEvent::kAppend ? 1 : -1;
      reduced.area += sign * (num_tokens - step);
      change[static_cast<size_t>(step)] += sign;
    }
  }
  int64_t live = 0;
  for (const int64_t delta : change) reduced.peak = std::max(reduced.peak, live += delta);
  return reduced;
}

void ExpectStreamingForm(const Case& c) {
  SCOPED_TRACE(Name(c));
  Tier tier(TierKind::kHost);
  const CacheShape shape = Shape(2, 2);
  SequenceCache cache(tier, shape);
  cache.ledger().set_recording(true);
  Recipe recipe = MakeStreaming(c, shape);
  PassDriver driver(std::move(recipe), cache);
  driver.Prefill(c.num_prompt, c.chunk);
  driver.Decode(c.num_output);
  const ClosedForm form = StreamingForm(c);
  const Ledger& ledger = cache.ledger();
  ASSERT_EQ(ledger.Area(), 4 * form.area);
  ASSERT_EQ(ledger.PeakEntries(), 4 * form.peak);
  const ClosedForm reduced = ReduceLines(ledger);
  ASSERT_EQ(reduced.area, 4 * form.area);
  ASSERT_EQ(reduced.peak, 4 * form.peak);
  const SequenceCache* sequence = &cache;
  ASSERT_THAT(CheckInvariants(tier, {&sequence, 1}), IsEmpty());
  const FootprintResult published = Published({.which = FootprintClass::kStreaming,
                                               .prompt = c.num_prompt,
                                               .output = c.num_output,
                                               .chunk = c.chunk,
                                               .sinks = c.num_sinks,
                                               .window = c.recent_window});
  ASSERT_EQ(ledger.Area(), 4 * published.streaming->area);
  ASSERT_EQ(ledger.PeakEntries(), 4 * published.streaming->peak_entries);
}

TEST(Footprint, StreamingEqualsTheClosedFormOnARandomGrid) {
  Rng rng(2506);
  const auto pick = [&](int64_t bound) { return static_cast<int64_t>(rng.Below(static_cast<uint64_t>(bound))); };
  for (int round = 0; round < 300; ++round) {
    Case c;
    c.num_prompt = 1 + pick(120);
    c.num_output = pick(4) == 0 ? 0 : pick(60);
    c.chunk = pick(5) == 0 ? c.num_prompt + pick(9) : 1 + pick(40);  // one chunk, or a short last one
    c.num_sinks = pick(3) == 0 ? 0 : pick(pick(4) == 0 ? 200 : 10);
    c.recent_window = pick(4) == 0 ? 0 : pick(pick(4) == 0 ? 400 : 50);
    ExpectStreamingForm(c);
    if (HasFatalFailure()) return;
  }
}

TEST(Footprint, StreamingEqualsTheClosedFormAtTheEdges) {
  for (const int64_t sinks : {0, 1, 15, 16, 17, 1000})
    for (const int64_t window : {0, 1, 15, 16, 17, 64, 1000})
      for (const int64_t chunk : {1, 16, 17, 64, 100})
        for (const int64_t num_output : {0, 1, 33}) {
          ExpectStreamingForm({64, num_output, chunk, sinks, window});
          if (HasFatalFailure()) return;
        }
}

TEST(Footprint, FullIsOneForAnyChunk) {
  for (const int64_t chunk : {1, 7, 64, 100}) {
    Tier tier(TierKind::kHost);
    const CacheShape shape = Shape(1, 2);
    SequenceCache cache(tier, shape);
    Recipe recipe = MakeRecipe("full", {}, shape);
    PassDriver driver(std::move(recipe), cache);
    driver.Prefill(64, chunk);
    driver.Decode(20);
    EXPECT_EQ(cache.ledger().Area(), 2 * Triangle(84));
    EXPECT_EQ(cache.ledger().PeakEntries(), 2 * 84);
    EXPECT_EQ(cache.ledger().Footprint(), 1.0);
    EXPECT_EQ(cache.ledger().Peak(), 1.0);
  }
}

// Figures computed with the official analysis functions.
TEST(Footprint, StreamingReproducesThePublishedExamples) {
  struct Example {
    Case c;
    double footprint, peak;
  };
  for (const Example& e : {Example{{10, 5, 4, 1, 2}, 0.508333333333333, 0.466666666666667},
                           Example{{131072, 1024, 32768, 128, 1024}, 0.259259917820549, 0.256782945736434},
                           Example{{131072, 1024, 128, 128, 1024}, 0.018326326208607, 0.009689922480620},
                           Example{{131072, 1024, 131072, 128, 1024}, 0.984691599366756, 0.992248062015504}}) {
    SCOPED_TRACE(Name(e.c));
    Tier tier(TierKind::kHost);
    const CacheShape shape = Shape(1, 1);
    SequenceCache cache(tier, shape);
    Recipe recipe = MakeStreaming(e.c, shape);
    PassDriver driver(std::move(recipe), cache);
    driver.Prefill(e.c.num_prompt, e.c.chunk);
    driver.Decode(e.c.num_output);
    EXPECT_NEAR(cache.ledger().Footprint(), e.footprint, 1e-12);
    EXPECT_NEAR(cache.ledger().Peak(), e.peak, 1e-12);
  }
}

struct HeadMixture {
  int64_t num_prompt, num_output, chunk;
  int num_kv_heads;
  const char* mask;
  double footprint, peak;
};

void ExpectHeadMixture(const HeadMixture& e) {
  const TextFile mask(e.mask);
  Tier tier(TierKind::kHost);
  const CacheShape shape = Shape(1, e.num_kv_heads);
  SequenceCache cache(tier, shape);
  Recipe recipe = MakeRecipe("heads", {{"mask-file", mask.path()}, {"sinks", "128"}, {"recent-window", "1024"}}, shape);
  PassDriver driver(std::move(recipe), cache);
  driver.Prefill(e.num_prompt, e.chunk);
  driver.Decode(e.num_output);
  EXPECT_NEAR(cache.ledger().Footprint(), e.footprint, 1e-12);
  EXPECT_NEAR(cache.ledger().Peak(), e.peak, 1e-12);
}

TEST(Footprint, HeadMixtureReproducesThePublishedExample) {
  ExpectHeadMixture({512, 8192, 512, 2, "1 0\n", 0.623687366962868, 0.566233915441177});
}

TEST(FootprintSlow, HeadMixtureReproducesThePublishedLongPrompts) {
  const char* seven_of_ten = "0 1 0 0 1 0 0 0 1 0\n";
  ExpectHeadMixture({131072, 1024, 32768, 10, seven_of_ten, 0.481481942474384, 0.477422480620155});
  ExpectHeadMixture({131072, 1024, 131072, 10, seven_of_ten, 0.989284119556729, 0.992248062015504});
}

// ---- Heads that evict by score ----

// A prompt and output through a recipe whose places are the published ones: 1 - sparsity of each chunk, and the
// protected entries.
struct Evicting {
  const char* recipe;
  std::map<std::string, std::string> options = {};
  FootprintParams form;
  int64_t prefill_chunk = 0;
  int64_t patch = 0;
};

void ExpectEvictingForm(const Evicting& c, const CacheShape& cache_shape) {
  SCOPED_TRACE(fmt::format("{} n {} m {} chunk {} ({}) sparsity {} protected {} patch {}", c.recipe, c.form.prompt,
                           c.form.output, c.form.chunk, c.prefill_chunk, c.form.sparsity, c.form.protected_entries,
                           c.patch));
  auto options = c.options;
  options["keep_fraction"] = fmt::format("{:.17g}", 1 - c.form.sparsity);
  options["keep_extra"] = std::to_string(c.form.protected_entries);
  options["trigger.prefill"] = c.form.which == FootprintClass::kChunked ? "chunked" : "post_fill";
  options["trigger.patch"] = std::to_string(c.patch);
  Tier tier(TierKind::kHost);
  Recipe recipe = MakeRecipe(c.recipe, options, cache_shape);
  CacheShape shape = cache_shape;
  shape.has_scores = recipe.has_running_score();
  SequenceCache cache(tier, shape);
  PassDriver driver(std::move(recipe), cache);
  driver.Prefill(c.form.prompt, c.prefill_chunk);
  driver.Decode(c.form.output);

  const FootprintResult published = Published(c.form);
  const int64_t num_streams = shape.num_layers * shape.num_kv_heads;
  const Ledger& ledger = cache.ledger();
  ASSERT_EQ(ledger.Area(), num_streams * published.evicting->area);
  ASSERT_EQ(ledger.PeakEntries(), num_streams * published.evicting->peak_entries);
  ASSERT_NEAR(ledger.Footprint(), published.footprint, 1e-12);
  ASSERT_NEAR(ledger.Peak(), published.peak, 1e-12);
  // A patch adds its rows, in one layer at a time, to every pass but the last of the prompt.
  int64_t past = 0, transient_peak = ledger.PeakEntries();
  for (int64_t begin = 0; begin < c.form.prompt; begin += c.prefill_chunk) {
    const int64_t z = std::min(c.prefill_chunk, c.form.prompt - begin);
    if (begin + z < c.form.prompt)
      transient_peak =
          std::max(transient_peak, (past + z) * num_streams + std::min(c.patch, c.form.prompt) * shape.num_kv_heads);
    const auto kept = static_cast<int64_t>(std::nearbyint((1 - c.form.sparsity) * static_cast<double>(z)));
    past += c.form.which == FootprintClass::kChunked ? std::min(kept + c.form.protected_entries, z) : z;
  }
  ASSERT_EQ(ledger.TransientPeakEntries(), transient_peak);
  const SequenceCache* sequence = &cache;
  ASSERT_THAT(CheckInvariants(tier, {&sequence, 1}), IsEmpty());
}

// Recipes whose layers and KV heads keep as many entries on average as the formula says; `random` without its sinks and
// window, which would stay even where they are more than the formula's number.
const std::vector<Evicting> kEvictors = {
    {.recipe = "random", .options = {{"protect.sinks", "0"}, {"protect.recent_window", "0"}}, .form = {}},
    {.recipe = "snapkv", .options = {{"scorer.window", "8"}}, .form = {}},
    {.recipe = "adakv", .options = {{"scorer.window", "5"}}, .form = {}},
    {.recipe = "knorm", .form = {}}};

TEST(Footprint, EvictionEqualsTheClosedFormOnARandomGrid) {
  Rng rng(17424);
  const auto pick = [&](int64_t bound) { return static_cast<int64_t>(rng.Below(static_cast<uint64_t>(bound))); };
  for (int round = 0; round < 300; ++round) {
    Evicting c = kEvictors[static_cast<size_t>(round) % kEvictors.size()];
    const bool is_chunked = pick(3) > 0;
    c.form.which = is_chunked ? FootprintClass::kChunked : FootprintClass::kPostfill;
    c.form.prompt = 1 + pick(150);
    c.form.output = pick(4) == 0 ? 0 : pick(60);
    c.prefill_chunk = pick(5) == 0 ? c.form.prompt + pick(9) : 1 + pick(40);
    c.form.chunk = c.prefill_chunk;
    // Quarters and halves make ties; the others, products that are not exact.
    const double sparsities[] = {0.0, 0.1, 0.25, 0.3, 0.5, 0.5, 0.7, 0.75, 0.9, 0.999};
    c.form.sparsity = sparsities[pick(10)];
    c.form.protected_entries = pick(3) == 0 ? 0 : pick(pick(4) == 0 ? 100 : 9);
    c.patch = is_chunked && pick(2) == 0 ? pick(12) : 0;
    ExpectEvictingForm(c, Shape(2, 2));
    if (HasFatalFailure()) return;
  }
}

// Ties go to the even number: 201 tokens at a half keep 100 and 64 more.
TEST(Footprint, TiesOfRoundingGoToTheEvenNumber) {
  for (const auto& [num_tokens, num_kept] : {std::pair<int64_t, int64_t>{201, 164}, {203, 166}, {64, 64}, {65, 65}}) {
    Tier tier(TierKind::kHost);
    const CacheShape shape = Shape(1, 1);
    SequenceCache cache(tier, shape);
    Recipe recipe = MakeRecipe("knorm", {{"keep_fraction", "0.5"}, {"keep_extra", "64"}}, shape);
    PassDriver driver(std::move(recipe), cache);
    driver.Prefill(num_tokens, num_tokens);
    EXPECT_EQ(cache.stream(0, 0).num_live(), num_kept) << num_tokens;
  }
}

// Figures computed with the official analysis functions.
TEST(Footprint, EvictionReproducesThePublishedExamples) {
  struct Example {
    FootprintParams form;
    double footprint, peak;
  };
  const auto made = [](FootprintClass which, int64_t n, int64_t m, int64_t chunk, double sparsity) {
    return FootprintParams{.which = which, .prompt = n, .output = m, .chunk = chunk, .sparsity = sparsity};
  };
  const auto postfill = FootprintClass::kPostfill, chunked = FootprintClass::kChunked;
  for (const Example& e : {Example{made(postfill, 131072, 1024, 131072, 0.7), 0.989239056359395, 0.992248062015504},
                           Example{made(postfill, 512, 8192, 512, 0.9), 0.914153461499476, 0.954388786764706},
                           Example{made(chunked, 4096, 256, 1024, 0.75), 4425856.0 / 9472128.0, 1984.0 / 4352.0},
                           Example{made(chunked, 131072, 1024, 32768, 0.7), 0.473806451718912, 0.472762233527132},
                           Example{made(chunked, 131072, 1024, 8192, 0.7), 0.350498426895951, 0.348398134689922}}) {
    Evicting c = kEvictors[0];
    c.form = e.form;
    c.prefill_chunk = e.form.chunk;
    ExpectEvictingForm(c, Shape(1, 1));
    EXPECT_NEAR(Published(e.form).footprint, e.footprint, 1e-12);
    EXPECT_NEAR(Published(e.form).peak, e.peak, 1e-12);
  }
}

TEST(Footprint, MixedHeadsEqualTheClosedFormOnARandomGrid) {
  Rng rng(1041);
  const auto pick = [&](int64_t bound) { return static_cast<int64_t>(rng.Below(static_cast<uint64_t>(bound))); };
  for (int round = 0; round < 60; ++round) {
    const int num_kv_heads = static_cast<int>(1 + pick(5));
    std::string mask;
    int64_t num_streaming = 0;
    for (int i = 0; i < num_kv_heads; ++i) {
      const bool streams = pick(2) == 0;
      num_streaming += streams;
      mask += streams ? "0 " : "1 ";
    }
    const FootprintParams form{.which = FootprintClass::kHeads,
                               .prompt = 1 + pick(150),
                               .output = pick(50),
                               .chunk = 1 + pick(60),
                               .head_sparsity = static_cast<double>(num_streaming) / num_kv_heads,
                               .sinks = pick(12),
                               .window = pick(3) == 0 ? 0 : pick(200)};
    const TextFile file(mask + "\n");
    Tier tier(TierKind::kHost);
    const CacheShape shape = Shape(1, num_kv_heads);
    SequenceCache cache(tier, shape);
    Recipe recipe = MakeRecipe("heads",
                               {{"mask-file", file.path()},
                                {"sinks", std::to_string(form.sinks)},
                                {"recent-window", std::to_string(form.window)}},
                               shape);
    PassDriver driver(std::move(recipe), cache);
    driver.Prefill(form.prompt, form.chunk);
    driver.Decode(form.output);
    const FootprintResult published = Published(form);
    ASSERT_EQ(cache.ledger().Area(),
              num_streaming * published.streaming->area + (num_kv_heads - num_streaming) * published.evicting->area);
    ASSERT_NEAR(cache.ledger().Peak(), published.peak, 1e-12);
  }
}

TEST(Footprint, FullEqualsTheClosedForm) {
  Tier tier(TierKind::kHost);
  const CacheShape shape = Shape(3, 1);
  SequenceCache cache(tier, shape);
  PassDriver driver(MakeRecipe("full", {}, shape), cache);
  driver.Prefill(77, 20);
  driver.Decode(11);
  const FootprintResult published = Published({.which = FootprintClass::kFull, .prompt = 77, .output = 11});
  EXPECT_EQ(cache.ledger().Area(), 3 * published.area_full);
  EXPECT_EQ(cache.ledger().Footprint(), published.footprint);
}

// The convention of --budget: B entries at a settled decode step, the current token included.
TEST(Footprint, ABudgetIsWhatASettledDecodeStepHolds) {
  for (const int64_t budget : {6, 7, 16, 17, 64}) {
    Tier tier(TierKind::kHost);
    const CacheShape shape = Shape(1, 2);
    SequenceCache cache(tier, shape), by_window(tier, shape);
    Recipe recipe = MakeRecipe("streaming", {{"budget", std::to_string(budget)}}, shape);
    Recipe same = MakeStreaming({100, 40, 30, 4, budget - 4 - 1}, shape);
    PassDriver driver(std::move(recipe), cache), same_driver(std::move(same), by_window);
    driver.Prefill(100, 30);
    same_driver.Prefill(100, 30);
    for (int step = 0; step < 40; ++step) {
      driver.Decode(1);
      same_driver.Decode(1);
      ASSERT_EQ(cache.stream(0, 1).num_live(), budget);
    }
    EXPECT_EQ(cache.ledger().Area(), by_window.ledger().Area());
    EXPECT_EQ(cache.ledger().PeakEntries(), by_window.ledger().PeakEntries());
  }
}

}  // namespace
}  // namespace cachette
