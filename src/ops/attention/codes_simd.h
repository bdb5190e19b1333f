#pragma once
// Sixteen words of packed codes, for *_simd.cc files (see coded_layout.h and ops/simd_vec.h).

#include "ops/simd_vec.h"

namespace cachette::CACHETTE_ISA {

#if defined(CACHETTE_HAS_AVX512)

struct Words {
  __m512i v;
};

CACHETTE_INLINE Words LoadWords(const std::byte* p) { return {_mm512_loadu_si512(p)}; }
CACHETTE_INLINE void StoreWords(std::byte* p, Words w) { _mm512_storeu_si512(p, w.v); }

// The lowest code of each word as f32. Below 8 bits a table look-up by the word's low four bits converts without a
// mask: one shuffle instead of two or three instructions on the ports that multiply.
template <int kBits>
CACHETTE_INLINE F32x16 LowCodes(Words w) {
  if constexpr (kBits == 8) return {_mm512_cvtepi32_ps(_mm512_and_si512(w.v, _mm512_set1_epi32(0xff)))};
  const __m512 table = kBits == 4 ? _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
                                  : _mm512_setr_ps(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
  return {_mm512_permutexvar_ps(w.v, table)};
}

// The next code becomes the lowest.
template <int kBits>
CACHETTE_INLINE Words NextCodes(Words w) {
  return {_mm512_srli_epi32(w.v, kBits)};
}

// x >= 0 rounded to nearest even becomes the lowest code, those of w move up.
template <int kBits>
CACHETTE_INLINE Words PushCodes(Words w, F32x16 x) {
  return {_mm512_or_si512(_mm512_slli_epi32(w.v, kBits), _mm512_cvtps_epi32(x.v))};
}
CACHETTE_INLINE Words NoCodes() { return {_mm512_setzero_si512()}; }

CACHETTE_INLINE void StoreF16Down(std::byte* p, F32x16 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
}
CACHETTE_INLINE void StoreF16Up(std::byte* p, F32x16 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC));
}

#else

struct Words {
  __m256i lo, hi;
};

CACHETTE_INLINE Words LoadWords(const std::byte* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
CACHETTE_INLINE void StoreWords(std::byte* p, Words w) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), w.lo);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), w.hi);
}

template <int kBits>
CACHETTE_INLINE F32x16 LowCodes(Words w) {
  if constexpr (kBits == 2) {
    const __m256 table = _mm256_setr_ps(0, 1, 2, 3, 0, 1, 2, 3);  // by the low three bits
    return {_mm256_permutevar8x32_ps(table, w.lo), _mm256_permutevar8x32_ps(table, w.hi)};
  }
  const __m256i mask = _mm256_set1_epi32((1 << kBits) - 1);
  return {_mm256_cvtepi32_ps(_mm256_and_si256(w.lo, mask)), _mm256_cvtepi32_ps(_mm256_and_si256(w.hi, mask))};
}

template <int kBits>
CACHETTE_INLINE Words NextCodes(Words w) {
  return {_mm256_srli_epi32(w.lo, kBits), _mm256_srli_epi32(w.hi, kBits)};
}

template <int kBits>
CACHETTE_INLINE Words PushCodes(Words w, F32x16 x) {
  return {_mm256_or_si256(_mm256_slli_epi32(w.lo, kBits), _mm256_cvtps_epi32(x.lo)),
          _mm256_or_si256(_mm256_slli_epi32(w.hi, kBits), _mm256_cvtps_epi32(x.hi))};
}
CACHETTE_INLINE Words NoCodes() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }

CACHETTE_INLINE void StoreF16Down(std::byte* p, F32x16 x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.lo, _MM_FROUND_TO_NEG_INF));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 16), _mm256_cvtps_ph(x.hi, _MM_FROUND_TO_NEG_INF));
}
CACHETTE_INLINE void StoreF16Up(std::byte* p, F32x16 x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.lo, _MM_FROUND_TO_POS_INF));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 16), _mm256_cvtps_ph(x.hi, _MM_FROUND_TO_POS_INF));
}

#endif

}  // namespace cachette::CACHETTE_ISA
