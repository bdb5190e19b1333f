#pragma once
// KV rows for the attention benches: blocks in shuffled order, as a long-running cache hands them out.

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "base/half.h"
#include "base/rng.h"
#include "ops/attention/kv_view.h"

namespace cachette::bench {

struct KvPool {
  ops::KvFormat format;
  std::unique_ptr<std::byte, void (*)(void*)> memory{nullptr, std::free};
  std::vector<const std::byte*> blocks;  // [num_rows][blocks per row]
  std::vector<int32_t> positions;        // [num_slots], the same for all rows
  int64_t num_slots = 0;

  ops::KvRow Row(int64_t row_idx) const {
    const int64_t per_row = (num_slots + ops::kBlockTokens - 1) / ops::kBlockTokens;
    return {blocks.data() + row_idx * per_row, positions.data(), nullptr, num_slots, format};
  }
};

// num_rows rows of num_slots random f16 entries.
inline KvPool MakeKvPool(int64_t num_rows, int64_t num_slots, int head_dim) {
  KvPool pool;
  pool.format = {Dtype::kF16, head_dim};
  pool.num_slots = num_slots;
  const auto num_blocks = static_cast<size_t>(num_rows * ((num_slots + ops::kBlockTokens - 1) / ops::kBlockTokens));
  const size_t block_bytes = pool.format.block_bytes();
  const size_t num_bytes = (num_blocks * block_bytes + (2u << 20) - 1) / (2u << 20) * (2u << 20);
  pool.memory.reset(static_cast<std::byte*>(std::aligned_alloc(2u << 20, num_bytes)));
  madvise(pool.memory.get(), num_bytes, MADV_HUGEPAGE);
  Rng rng(1);
  std::vector<F16> noise(4096);
  for (F16& x : noise) x = static_cast<F16>(static_cast<float>(rng.Normal()));
  for (size_t at = 0; at < num_blocks * block_bytes; at += noise.size() * 2)
    std::memcpy(pool.memory.get() + at, noise.data(), std::min(noise.size() * 2, num_blocks * block_bytes - at));
  std::vector<size_t> order(num_blocks);
  std::iota(order.begin(), order.end(), size_t{0});
  for (size_t i = num_blocks; i > 1; --i) std::swap(order[i - 1], order[rng.Below(i)]);
  for (size_t i : order) pool.blocks.push_back(pool.memory.get() + i * block_bytes);
  pool.positions.resize(static_cast<size_t>(num_slots));
  std::iota(pool.positions.begin(), pool.positions.end(), 0);
  return pool;
}

// Streams num_bytes with plain vector reads on the context's threads; returns a value that depends on all of them.
inline uint64_t ReadAll(int num_threads, const std::byte* memory, size_t num_bytes) {
  const auto* words = reinterpret_cast<const uint64_t*>(memory);
  const auto count = static_cast<int64_t>(num_bytes / 8);
  uint64_t sum = 0;
#pragma omp parallel for simd num_threads(num_threads) schedule(static) reduction(^ : sum)
  for (int64_t i = 0; i < count; ++i) sum ^= words[i];
  return sum;
}

}  // namespace cachette::bench
