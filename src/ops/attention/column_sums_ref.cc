#include <algorithm>
#include <cmath>
#include <numbers>

#include "ops/attention/column_sums_kernels.h"
#include "ops/attention/element.h"
#include "ops/attention/kv_view.h"
#include "ops/numeric.h"

namespace cachette::ops {
namespace {

void LogitTileRef(const LogitTile& tile) {
  for (int r = 0; r < tile.num_rows; ++r)
    for (int s = 0; s < kLogitTileSlots; ++s) {
      const std::byte* keys = tile.blocks[s / kBlockTokens];
      float& logit = tile.logits[r * tile.stride + s];
      logit = kMinusInfinity;
      if (keys == nullptr || ((tile.live_masks[s / kBlockTokens] >> (s % kBlockTokens)) & 1) == 0) continue;
      double dot = 0.0;
      for (int d = 0; d < tile.head_dim; ++d)
        dot += static_cast<double>(tile.q[r * tile.head_dim + d]) *
               static_cast<double>(ElementAt(tile.dtype, keys, d * kBlockTokens + s % kBlockTokens));
      const double cap = static_cast<double>(tile.softcap);
      logit = static_cast<float>(cap > 0.0 ? cap * std::tanh(dot / cap) * std::numbers::log2e : dot);
    }
}

void MaxIntoRef(float* a, const float* b, int64_t count) {
  for (int64_t i = 0; i < count; ++i) a[i] = std::max(a[i], b[i]);
}

void AddSoftmaxRef(const SoftmaxRow& row) {
  const float max = *std::max_element(row.logits, row.logits + row.num_slots);
  if (max == kMinusInfinity) return;
  double denominator = 0.0;
  for (int64_t j = 0; j < row.num_slots; ++j) denominator += std::exp2(static_cast<double>(row.logits[j] - max));
  for (int64_t j = 0; j < row.num_slots; ++j)
    row.sums[j] += static_cast<float>(std::exp2(static_cast<double>(row.logits[j] - max)) / denominator);
}

}  // namespace

template <>
ColumnSumKernels ColumnSumKernelsOf<Isa::kRef>() {
  return {LogitTileRef, MaxIntoRef, AddSoftmaxRef};
}

}  // namespace cachette::ops
