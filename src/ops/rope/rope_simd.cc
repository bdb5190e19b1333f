#include "ops/rope/rope_kernels.h"
#include "ops/simd_vec.h"

namespace cachette::CACHETTE_ISA {
namespace {

constexpr int kBlock = 16;

// Plain loops: the compiler turns both pairings into full-width vectors, and the op is bound by memory.
void RotateToken(const ops::TokenRotation& r) {
  const float* __restrict cos = r.cos;
  const float* __restrict sin = r.sin;
  for (int h = 0; h < r.num_heads; ++h) {
    float* __restrict x = r.x + h * r.head_dim;
    if (r.is_adjacent) {
      for (int i = 0; i < r.num_pairs; ++i) {
        const float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cos[i] - b * sin[i];
        x[2 * i + 1] = b * cos[i] + a * sin[i];
      }
    } else {
      float* __restrict y = x + r.num_pairs;
      for (int i = 0; i < r.num_pairs; ++i) {
        const float a = x[i], b = y[i];
        x[i] = a * cos[i] - b * sin[i];
        y[i] = b * cos[i] + a * sin[i];
      }
    }
  }
}

template <Dtype kDtype, int kBytes>
void RotateTyped(const ops::BlockRotation& r) {
  constexpr int kRowBytes = kBlock * kBytes;
  for (int d = 2 * r.num_pairs; d < r.head_dim; ++d)
    __builtin_memcpy(r.out + d * kRowBytes, r.keys + d * kRowBytes, kRowBytes);
  for (int i = 0; i < r.num_pairs; ++i) {
    const int first = r.is_adjacent ? 2 * i : i;
    const int second = r.is_adjacent ? 2 * i + 1 : i + r.num_pairs;
    alignas(64) float cos[kBlock], sin[kBlock];
    for (int slot = 0; slot < kBlock; ++slot) {
      cos[slot] = slot < r.num_slots ? r.cos[slot * r.num_pairs + i] : 1.0f;
      sin[slot] = slot < r.num_slots ? r.sin[slot * r.num_pairs + i] : 0.0f;
    }
    const F32x16 a = LoadAs<kDtype>(r.keys + first * kRowBytes);
    const F32x16 b = LoadAs<kDtype>(r.keys + second * kRowBytes);
    StoreAs<kDtype>(r.out + first * kRowBytes, Fma(a, Load(cos), Set1(0.0f) - b * Load(sin)));
    StoreAs<kDtype>(r.out + second * kRowBytes, Fma(b, Load(cos), a * Load(sin)));
  }
}

void RotateBlock(const ops::BlockRotation& r) {
  switch (r.dtype) {
    case Dtype::kF16: return RotateTyped<Dtype::kF16, 2>(r);
    case Dtype::kBF16: return RotateTyped<Dtype::kBF16, 2>(r);
    default: return RotateTyped<Dtype::kF32, 4>(r);
  }
}

}  // namespace

}  // namespace cachette::CACHETTE_ISA

namespace cachette::ops {

template <>
RopeKernels RopeKernelsOf<CACHETTE_ISA::kIsa>() {
  return {CACHETTE_ISA::RotateToken, CACHETTE_ISA::RotateBlock};
}

}  // namespace cachette::ops
