#include "ops/attention/element.h"
#include "ops/attention/kv_view.h"
#include "ops/rope/rope_kernels.h"

namespace cachette::ops {
namespace {

struct Pair {
  int first, second;
};

Pair PairAt(int pair_idx, int num_pairs, bool is_adjacent) {
  return is_adjacent ? Pair{2 * pair_idx, 2 * pair_idx + 1} : Pair{pair_idx, pair_idx + num_pairs};
}

void RotateToken(const TokenRotation& r) {
  for (int h = 0; h < r.num_heads; ++h)
    for (int i = 0; i < r.num_pairs; ++i) {
      const Pair pair = PairAt(i, r.num_pairs, r.is_adjacent);
      float& a = r.x[h * r.head_dim + pair.first];
      float& b = r.x[h * r.head_dim + pair.second];
      const double c = static_cast<double>(r.cos[i]), s = static_cast<double>(r.sin[i]);
      const double rotated_a = static_cast<double>(a) * c - static_cast<double>(b) * s;
      const double rotated_b = static_cast<double>(b) * c + static_cast<double>(a) * s;
      a = static_cast<float>(rotated_a);
      b = static_cast<float>(rotated_b);
    }
}

void RotateBlock(const BlockRotation& r) {
  for (int slot = 0; slot < kBlockTokens; ++slot) {
    for (int d = 0; d < r.head_dim; ++d)
      SetElement(r.dtype, r.out, d * kBlockTokens + slot, ElementAt(r.dtype, r.keys, d * kBlockTokens + slot));
    for (int i = 0; i < r.num_pairs && slot < r.num_slots; ++i) {
      const Pair pair = PairAt(i, r.num_pairs, r.is_adjacent);
      const auto a = static_cast<double>(ElementAt(r.dtype, r.keys, pair.first * kBlockTokens + slot));
      const auto b = static_cast<double>(ElementAt(r.dtype, r.keys, pair.second * kBlockTokens + slot));
      const auto c = static_cast<double>(r.cos[slot * r.num_pairs + i]);
      const auto s = static_cast<double>(r.sin[slot * r.num_pairs + i]);
      SetElement(r.dtype, r.out, pair.first * kBlockTokens + slot, static_cast<float>(a * c - b * s));
      SetElement(r.dtype, r.out, pair.second * kBlockTokens + slot, static_cast<float>(b * c + a * s));
    }
  }
}

}  // namespace

template <>
RopeKernels RopeKernelsOf<Isa::kRef>() {
  return {RotateToken, RotateBlock};
}

}  // namespace cachette::ops
