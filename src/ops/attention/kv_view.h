#pragma once
// The ragged view of a KV cache that attention reads: plain pointers, no cache types.

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace cachette::ops {

inline constexpr int kBlockTokens = 16;  // slots of a block: one AVX-512 register of f32 scores
constexpr int64_t BlocksFor(int64_t num_slots) { return (num_slots + kBlockTokens - 1) / kBlockTokens; }

// Storage form of the entries of a block. Layout of one block, with e = bytes of dtype:
//   keys   [head_dim][kBlockTokens]   transposed, so that 16 keys meet one query element in one register
//   values [kBlockTokens][head_dim]
// dtype is kF32, kF16 or kBF16. Slots past a row's last entry hold unspecified but finite numbers.
struct KvFormat {
  Dtype dtype = Dtype::kF16;
  int head_dim = 0;

  size_t element_bytes() const { return static_cast<size_t>(InfoOf(dtype).block_bytes); }
  size_t values_offset_bytes() const { return element_bytes() * static_cast<size_t>(head_dim) * kBlockTokens; }
  size_t block_bytes() const { return 2 * values_offset_bytes(); }
  size_t entry_bytes() const { return 2 * element_bytes() * static_cast<size_t>(head_dim); }
  bool operator==(const KvFormat&) const = default;
};

// The entries of one KV head of one request, in position order: slot i is slot i % kBlockTokens of
// blocks[i / kBlockTokens]. Eviction leaves holes (dead slots) instead of moving data; the cache merges blocks when
// holes add up. Attention gives a dead slot no weight; every block has at least one live slot.
// The oldest entries may be coded (coded_layout.h): a coded block holds 64 of them, all live, and stands four times in
// blocks, so that slots count through both kinds.
struct KvRow {
  const std::byte* const* blocks = nullptr;  // [ceil(num_slots / kBlockTokens)], each 64-byte aligned
  const int32_t* positions = nullptr;        // [num_slots], absolute; strictly increasing over live slots
  const uint16_t* live_masks = nullptr;      // [number of blocks], bit i = slot i is live; null = no dead slots
  int64_t num_slots = 0;                     // used slots, dead ones included; slots past it are masked too
  KvFormat format;                           // of the plain blocks
  int64_t num_coded_slots = 0;               // a multiple of 64, at most num_slots
  int coded_bits = 0;                        // 8, 4 or 2 where there are coded slots
};

}  // namespace cachette::ops
