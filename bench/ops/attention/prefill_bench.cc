#include <benchmark/benchmark.h>

#include "base/rng.h"
#include "ops/attention/kv_pool.h"
#include "ops/attention/prefill.h"

namespace cachette {
namespace {

// One layer's attention of a chunk of 512 tokens that ends at depth.
// Arguments: threads, KV heads, group size, head_dim, depth in entries (chunk included), bf16 products or f32,
// attention window.
void BM_PrefillAttention(benchmark::State& state) {
  const int64_t num_kv_heads = state.range(1), depth = state.range(4);
  const auto group_size = static_cast<int>(state.range(2));
  const auto head_dim = static_cast<int>(state.range(3));
  const int64_t num_queries = std::min<int64_t>(512, depth);
  const bench::KvPool pool = bench::MakeKvPool(num_kv_heads, depth, head_dim);
  Context cx(*FindBackend("auto"), static_cast<int>(state.range(0)));
  const int64_t stride = num_kv_heads * group_size * head_dim;
  std::vector<float> q(static_cast<size_t>(num_queries * stride)), out(q.size());
  Rng rng(2);
  for (float& x : q) x = static_cast<float>(rng.Normal());
  std::vector<ops::PrefillRow> rows;
  for (int64_t h = 0; h < num_kv_heads; ++h)
    rows.push_back({pool.Row(h), q.data() + h * group_size * head_dim, out.data() + h * group_size * head_dim});
  ops::PrefillParams params{.rows = rows,
                            .num_queries = num_queries,
                            .q_stride = stride,
                            .out_stride = stride,
                            .group_size = group_size,
                            .head_dim = head_dim,
                            .scale = 1.0f / 8.0f};
  params.gemm = state.range(5) != 0 ? ops::GemmDtype::kBF16 : ops::GemmDtype::kF32;
  params.attention_window = static_cast<int32_t>(state.range(6));
  ops::PrefillAttention(cx, params);  // makes the primitives
  for (auto _ : state) {
    ops::PrefillAttention(cx, params);
    benchmark::DoNotOptimize(out.data());
  }
  double pairs = 0.0;  // visible (query, entry) pairs of one query head
  for (int64_t i = depth - num_queries; i < depth; ++i)
    pairs +=
        static_cast<double>(params.attention_window > 0 ? std::min<int64_t>(i + 1, params.attention_window) : i + 1);
  state.counters["FLOP/s"] =
      benchmark::Counter(4.0 * pairs * static_cast<double>(head_dim * group_size * num_kv_heads),
                         benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
}
BENCHMARK(BM_PrefillAttention)
    ->ArgNames({"threads", "kv_heads", "group", "head_dim", "depth", "bf16", "attention_window"})
    ->Args({1, 3, 3, 64, 512, 1, 0})
    ->Args({1, 3, 3, 64, 4096, 1, 0})
    ->Args({1, 3, 3, 64, 4096, 0, 0})
    ->Args({2, 3, 3, 64, 64, 1, 0})
    ->Args({2, 3, 3, 64, 512, 1, 0})
    ->Args({2, 3, 3, 64, 2048, 1, 0})
    ->Args({2, 3, 3, 64, 4096, 1, 0})
    ->Args({2, 3, 3, 64, 8000, 1, 0})
    ->Args({2, 3, 3, 64, 512, 0, 0})
    ->Args({2, 3, 3, 64, 4096, 0, 0})
    ->Args({2, 1, 4, 256, 4096, 1, 0})
    ->Args({2, 1, 4, 256, 4096, 1, 512})
    ->Args({2, 8, 4, 128, 4096, 1, 0})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace cachette
