#include <benchmark/benchmark.h>

#include <cmath>
#include <vector>

#include "base/rng.h"
#include "ops/retrieval/best_units.h"
#include "ops/retrieval/kmeans.h"
#include "ops/retrieval/unit_scores.h"

namespace cachette {
namespace {

// Keys that wander, as those of consecutive tokens do.
std::vector<float> WanderingKeys(int64_t num_keys, int head_dim) {
  Rng rng(1);
  std::vector<float> keys, at(static_cast<size_t>(head_dim));
  for (int64_t i = 0; i < num_keys; ++i)
    for (float& x : at) {
      x = 0.9f * x + 0.4f * static_cast<float>(rng.Normal());
      keys.push_back(x);
    }
  return keys;
}

// Clustering of a prompt of 8192 tokens into 512 clusters, items = problems (one KV head of one layer).
// Arguments: threads, problems, two levels, cap, iterations.
void BM_ClusterKeys(benchmark::State& state) {
  constexpr int64_t kNumKeys = 8192;
  constexpr int kHeadDim = 64;
  const std::vector<float> keys = WanderingKeys(kNumKeys, kHeadDim);
  std::vector<std::vector<int32_t>> labels(static_cast<size_t>(state.range(1)), std::vector<int32_t>(kNumKeys));
  std::vector<ops::KMeansProblem> problems;
  for (std::vector<int32_t>& own : labels) problems.push_back({keys.data(), kNumKeys, kNumKeys / 16, own.data()});
  std::vector<int64_t> num_made(problems.size());
  Context cx(*FindBackend("auto"), static_cast<int>(state.range(0)));
  for (auto _ : state)
    ops::ClusterKeys(cx,
                     {.problems = problems,
                      .head_dim = kHeadDim,
                      .num_iterations = static_cast<int>(state.range(4)),
                      .max_cluster_keys = state.range(3),
                      .is_two_level = state.range(2) != 0},
                     num_made);
  state.SetItemsProcessed(state.iterations() * state.range(1));
}
BENCHMARK(BM_ClusterKeys)
    ->Args({1, 6, 1, 0, 4})
    ->Args({1, 6, 1, 32, 4})
    ->Args({1, 6, 1, 16, 4})
    ->Args({2, 6, 1, 16, 4})
    ->Args({2, 3, 1, 16, 4})
    ->Args({1, 1, 0, 0, 20})
    ->ArgNames({"threads", "problems", "two_level", "cap", "iterations"})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

// One layer's units of a decode step, 30 layers in turn, so that they are as far from the core as in a model.
// Arguments: threads, units per KV head, KV heads, group size, head_dim, kBox.
void BM_ScoreUnits(benchmark::State& state) {
  constexpr int64_t kNumLayers = 30;
  const int64_t num_units = state.range(1), num_kv_heads = state.range(2);
  const auto group_size = static_cast<int>(state.range(3)), head_dim = static_cast<int>(state.range(4));
  const ops::UnitBound bound = state.range(5) != 0 ? ops::UnitBound::kBox : ops::UnitBound::kDot;
  const int64_t row_bytes = ops::UnitIndexBytes(bound, num_units, head_dim);
  const std::vector<std::byte> index(static_cast<size_t>(kNumLayers * num_kv_heads * row_bytes));
  const std::vector<float> q(static_cast<size_t>(group_size * head_dim), 0.1f);
  std::vector<float> weights(static_cast<size_t>(num_kv_heads * (num_units + 15)));
  Context cx(*FindBackend("auto"), static_cast<int>(state.range(0)));
  int64_t layer = 0;
  for (auto _ : state) {
    std::vector<ops::UnitScoreRow> rows;
    for (int64_t h = 0; h < num_kv_heads; ++h)
      rows.push_back({index.data() + (layer * num_kv_heads + h) * row_bytes, num_units, q.data(),
                      weights.data() + h * (num_units + 15)});
    ops::ScoreUnits(cx,
                    {.rows = rows, .bound = bound, .group_size = group_size, .head_dim = head_dim, .scale = 0.125f});
    layer = (layer + 1) % kNumLayers;
  }
  state.SetBytesProcessed(state.iterations() * num_kv_heads * row_bytes);
}
BENCHMARK(BM_ScoreUnits)
    ->ArgsProduct({{1, 2}, {32, 512, 2048, 16384}, {3}, {3}, {64}, {0}})
    ->ArgsProduct({{1, 2}, {512, 2048}, {3}, {3}, {64}, {1}})
    ->Args({2, 2048, 8, 4, 128, 0})
    ->ArgNames({"threads", "units", "kv_heads", "group", "head_dim", "box"})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

// Arguments: units, budget in entries, and how the weights lie (0: like a softmax, 1: like q.mu).
void BM_TakeBestUnits(benchmark::State& state) {
  Rng rng(2);
  std::vector<float> weights;
  for (int64_t u = 0; u < state.range(0); ++u) {
    const double x = rng.Normal();
    weights.push_back(static_cast<float>(state.range(2) == 0 ? std::exp(3.0 * x) : 10.0 + x));
  }
  const std::vector<int32_t> sizes(weights.size(), 16);
  std::vector<int32_t> chosen;
  for (auto _ : state) benchmark::DoNotOptimize(ops::TakeBestUnits(weights, sizes, 0, state.range(1), chosen));
}
BENCHMARK(BM_TakeBestUnits)
    ->ArgsProduct({{64, 512, 2048, 16384}, {512}, {0, 1}})
    ->ArgNames({"units", "budget", "kind"})
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace cachette
