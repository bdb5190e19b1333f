// The ledger against the closed forms of KV footprint (arXiv:2506.17121), as integers, through cache and recipes.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "methods/pass_driver.h"
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

CacheShape Shape(int num_layers, int num_kv_heads) {
  return {.num_layers = num_layers, .num_kv_heads = num_kv_heads, .format = {Dtype::kF16, 8}};
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

TEST(Footprint, HeadMixtureReproducesThePublishedExamples) {
  struct Example {
    int64_t num_prompt, num_output, chunk;
    int num_kv_heads;
    const char* mask;
    double footprint, peak;
  };
  const char* half = "1 0\n";
  const char* seven_of_ten = "0 1 0 0 1 0 0 0 1 0\n";
  for (const Example& e : {Example{512, 8192, 512, 2, half, 0.623687366962868, 0.566233915441177},
                           Example{131072, 1024, 32768, 10, seven_of_ten, 0.481481942474384, 0.477422480620155},
                           Example{131072, 1024, 131072, 10, seven_of_ten, 0.989284119556729, 0.992248062015504}}) {
    const TextFile mask(e.mask);
    Tier tier(TierKind::kHost);
    const CacheShape shape = Shape(1, e.num_kv_heads);
    SequenceCache cache(tier, shape);
    Recipe recipe =
        MakeRecipe("heads", {{"mask-file", mask.path()}, {"sinks", "128"}, {"recent-window", "1024"}}, shape);
    PassDriver driver(std::move(recipe), cache);
    driver.Prefill(e.num_prompt, e.chunk);
    driver.Decode(e.num_output);
    EXPECT_NEAR(cache.ledger().Footprint(), e.footprint, 1e-12);
    EXPECT_NEAR(cache.ledger().Peak(), e.peak, 1e-12);
  }
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
