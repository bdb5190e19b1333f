#pragma once
// What column_sums.cc and its kernels agree on; not for other files.

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "tensor/isa.h"

namespace cachette::ops {

inline constexpr int kLogitTileSlots = 64;  // four blocks

// Logits of up to 32 query rows against four blocks of keys.
struct LogitTile {
  const std::byte* blocks[4];  // null: past the end
  uint16_t live_masks[4];      // a slot that is not live gets -infinity
  Dtype dtype;
  int head_dim;
  int num_rows;
  const float* q;  // [num_rows][head_dim], times scale (and log2 e unless capped)
  float softcap;   // 0: none
  float* logits;   // [num_rows][64] in units of log2, stride floats between rows
  int64_t stride;
};

// logits [num_slots] of one row -> sums[j] += softmax_j. Uses logits as scratch; both are readable up to the next
// multiple of 16.
struct SoftmaxRow {
  float* logits;
  int64_t num_slots;
  float* sums;
};

struct ColumnSumKernels {
  void (*logit_tile)(const LogitTile& tile);
  void (*max_into)(float* a, const float* b, int64_t count);  // a = max(a, b)
  void (*add_softmax)(const SoftmaxRow& row);
};

template <Isa>
ColumnSumKernels ColumnSumKernelsOf();
template <>
ColumnSumKernels ColumnSumKernelsOf<Isa::kRef>();
template <>
ColumnSumKernels ColumnSumKernelsOf<Isa::kAvx2>();
template <>
ColumnSumKernels ColumnSumKernelsOf<Isa::kAvx512>();
template <>
ColumnSumKernels ColumnSumKernelsOf<Isa::kAvx512Vnni>();
template <>
ColumnSumKernels ColumnSumKernelsOf<Isa::kAvx512Bf16>();

}  // namespace cachette::ops
