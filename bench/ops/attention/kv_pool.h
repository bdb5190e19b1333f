#pragma once
// KV rows for the attention benches: blocks in shuffled order, as a long-running cache hands them out.

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "base/half.h"
#include "base/rng.h"
#include "ops/attention/kv_codec.h"
#include "ops/attention/kv_view.h"

namespace cachette::bench {

struct KvPool {
  ops::KvFormat format;
  std::unique_ptr<std::byte, void (*)(void*)> memory{nullptr, std::free};
  std::vector<const std::byte*> blocks;  // [num_rows][blocks per row]
  std::vector<int32_t> positions;        // [num_slots], the same for all rows
  int64_t num_slots = 0;
  std::unique_ptr<std::byte, void (*)(void*)> coded_memory{nullptr, std::free};
  int64_t num_coded_slots = 0;
  int coded_bits = 0;

  int64_t BlocksPerRow() const { return (num_slots + ops::kBlockTokens - 1) / ops::kBlockTokens; }
  ops::KvRow Row(int64_t row_idx) const {
    return {blocks.data() + row_idx * BlocksPerRow(),
            positions.data(),
            nullptr,
            num_slots,
            format,
            num_coded_slots,
            coded_bits};
  }
  // What attention over one row reads.
  int64_t RowBytes() const {
    const int64_t entry_bytes = coded_bits > 0 ? ops::CodedLayoutOf(coded_bits, format.head_dim).entry_bytes : 0;
    return num_coded_slots * entry_bytes + (num_slots - num_coded_slots) * static_cast<int64_t>(format.entry_bytes());
  }
};

inline std::unique_ptr<std::byte, void (*)(void*)> HugePages(size_t num_bytes) {
  num_bytes = (num_bytes + (2u << 20) - 1) / (2u << 20) * (2u << 20);
  std::unique_ptr<std::byte, void (*)(void*)> memory(static_cast<std::byte*>(std::aligned_alloc(2u << 20, num_bytes)),
                                                     std::free);
  madvise(memory.get(), num_bytes, MADV_HUGEPAGE);
  return memory;
}

inline std::vector<size_t> Shuffled(Rng& rng, size_t count) {
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  for (size_t i = count; i > 1; --i) std::swap(order[i - 1], order[rng.Below(i)]);
  return order;
}

// num_rows rows of num_slots random f16 entries.
inline KvPool MakeKvPool(int64_t num_rows, int64_t num_slots, int head_dim) {
  KvPool pool;
  pool.format = {Dtype::kF16, head_dim};
  pool.num_slots = num_slots;
  const auto num_blocks = static_cast<size_t>(num_rows * ((num_slots + ops::kBlockTokens - 1) / ops::kBlockTokens));
  const size_t block_bytes = pool.format.block_bytes();
  pool.memory = HugePages(num_blocks * block_bytes);
  Rng rng(1);
  std::vector<F16> noise(4096);
  for (F16& x : noise) x = static_cast<F16>(static_cast<float>(rng.Normal()));
  for (size_t at = 0; at < num_blocks * block_bytes; at += noise.size() * 2)
    std::memcpy(pool.memory.get() + at, noise.data(), std::min(noise.size() * 2, num_blocks * block_bytes - at));
  for (size_t i : Shuffled(rng, num_blocks)) pool.blocks.push_back(pool.memory.get() + i * block_bytes);
  pool.positions.resize(static_cast<size_t>(num_slots));
  std::iota(pool.positions.begin(), pool.positions.end(), 0);
  return pool;
}

// Encodes all but the newest 128 to 191 entries of each row.
inline void EncodePool(KvPool& pool, int bits) {
  pool.coded_bits = bits;
  pool.num_coded_slots = std::max<int64_t>(pool.num_slots - 128, 0) / ops::kCodedEntries * ops::kCodedEntries;
  const auto per_row = static_cast<size_t>(pool.num_coded_slots / ops::kCodedEntries);
  const size_t num_rows = pool.blocks.size() / static_cast<size_t>(pool.BlocksPerRow());
  const auto block_bytes = static_cast<size_t>(ops::CodedLayoutOf(bits, pool.format.head_dim).block_bytes);
  pool.coded_memory = HugePages(num_rows * per_row * block_bytes);
  Rng rng(2);
  const std::vector<size_t> order = Shuffled(rng, num_rows * per_row);
  const std::vector<uint16_t> all_live(4, 0xffff);
  for (size_t i = 0; i < order.size(); ++i) {
    const std::byte** places =
        pool.blocks.data() + i / per_row * static_cast<size_t>(pool.BlocksPerRow()) + i % per_row * 4;
    std::byte* coded = pool.coded_memory.get() + order[i] * block_bytes;
    ops::EncodeBlock(pool.format, places, all_live.data(), 0, bits, coded);
    std::fill_n(places, 4, coded);
  }
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
