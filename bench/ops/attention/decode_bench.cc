#include <benchmark/benchmark.h>

#include <string>

#include "ops/attention/decode.h"
#include "ops/attention/kv_pool.h"

namespace cachette {
namespace {

// One decode step's attention of a whole model: every layer's rows once, so that no layer finds its entries in a cache.
// Arguments: threads, layers, KV heads, group size, head_dim, depth in entries, bits of older entries (0: plain f16).
void BM_DecodeAttention(benchmark::State& state) {
  const auto num_threads = static_cast<int>(state.range(0));
  const int64_t num_layers = state.range(1), num_kv_heads = state.range(2);
  const auto group_size = static_cast<int>(state.range(3));
  const auto head_dim = static_cast<int>(state.range(4));
  bench::KvPool pool = bench::MakeKvPool(num_layers * num_kv_heads, state.range(5), head_dim);
  if (state.range(6) > 0) bench::EncodePool(pool, static_cast<int>(state.range(6)));
  Context cx(*FindBackend("auto"), num_threads);
  std::vector<float> q(static_cast<size_t>(num_kv_heads * group_size * head_dim), 0.1f), out(q.size());
  for (auto _ : state) {
    for (int64_t layer = 0; layer < num_layers; ++layer) {
      std::vector<ops::DecodeRow> rows;
      for (int64_t h = 0; h < num_kv_heads; ++h)
        rows.push_back({.kv = pool.Row(layer * num_kv_heads + h),
                        .q = q.data() + h * group_size * head_dim,
                        .out = out.data() + h * group_size * head_dim,
                        .state = nullptr});
      ops::DecodeAttention(cx, {.rows = rows, .group_size = group_size, .head_dim = head_dim, .scale = 0.125f});
    }
    benchmark::DoNotOptimize(out.data());
  }
  state.SetBytesProcessed(state.iterations() * num_layers * num_kv_heads * pool.RowBytes());
}

constexpr int64_t kSmolLm2[] = {30, 3, 3, 64};
constexpr int64_t kGemma3[] = {18, 1, 4, 256};
constexpr int64_t kLlama8b[] = {4, 8, 4, 128};

void AddShapes(benchmark::internal::Benchmark* b) {
  for (int64_t threads : {1, 2})
    for (int64_t depth : {16, 64, 512, 4096, 8000})
      for (int64_t bits : {0, 8, 4, 2}) {
        if (bits > 0 && depth < 8000) continue;
        b->Args({threads, kSmolLm2[0], kSmolLm2[1], kSmolLm2[2], kSmolLm2[3], depth, bits});
        if (threads == 1 || depth < 512) continue;
        b->Args({threads, kGemma3[0], kGemma3[1], kGemma3[2], kGemma3[3], depth, bits});
        b->Args({threads, kLlama8b[0], kLlama8b[1], kLlama8b[2], kLlama8b[3], depth, bits});
      }
}
BENCHMARK(BM_DecodeAttention)
    ->Apply(AddShapes)
    ->ArgNames({"threads", "layers", "kv_heads", "group", "head_dim", "depth", "bits"})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

// The roof of the above: a plain streaming read of as many bytes as SmolLM2 holds at depth 8000.
void BM_StreamingRead(benchmark::State& state) {
  const bench::KvPool pool = bench::MakeKvPool(90, 8000, 64);
  const size_t num_bytes = pool.blocks.size() * pool.format.block_bytes();
  for (auto _ : state)
    benchmark::DoNotOptimize(bench::ReadAll(static_cast<int>(state.range(0)), pool.memory.get(), num_bytes));
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(num_bytes));
}
// Encoding what a prompt of 8000 tokens left in one row.
void BM_EncodeBlocks(benchmark::State& state) {
  const bench::KvPool pool = bench::MakeKvPool(1, 8000, 64);
  const std::vector<uint16_t> all_live(4, 0xffff);
  const auto bits = static_cast<int>(state.range(0));
  std::vector<std::byte> coded(static_cast<size_t>(ops::CodedLayoutOf(bits, 64).block_bytes));
  for (auto _ : state)
    for (int64_t b = 0; b < 500; b += 4)
      ops::EncodeBlock(pool.format, pool.blocks.data() + b, all_live.data(), 0, bits, coded.data());
  state.SetItemsProcessed(state.iterations() * 8000);
}
BENCHMARK(BM_EncodeBlocks)->Arg(8)->Arg(4)->Arg(2)->ArgName("bits")->Unit(benchmark::kMicrosecond);

BENCHMARK(BM_StreamingRead)->Arg(1)->Arg(2)->ArgName("threads")->UseRealTime()->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace cachette
