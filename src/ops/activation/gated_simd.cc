#include "ops/activation/gated_kernels.h"
#include "ops/simd_vec.h"

namespace cachette::CACHETTE_ISA {
namespace {

// Both activations are x / (1 + e^-z): SiLU with z = x, the tanh form of GELU with z = 2 sqrt(2/pi) (x + 0.044715 x^3).
// Relative error below 5e-7 + |z| 2e-7 (the exponential, and the rounding of z); below z = -87 the true value is under
// 1e-36 |x| and Exp's clamp keeps it there.
template <bool kIsGelu>
CACHETTE_INLINE F32x16 Activate(F32x16 x) {
  F32x16 minus_z = Set1(0.0f) - x;
  if constexpr (kIsGelu) {
    constexpr float kScale = 1.5957691216057308f;  // 2 sqrt(2/pi)
    minus_z = x * Fma(x * x, Set1(-kScale * 0.044715f), Set1(-kScale));
  }
  return x / (Set1(1.0f) + Exp(minus_z));
}

template <bool kIsGelu>
void GateAll(const ops::GatedSpan& s) {
  int64_t i = 0;
  for (; i + 16 <= s.num_elements; i += 16) Store(s.out + i, Activate<kIsGelu>(Load(s.gate + i)) * Load(s.up + i));
  if (i == s.num_elements) return;
  const size_t tail_bytes = static_cast<size_t>(s.num_elements - i) * sizeof(float);
  alignas(64) float gate[16] = {}, up[16] = {};
  __builtin_memcpy(gate, s.gate + i, tail_bytes);
  __builtin_memcpy(up, s.up + i, tail_bytes);
  Store(gate, Activate<kIsGelu>(Load(gate)) * Load(up));
  __builtin_memcpy(s.out + i, gate, tail_bytes);
}

}  // namespace

}  // namespace cachette::CACHETTE_ISA

namespace cachette::ops {

template <>
void Gate<CACHETTE_ISA::kIsa>(const GatedSpan& span) {
  if (span.is_gelu) {
    CACHETTE_ISA::GateAll<true>(span);
  } else {
    CACHETTE_ISA::GateAll<false>(span);
  }
}

}  // namespace cachette::ops
