#include "eval/footprint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "base/rng.h"
#include "cache/ledger.h"
#include "io/temp_folder.h"

namespace cachette {
namespace {

using testing::HasSubstr;

using enum FootprintClass;

FootprintResult Compute(const FootprintParams& params) {
  const Result<FootprintResult> result = FootprintOf(params);
  EXPECT_TRUE(result.ok()) << result.failure().message;
  return result.ok() ? *result : FootprintResult();
}

std::string Name(const FootprintParams& p) {
  return "class " + std::to_string(static_cast<int>(p.which)) + " n " + std::to_string(p.prompt) + " m " +
         std::to_string(p.output) + " c " + std::to_string(p.chunk) + " s " + std::to_string(p.sparsity) + " h " +
         std::to_string(p.head_sparsity) + " S " + std::to_string(p.sinks) + " W " + std::to_string(p.window) +
         " local " + std::to_string(p.local_len) + " P " + std::to_string(p.stabilizers);
}

// Figures computed with the official analysis functions.
TEST(Footprint, ReproducesThePublishedExamples) {
  struct Example {
    FootprintParams params;
    double footprint, peak;
  };
  const Example examples[] = {
      {{.which = kFull, .prompt = 1000, .output = 7}, 1.0, 1.0},
      {{.which = kStreaming, .prompt = 10, .output = 5, .chunk = 4, .sinks = 1, .window = 2},
       0.508333333333333,
       0.466666666666667},
      {{.which = kStreaming, .prompt = 131072, .output = 1024, .chunk = 32768}, 0.259259917820549, 0.256782945736434},
      {{.which = kStreaming, .prompt = 131072, .output = 1024, .chunk = 128}, 0.018326326208607, 0.009689922480620},
      {{.which = kStreaming, .prompt = 131072, .output = 1024, .chunk = 131072}, 0.984691599366756, 0.992248062015504},
      {{.which = kPostfill, .prompt = 131072, .output = 1024, .sparsity = 0.7}, 0.989239056359395, 0.992248062015504},
      {{.which = kPostfill, .prompt = 512, .output = 8192, .sparsity = 0.9}, 0.914153461499476, 0.954388786764706},
      {{.which = kChunked, .prompt = 4096, .output = 256, .chunk = 1024, .sparsity = 0.75},
       0.467250442561587,
       0.455882352941176},
      {{.which = kChunked, .prompt = 131072, .output = 1024, .chunk = 32768, .sparsity = 0.7},
       0.473806451718912,
       0.472762233527132},
      {{.which = kChunked, .prompt = 131072, .output = 1024, .chunk = 8192, .sparsity = 0.7},
       0.350498426895951,
       0.348398134689922},
      {{.which = kHeads, .prompt = 131072, .output = 1024, .chunk = 32768, .head_sparsity = 0.7},
       0.481481942474384,
       0.477422480620155},
      {{.which = kHeads, .prompt = 131072, .output = 1024, .chunk = 131072, .head_sparsity = 0.7},
       0.989284119556729,
       0.992248062015504},
      {{.which = kHeads, .prompt = 512, .output = 8192, .chunk = 512, .head_sparsity = 0.5},
       0.623687366962868,
       0.566233915441177},
      {{.which = kLocret, .prompt = 131072, .output = 1024, .chunk = 32768, .sparsity = 0.7},
       0.529618965990050,
       0.527328609496124},
  };
  for (const Example& example : examples) {
    SCOPED_TRACE(Name(example.params));
    const FootprintResult result = Compute(example.params);
    EXPECT_NEAR(result.footprint, example.footprint, 1e-12);
    EXPECT_NEAR(result.peak, example.peak, 1e-12);
  }
}

TEST(Footprint, AreasAreExactIntegers) {
  const FootprintResult by_hand =
      Compute({.which = kStreaming, .prompt = 10, .output = 5, .chunk = 4, .sinks = 1, .window = 2});
  EXPECT_EQ(by_hand.streaming->area, 61);
  EXPECT_EQ(by_hand.streaming->peak_entries, 7);
  EXPECT_EQ(by_hand.area_full, 120);
  EXPECT_FALSE(by_hand.evicting.has_value());
  const FootprintResult chunked =
      Compute({.which = kChunked, .prompt = 4096, .output = 256, .chunk = 1024, .sparsity = 0.75});
  EXPECT_EQ(chunked.evicting->area, 4425856);
  EXPECT_EQ(chunked.evicting->peak_entries, 1984);
  EXPECT_EQ(chunked.area_full, 9472128);
  EXPECT_FALSE(chunked.streaming.has_value());
  // The largest areas that fit: nothing wraps around.
  const int64_t most = FootprintParams::kMaxTokens;
  const FootprintResult largest = Compute({.which = kHeads,
                                           .prompt = most - 9,
                                           .output = 9,
                                           .chunk = most,
                                           .head_sparsity = 0.5,
                                           .sinks = most,
                                           .window = most});
  EXPECT_EQ(largest.area_full, most * ((most + 1) / 2));
  EXPECT_EQ(largest.streaming->area, largest.area_full);
  EXPECT_EQ(largest.evicting->area, largest.area_full);
  EXPECT_DOUBLE_EQ(largest.footprint, 1.0);
}

// 201 tokens at one half: 100.5 is rounded to 100, not to 101, and 64 more are kept.
TEST(Footprint, TiesRoundToEven) {
  for (const auto& [prompt, kept] : {std::pair(201, 164), {203, 166}, {200, 164}, {202, 165}}) {
    const FootprintResult result = Compute({.which = kPostfill, .prompt = prompt, .output = 1, .sparsity = 0.5});
    EXPECT_EQ(result.evicting->area, Triangle(prompt) + 1 + kept) << prompt;
  }
}

TEST(Footprint, SmallChunksEvictNothing) {
  for (const int64_t chunk : {1, 63, 64}) {
    const FootprintResult result =
        Compute({.which = kChunked, .prompt = 1000, .output = 10, .chunk = chunk, .sparsity = 1.0});
    EXPECT_EQ(result.evicting->area, Triangle(1010));
    EXPECT_EQ(result.peak, 1.0);
  }
  EXPECT_LT(Compute({.which = kChunked, .prompt = 1000, .output = 10, .chunk = 65, .sparsity = 1.0}).footprint, 1.0);
}

TEST(Footprint, ChunkZeroStandsForTheLongestPublishedPrompt) {
  FootprintParams params{.which = kChunked, .prompt = 200000, .output = 10, .chunk = 0, .sparsity = 0.5};
  const FootprintResult zero = Compute(params);
  params.chunk = 131072;
  EXPECT_EQ(zero.evicting->area, Compute(params).evicting->area);
  params.which = kPostfill;  // really one chunk
  EXPECT_LT(zero.evicting->area, Compute(params).evicting->area);
}

// A budget of everything is the full cache, at every chunk; and a prompt alone costs the same after the fact.
TEST(Footprint, Identities) {
  for (const int64_t chunk : {0, 1, 7, 64, 300, 1000}) {
    for (const int64_t output : {0, 1, 50}) {
      FootprintParams params{.prompt = 301, .output = output, .chunk = chunk, .sinks = 0, .window = 351};
      for (const FootprintClass which : {kFull, kStreaming, kPostfill, kChunked, kHeads, kLocret}) {
        params.which = which;
        params.head_sparsity = 0.25;
        SCOPED_TRACE(Name(params));
        const FootprintResult result = Compute(params);
        EXPECT_DOUBLE_EQ(result.footprint, 1.0);
        EXPECT_DOUBLE_EQ(result.peak, 1.0);
        EXPECT_EQ(result.streaming.value_or(HeadForm{.area = result.area_full}).area, result.area_full);
        EXPECT_EQ(result.evicting.value_or(HeadForm{.area = result.area_full}).area, result.area_full);
      }
    }
    // Sinks alone, or the same number of last tokens: what is held is the same.
    const FootprintResult sinks =
        Compute({.which = kStreaming, .prompt = 301, .output = 50, .chunk = chunk, .sinks = 40, .window = 0});
    const FootprintResult window =
        Compute({.which = kStreaming, .prompt = 301, .output = 50, .chunk = chunk, .sinks = 0, .window = 40});
    EXPECT_EQ(sinks.streaming->area, window.streaming->area);
    EXPECT_EQ(sinks.peak, window.peak);
  }
  EXPECT_EQ(Compute({.which = kPostfill, .prompt = 500, .sparsity = 0.9}).footprint, 1.0);
  for (const double s : {0.1, 0.5, 1.0}) {
    const FootprintResult chunked =
        Compute({.which = kChunked, .prompt = 500, .output = 9, .chunk = 500, .sparsity = s});
    EXPECT_EQ(chunked.footprint, Compute({.which = kPostfill, .prompt = 500, .output = 9, .sparsity = s}).footprint);
    const FootprintResult locret = Compute({.which = kLocret,
                                            .prompt = 500,
                                            .output = 9,
                                            .chunk = 20,
                                            .sparsity = s,
                                            .local_len = 500,
                                            .stabilizers = 64});
    EXPECT_EQ(locret.footprint, chunked.footprint);
  }
  for (const double share : {0.0, 1.0}) {
    FootprintParams params{
        .which = kHeads, .prompt = 500, .output = 9, .chunk = 100, .head_sparsity = share, .window = 9};
    const FootprintResult mixed = Compute(params);
    params.which = share == 1.0 ? kStreaming : kFull;
    EXPECT_EQ(mixed.footprint, Compute(params).footprint);
    EXPECT_EQ(mixed.peak, Compute(params).peak);
  }
}

// One head, entry by entry: when each was born and died.
struct Head {
  std::vector<int64_t> deaths;  // [num_tokens]; entry j is born at step j

  explicit Head(int64_t num_tokens) : deaths(static_cast<size_t>(num_tokens), num_tokens) {}
  int64_t num_tokens() const { return static_cast<int64_t>(deaths.size()); }
  int64_t Area() const {
    int64_t area = 0;
    for (int64_t j = 0; j < num_tokens(); ++j) area += deaths[static_cast<size_t>(j)] - j;
    return area;
  }
  std::vector<int64_t> Live() const {  // at each step
    std::vector<int64_t> live(deaths.size());
    for (int64_t j = 0; j < num_tokens(); ++j)
      for (int64_t t = j; t < deaths[static_cast<size_t>(j)]; ++t) ++live[static_cast<size_t>(t)];
    return live;
  }
};

std::vector<int64_t> PassBegins(const FootprintParams& p) {
  std::vector<int64_t> begins;
  const int64_t chunk = p.which == kPostfill ? p.prompt : p.chunk;
  const int64_t own_chunk = p.which == kLocret ? std::max<int64_t>(0, p.prompt - p.local_len) : p.prompt;
  for (int64_t a = 0; a < p.prompt; ++a)
    if (a == own_chunk || (a < own_chunk && a % chunk == 0)) begins.push_back(a);
  return begins;
}

// Before every pass only the sinks and the last window tokens before it survive.
Head SimulateStreaming(const FootprintParams& p) {
  Head head(p.prompt + p.output);
  std::vector<int64_t> begins = PassBegins(p);
  for (int64_t a = p.prompt; a < p.prompt + p.output; ++a) begins.push_back(a);
  for (const int64_t a : begins)
    for (int64_t j = p.sinks; j < a - p.window; ++j) {
      int64_t& death = head.deaths[static_cast<size_t>(j)];
      death = std::min(death, a);
    }
  return head;
}

// After each chunk a random choice of its entries survives. sixteenths / 16 is the sparsity: all of it is exact.
Head SimulateEvicting(const FootprintParams& p, int64_t sixteenths, Rng& rng) {
  Head head(p.prompt + p.output);
  std::vector<int64_t> begins = PassBegins(p);
  begins.push_back(p.prompt);
  for (size_t i = 0; i + 1 < begins.size(); ++i) {
    const int64_t z = begins[i + 1] - begins[i];
    const int64_t product = (16 - sixteenths) * z;
    int64_t kept = product / 16;
    if (product % 16 > 8 || (product % 16 == 8 && kept % 2 == 1)) ++kept;
    kept += p.which == kLocret ? p.stabilizers : 64;
    std::vector<int64_t> chunk(static_cast<size_t>(z));
    std::iota(chunk.begin(), chunk.end(), begins[i]);
    while (static_cast<int64_t>(chunk.size()) > kept) {
      const size_t victim = rng.Below(chunk.size());
      head.deaths[static_cast<size_t>(chunk[victim])] = begins[i + 1];
      chunk.erase(chunk.begin() + static_cast<int64_t>(victim));
    }
  }
  return head;
}

// The same history told to a ledger, chunk by chunk.
Ledger Tell(const Head& head, const FootprintParams& p) {
  Ledger ledger(1);
  std::vector<int64_t> begins = PassBegins(p);
  for (int64_t a = p.prompt; a <= p.prompt + p.output; ++a) begins.push_back(a);
  for (size_t i = 0; i + 1 < begins.size(); ++i) {
    for (int64_t j = 0; j < begins[i]; ++j)
      if (head.deaths[static_cast<size_t>(j)] == begins[i]) ledger.Evict(0, j, 1, 1);
    ledger.BeginPass(begins[i], begins[i + 1] - begins[i]);
    ledger.Append(0, begins[i], begins[i + 1] - begins[i], 1);
    ledger.EndPass();
  }
  return ledger;
}

TEST(Footprint, EqualsASimulationOfEveryEntryOnARandomGrid) {
  Rng rng(2506);
  const auto pick = [&](int64_t bound) { return static_cast<int64_t>(rng.Below(static_cast<uint64_t>(bound))); };
  for (int round = 0; round < 500; ++round) {
    FootprintParams p;
    const FootprintClass classes[] = {kStreaming, kPostfill, kChunked, kHeads, kLocret};
    p.which = classes[round % 5];
    p.prompt = pick(20) == 0 ? 0 : 1 + pick(400);
    p.output = p.prompt == 0 ? 1 + pick(50) : pick(4) == 0 ? 0 : pick(80);
    p.chunk = pick(5) == 0 ? p.prompt + 1 + pick(9) : 1 + pick(250);
    const int64_t sixteenths = pick(17);
    p.sparsity = static_cast<double>(sixteenths) / 16;
    p.head_sparsity = static_cast<double>(pick(11)) / 10;
    p.sinks = pick(3) == 0 ? 0 : pick(pick(4) == 0 ? 500 : 10);
    p.window = pick(4) == 0 ? 0 : pick(pick(4) == 0 ? 500 : 50);
    p.local_len = pick(pick(3) == 0 ? 500 : 40);
    p.stabilizers = pick(90);
    SCOPED_TRACE(Name(p));

    const FootprintResult result = Compute(p);
    const int64_t num_tokens = p.prompt + p.output;
    ASSERT_EQ(result.area_full, num_tokens * (num_tokens + 1) / 2);
    ASSERT_EQ(result.streaming.has_value(), p.which == kStreaming || p.which == kHeads);
    ASSERT_EQ(result.evicting.has_value(), p.which != kStreaming);
    const double share = !result.evicting ? 1.0 : result.streaming ? p.head_sparsity : 0.0;
    double area = 0;
    std::vector<double> live(static_cast<size_t>(num_tokens));
    const auto compare = [&](const Head& head, const HeadForm& form, double weight) {
      const std::vector<int64_t> held = head.Live();
      ASSERT_EQ(form.area, head.Area());
      ASSERT_EQ(form.peak_entries, *std::max_element(held.begin(), held.end()));
      const Ledger ledger = Tell(head, p);
      ASSERT_EQ(form.area, ledger.Area());
      ASSERT_EQ(form.peak_entries, ledger.PeakEntries());
      area += weight * static_cast<double>(head.Area());
      for (size_t t = 0; t < live.size(); ++t) live[t] += weight * static_cast<double>(held[t]);
    };
    if (result.streaming) compare(SimulateStreaming(p), *result.streaming, share);
    if (result.evicting) compare(SimulateEvicting(p, sixteenths, rng), *result.evicting, 1 - share);
    if (HasFatalFailure()) return;
    EXPECT_NEAR(result.footprint, area / static_cast<double>(result.area_full), 1e-12);
    EXPECT_NEAR(result.peak, *std::max_element(live.begin(), live.end()) / static_cast<double>(num_tokens), 1e-12);
  }
}

TEST(Footprint, SamplesAreAMeanOfRatios) {
  const FootprintParams params{.which = kChunked, .chunk = 128, .sparsity = 0.75};
  const SampleLengths samples[] = {{1000, 10}, {200, 400}, {64, 0}};
  double footprint = 0, peak = 0;
  for (const SampleLengths& sample : samples) {
    FootprintParams own = params;
    own.prompt = sample.prompt;
    own.output = sample.output;
    footprint += Compute(own).footprint / 3;
    peak += Compute(own).peak / 3;
  }
  const Result<MeanFootprint> mean = MeanFootprintOf(params, samples);
  ASSERT_TRUE(mean.ok());
  EXPECT_NEAR(mean->footprint, footprint, 1e-15);
  EXPECT_NEAR(mean->peak, peak, 1e-15);
  const SampleLengths with_empty[] = {{1000, 10}, {0, 0}};
  EXPECT_THAT(MeanFootprintOf(params, with_empty).failure().message,
              HasSubstr("sample 2: prompt and output are both 0"));
  EXPECT_EQ(MeanFootprintOf(params, {}).failure().error, Error::kInvalidArgument);
}

TEST(Footprint, BadParametersAreOneSentence) {
  const auto refuse = [](const FootprintParams& params, const std::string& part) {
    const Result<FootprintResult> result = FootprintOf(params);
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.failure().error, Error::kInvalidArgument);
    EXPECT_THAT(result.failure().message, HasSubstr(part));
  };
  refuse({.prompt = -5, .output = 1}, "prompt is -5");
  refuse({.prompt = 5, .output = -1}, "output is -1");
  refuse({.prompt = 0, .output = 0}, "both 0");
  refuse({.prompt = FootprintParams::kMaxTokens, .output = 1}, "together more than");
  refuse({.prompt = 5, .chunk = -1}, "0, which stands for 131072");
  refuse({.prompt = 5, .sparsity = 1.01}, "sparsity is 1.01");
  refuse({.prompt = 5, .sparsity = -0.1}, "sparsity is -0.1");
  refuse({.prompt = 5, .sparsity = std::numeric_limits<double>::quiet_NaN()}, "sparsity is nan");
  refuse({.prompt = 5, .head_sparsity = 2}, "head_sparsity is 2");
  refuse({.prompt = 5, .sinks = -1}, "sinks is -1");
  refuse({.prompt = 5, .window = -1}, "window is -1");
  refuse({.prompt = 5, .local_len = -1}, "local_len is -1");
  refuse({.prompt = 5, .stabilizers = -1}, "stabilizers is -1");
}

TEST(Footprint, ClassesAreFoundByName) {
  for (const FootprintClassRow& row : AllFootprintClasses()) {
    const Result<const FootprintClassRow*> found = FindFootprintClass(row.name);
    ASSERT_TRUE(found.ok());
    EXPECT_EQ((*found)->which, row.which);
  }
  EXPECT_THAT(FindFootprintClass("chunkd").failure().message, HasSubstr("did you mean 'chunked'?"));
}

TEST(SampleLengths, AreReadFromJsonLines) {
  const TempFolder folder;
  const auto samples = ReadSampleLengths(folder.Write("ok",
                                                      "{\"n\": 5, \"m\": 7, \"id\": \"x\"}\n\n{\"prompt_tokens\": 1, "
                                                      "\"generated_tokens\": 2}\n{\"prompt\":3,\"output\":0}"));
  ASSERT_TRUE(samples.ok()) << samples.failure().message;
  ASSERT_EQ(samples->size(), 3u);
  EXPECT_EQ((*samples)[0].prompt, 5);
  EXPECT_EQ((*samples)[0].output, 7);
  EXPECT_EQ((*samples)[1].output, 2);
  EXPECT_EQ((*samples)[2].prompt, 3);
  const auto refuse = [&](const std::string& text, const std::string& part) {
    const auto result = ReadSampleLengths(folder.Write("bad", text));
    ASSERT_FALSE(result.ok()) << text;
    EXPECT_THAT(result.failure().message, HasSubstr(part));
  };
  refuse("\n\n", "holds no sample");
  refuse("{\"n\": 5, \"m\": 7}\n[1]\n", "bad line 2 is no JSON object");
  refuse("{\"n\": 5}\n", "bad line 1: a length is missing; give one of m, generated_tokens, output");
  refuse("{\"n\": 5, \"m\": 7}\n{\"n\": -1, \"m\": 7}\n", "bad line 2: field n is -1");
  refuse("{\"n\": 5.5, \"m\": 7}\n", "field n is no whole number");
  refuse("{\"n\": 18446744073709551615, \"m\": 7}\n", "field n is 18446744073709551615");
  refuse("{\"n\": 5, \"m\": 7}\n{\"n\": 5, ", "bad line 2 is cut off");
  refuse("{\"n\": 5, \"m\" 7}\n", "bad line 1: not valid JSON");
  EXPECT_EQ(ReadSampleLengths(folder / "none").failure().error, Error::kNotFound);
}

}  // namespace
}  // namespace cachette
