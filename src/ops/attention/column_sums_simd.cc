#include "ops/attention/column_sums_kernels.h"
#include "ops/simd_vec.h"

namespace cachette::CACHETTE_ISA {
namespace {

constexpr int kBlock = 16;
constexpr int kMaxHeadDim = 256;
constexpr int kBlocks = ops::kLogitTileSlots / kBlock;
constexpr int kRows = 4;  // query rows whose sums are in registers together
#if defined(CACHETTE_HAS_AVX512)
constexpr int kWide = 4;  // blocks beside them: 16 accumulators of 32 registers
#else
constexpr int kWide = 1;  // 8 of 16 registers of half the width
#endif

// Keys of the tile as f32 [head_dim][64]: converted once for all query rows.
template <Dtype kDtype>
CACHETTE_INLINE void Widen(const ops::LogitTile& tile, float* panel) {
  constexpr size_t kRowBytes = kBlock * (kDtype == Dtype::kF32 ? 4 : 2);
  for (int b = 0; b < kBlocks; ++b)
    for (int d = 0; d < tile.head_dim; ++d) {
      const F32x16 keys =
          tile.blocks[b] == nullptr ? Set1(0.0f) : LoadAs<kDtype>(tile.blocks[b] + static_cast<size_t>(d) * kRowBytes);
      Store(panel + d * ops::kLogitTileSlots + b * kBlock, keys);
    }
}

CACHETTE_INLINE F32x16 Capped(F32x16 x, float softcap) {
  const F32x16 e = Exp(x * Set1(2.0f / softcap));
  return Fma(Set1(-2.0f * softcap * kLog2e), Set1(1.0f) / (e + Set1(1.0f)), Set1(softcap * kLog2e));
}

template <int kNumRows>
CACHETTE_INLINE void Rows(const ops::LogitTile& tile, const float* panel, int first_row) {
  const float* q = tile.q + first_row * tile.head_dim;
  for (int first = 0; first < kBlocks; first += kWide) {
    F32x16 sum[kNumRows][kWide];
    for (int r = 0; r < kNumRows; ++r)
      for (int b = 0; b < kWide; ++b) sum[r][b] = Set1(0.0f);
    for (int d = 0; d < tile.head_dim; ++d) {
      F32x16 keys[kWide];
      for (int b = 0; b < kWide; ++b) keys[b] = Load(panel + d * ops::kLogitTileSlots + (first + b) * kBlock);
      for (int r = 0; r < kNumRows; ++r) {
        const F32x16 query = Set1(q[r * tile.head_dim + d]);
        for (int b = 0; b < kWide; ++b) sum[r][b] = Fma(query, keys[b], sum[r][b]);
      }
    }
    for (int r = 0; r < kNumRows; ++r)
      for (int b = 0; b < kWide; ++b) {
        F32x16 logits = sum[r][b];
        if (tile.softcap > 0.0f) logits = Capped(logits, tile.softcap);
        const uint16_t live = tile.blocks[first + b] == nullptr ? uint16_t{0} : tile.live_masks[first + b];
        if (live != 0xffff) logits = Select(live, logits, Set1(kMinusInfinity));
        Store(tile.logits + (first_row + r) * tile.stride + (first + b) * kBlock, logits);
      }
  }
}

void ComputeLogitTile(const ops::LogitTile& tile) {
  alignas(64) float panel[kMaxHeadDim * ops::kLogitTileSlots];
  switch (tile.dtype) {
    case Dtype::kF16: Widen<Dtype::kF16>(tile, panel); break;
    case Dtype::kBF16: Widen<Dtype::kBF16>(tile, panel); break;
    default: Widen<Dtype::kF32>(tile, panel); break;
  }
  int row = 0;
  for (; row + kRows <= tile.num_rows; row += kRows) Rows<kRows>(tile, panel, row);
  for (; row < tile.num_rows; ++row) Rows<1>(tile, panel, row);
}

uint16_t TailMask(int64_t count) { return static_cast<uint16_t>((1u << count) - 1u); }

void MaxInto(float* a, const float* b, int64_t count) {
  for (int64_t i = 0; i < count; i += kBlock) Store(a + i, Max(Load(a + i), Load(b + i)));
}

void AddSoftmax(const ops::SoftmaxRow& row) {
  const int64_t whole = row.num_slots / kBlock * kBlock;
  const int64_t rest = row.num_slots - whole;
  F32x16 top = Set1(kMinusInfinity);
  for (int64_t i = 0; i < whole; i += kBlock) top = Max(top, Load(row.logits + i));
  if (rest > 0) {  // from here on the tail's lanes past the end count as invisible
    const F32x16 tail = Select(TailMask(rest), Load(row.logits + whole), Set1(kMinusInfinity));
    Store(row.logits + whole, tail);
    top = Max(top, tail);
  }
  const float max = ReduceMax(top);
  if (max == kMinusInfinity) return;
  const F32x16 shift = Set1(max);
  F32x16 sum = Set1(0.0f);
  for (int64_t i = 0; i < row.num_slots; i += kBlock) {
    const F32x16 weight = Exp2(Load(row.logits + i) - shift);
    Store(row.logits + i, weight);
    sum = sum + weight;
  }
  const F32x16 inverse = Set1(1.0f / ReduceSum(sum));
  for (int64_t i = 0; i < row.num_slots; i += kBlock)
    Store(row.sums + i, Fma(Load(row.logits + i), inverse, Load(row.sums + i)));
}

}  // namespace

}  // namespace cachette::CACHETTE_ISA

namespace cachette::ops {

using namespace CACHETTE_ISA;

template <>
ColumnSumKernels ColumnSumKernelsOf<kIsa>() {
  return {ComputeLogitTile, MaxInto, AddSoftmax};
}

}  // namespace cachette::ops
