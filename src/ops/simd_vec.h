#pragma once
// Sixteen f32 lanes on every instruction set, for *_simd.cc files: one AVX-512 register or a pair of AVX ones.
//
// Everything lives in the namespace of the instruction set, so no two compilations share an inline function (see
// ops/simd.h). Sixteen lanes are one KV block: one row of transposed keys is one F32x16.

// g++ 12 takes the deliberately undefined operands inside its own AVX-512 intrinsics for mistakes (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "ops/simd.h"

namespace cachette::CACHETTE_ISA {

#define CACHETTE_INLINE static inline __attribute__((always_inline))

inline constexpr float kLog2e = 1.44269504088896340736f;
inline constexpr float kMinusInfinity = -__builtin_inff();

#if defined(CACHETTE_HAS_AVX512)

struct F32x16 {
  __m512 v;
};

CACHETTE_INLINE F32x16 Set1(float x) { return {_mm512_set1_ps(x)}; }
CACHETTE_INLINE F32x16 Load(const float* p) { return {_mm512_loadu_ps(p)}; }
CACHETTE_INLINE void Store(float* p, F32x16 x) { _mm512_storeu_ps(p, x.v); }
CACHETTE_INLINE F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
CACHETTE_INLINE F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
CACHETTE_INLINE F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
CACHETTE_INLINE F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
CACHETTE_INLINE F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
CACHETTE_INLINE F32x16 Max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
CACHETTE_INLINE F32x16 Min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
CACHETTE_INLINE float ReduceMax(F32x16 x) { return _mm512_reduce_max_ps(x.v); }
CACHETTE_INLINE float ReduceSum(F32x16 x) { return _mm512_reduce_add_ps(x.v); }
// Lane i of x where bit i of mask is set, else of other.
CACHETTE_INLINE F32x16 Select(uint16_t mask, F32x16 x, F32x16 other) {
  return {_mm512_mask_blend_ps(mask, other.v, x.v)};
}
// Bit i: positions[i] > limit.
CACHETTE_INLINE uint16_t MaskGreater(const int32_t* positions, int32_t limit) {
  return _mm512_cmpgt_epi32_mask(_mm512_loadu_si512(positions), _mm512_set1_epi32(limit));
}

// 16 elements at p as f32.
template <Dtype kDtype>
CACHETTE_INLINE F32x16 LoadAs(const std::byte* p) {
  if constexpr (kDtype == Dtype::kF32) return {_mm512_loadu_ps(p)};
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  if constexpr (kDtype == Dtype::kF16) return {_mm512_cvtph_ps(bits)};
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}

// f32 bits rounded to bf16 (nearest even, denormals kept, NaN kept NaN), in the low half of each 32-bit lane.
CACHETTE_INLINE __m512i RoundToBf16(F32x16 x) {
  const __m512i u = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
  const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
  return _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q), rounded, quiet);
}

template <Dtype kDtype>
CACHETTE_INLINE void StoreAs(std::byte* p, F32x16 x) {
  if constexpr (kDtype == Dtype::kF32) {
    _mm512_storeu_ps(p, x.v);
  } else {
    const __m256i bits = kDtype == Dtype::kF16 ? _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
                                               : _mm512_cvtepi32_epi16(RoundToBf16(x));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bits);
  }
}

// floor(x) apart from x, and 2^floor(x) * y: AVX-512 has both as one instruction each, -infinity included.
CACHETTE_INLINE F32x16 FractionOf(F32x16 x) {
  return {_mm512_reduce_ps(x.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}
CACHETTE_INLINE F32x16 ScaleByFloor(F32x16 y, F32x16 x) { return {_mm512_scalef_ps(y.v, x.v)}; }
CACHETTE_INLINE F32x16 Floor(F32x16 x) {
  return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}

#else

struct F32x16 {
  __m256 lo, hi;
};

CACHETTE_INLINE F32x16 Set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
CACHETTE_INLINE F32x16 Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
CACHETTE_INLINE void Store(float* p, F32x16 x) {
  _mm256_storeu_ps(p, x.lo);
  _mm256_storeu_ps(p + 8, x.hi);
}
CACHETTE_INLINE F32x16 operator+(F32x16 a, F32x16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
CACHETTE_INLINE F32x16 operator-(F32x16 a, F32x16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
CACHETTE_INLINE F32x16 operator*(F32x16 a, F32x16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
CACHETTE_INLINE F32x16 operator/(F32x16 a, F32x16 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
CACHETTE_INLINE F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
CACHETTE_INLINE F32x16 Max(F32x16 a, F32x16 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
CACHETTE_INLINE F32x16 Min(F32x16 a, F32x16 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
CACHETTE_INLINE float ReduceMax(F32x16 x) {
  const __m256 m = _mm256_max_ps(x.lo, x.hi);
  __m128 n = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
  n = _mm_max_ps(n, _mm_movehl_ps(n, n));
  return _mm_cvtss_f32(_mm_max_ss(n, _mm_movehdup_ps(n)));
}
CACHETTE_INLINE float ReduceSum(F32x16 x) {
  const __m256 m = _mm256_add_ps(x.lo, x.hi);
  __m128 n = _mm_add_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
  n = _mm_add_ps(n, _mm_movehl_ps(n, n));
  return _mm_cvtss_f32(_mm_add_ss(n, _mm_movehdup_ps(n)));
}
CACHETTE_INLINE F32x16 Select(uint16_t mask, F32x16 x, F32x16 other) {
  const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i lo = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(mask), bits), bits);
  const __m256i hi = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(mask >> 8), bits), bits);
  return {_mm256_blendv_ps(other.lo, x.lo, _mm256_castsi256_ps(lo)),
          _mm256_blendv_ps(other.hi, x.hi, _mm256_castsi256_ps(hi))};
}
CACHETTE_INLINE uint16_t MaskGreater(const int32_t* positions, int32_t limit) {
  const __m256i bound = _mm256_set1_epi32(limit);
  const __m256i lo = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(positions));
  const __m256i hi = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(positions + 8));
  const int lo_mask = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(lo, bound)));
  const int hi_mask = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(hi, bound)));
  return static_cast<uint16_t>(lo_mask | (hi_mask << 8));
}

template <Dtype kDtype>
CACHETTE_INLINE F32x16 LoadAs(const std::byte* p) {
  if constexpr (kDtype == Dtype::kF32) return Load(reinterpret_cast<const float*>(p));
  const __m128i lo = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m128i hi = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16));
  if constexpr (kDtype == Dtype::kF16) return {_mm256_cvtph_ps(lo), _mm256_cvtph_ps(hi)};
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(lo), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(hi), 16))};
}

CACHETTE_INLINE __m256i RoundToBf16(__m256 x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
  return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}

template <Dtype kDtype>
CACHETTE_INLINE void StoreAs(std::byte* p, F32x16 x) {
  if constexpr (kDtype == Dtype::kF32) {
    Store(reinterpret_cast<float*>(p), x);
  } else if constexpr (kDtype == Dtype::kF16) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 16), _mm256_cvtps_ph(x.hi, _MM_FROUND_TO_NEAREST_INT));
  } else {
    const __m256i packed = _mm256_packus_epi32(RoundToBf16(x.lo), RoundToBf16(x.hi));  // per 128-bit half
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
  }
}

CACHETTE_INLINE F32x16 Floor(F32x16 x) { return {_mm256_floor_ps(x.lo), _mm256_floor_ps(x.hi)}; }
// -infinity counts as -127: its fraction is 0, and ScaleByFloor gives 0 there.
CACHETTE_INLINE F32x16 ClampExponent(F32x16 x) { return Min(Max(x, Set1(-127.0f)), Set1(127.999f)); }
CACHETTE_INLINE F32x16 FractionOf(F32x16 x) {
  const F32x16 clamped = ClampExponent(x);
  return clamped - Floor(clamped);
}
CACHETTE_INLINE __m256 ExponentBits(__m256 x) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(_mm256_floor_ps(x)), _mm256_set1_epi32(127)), 23));
}
CACHETTE_INLINE F32x16 ScaleByFloor(F32x16 y, F32x16 x) {
  const F32x16 clamped = ClampExponent(x);
  return y * F32x16{ExponentBits(clamped.lo), ExponentBits(clamped.hi)};
}

#endif

// 8 elements at p as f32 in the low lanes, zero above: the tail of a row that is not a multiple of 16.
template <Dtype kDtype>
CACHETTE_INLINE F32x16 LoadLow8As(const std::byte* p) {
  const size_t num_bytes = kDtype == Dtype::kF32 ? 32 : 16;
  alignas(64) std::byte copy[64] = {};
  __builtin_memcpy(copy, p, num_bytes);
  return LoadAs<kDtype>(copy);
}

// The polynomials approximate 2^f on [0, 1] with p(0) = 1 exactly and least maximal relative error (Remez exchange).
// Degree 5: 8.3e-8. Degree 3: 8.6e-5, a twentieth of the rounding to bf16 that follows where it is used.
CACHETTE_INLINE F32x16 PowFraction5(F32x16 f) {
  F32x16 p = Fma(f, Set1(0.0018671300724412605f), Set1(0.009017030315885468f));
  p = Fma(f, p, Set1(0.05579991310967993f));
  p = Fma(f, p, Set1(0.24016445015286791f));
  p = Fma(f, p, Set1(0.6931513118048799f));
  return Fma(f, p, Set1(1.0f));
}
CACHETTE_INLINE F32x16 PowFraction3(F32x16 f) {
  F32x16 p = Fma(f, Set1(0.07706704200379724f), Set1(0.2276449911952388f));
  p = Fma(f, p, Set1(0.6951167864133931f));
  return Fma(f, p, Set1(1.0f));
}

// 2^x, relative error below 1.7e-7 for x in [-126, 128); exactly 1 at 0 and exactly 0 at -infinity.
// AVX2 flushes results below 2^-126 to 0.
CACHETTE_INLINE F32x16 Exp2(F32x16 x) { return ScaleByFloor(PowFraction5(FractionOf(x)), x); }
// 2^x, relative error below 9e-5; for probabilities that are rounded to bf16 next.
CACHETTE_INLINE F32x16 Exp2Coarse(F32x16 x) { return ScaleByFloor(PowFraction3(FractionOf(x)), x); }

// e^x, relative error below 1.8e-7 for x in [-87, 88]: the fraction of x log2(e) is formed with log2(e) in two parts,
// so that the error does not grow with |x|. Clamped to that range outside it.
CACHETTE_INLINE F32x16 Exp(F32x16 x) {
  x = Min(Max(x, Set1(-87.0f)), Set1(88.0f));
  const F32x16 whole = Floor(x * Set1(kLog2e));
  const F32x16 fraction = Fma(x, Set1(1.9259629911266175e-8f), Fma(x, Set1(kLog2e), Set1(0.0f) - whole));
  return ScaleByFloor(PowFraction5(fraction), whole);
}

}  // namespace cachette::CACHETTE_ISA
