#pragma once
// The vectors of the linear kernels: kLanes rows of a panel side by side. AVX-512 takes a panel's 16 rows at once,
// AVX2 takes it in two halves. Only for *_simd.cc files: everything is static to the including instruction set.

// g++ 12 takes the deliberately undefined operand of unmasked AVX-512 intrinsics for a mistake (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include <immintrin.h>

#include <cstdint>

#include "ops/simd.h"

namespace cachette::CACHETTE_ISA {
namespace {

#if defined(CACHETTE_HAS_AVX512)

constexpr int kLanes = 16;
using Words = __m512i;  // [kLanes] x 4 bytes or one i32
using Floats = __m512;  // [kLanes]

inline Words LoadWords(const void* p) { return _mm512_loadu_si512(p); }
inline Words ZeroWords() { return _mm512_setzero_si512(); }
inline Words Repeat32(int32_t v) { return _mm512_set1_epi32(v); }
inline Words Repeat8(char v) { return _mm512_set1_epi8(v); }
inline Words And(Words a, Words b) { return _mm512_and_si512(a, b); }
inline Words Or(Words a, Words b) { return _mm512_or_si512(a, b); }
inline Words AddWords(Words a, Words b) { return _mm512_add_epi32(a, b); }
template <int n>
inline Words ShiftBits(Words a) {  // left by n > 0, right by -n; across the bytes of a 16-bit pair
  if constexpr (n > 0) return _mm512_slli_epi16(a, n);
  if constexpr (n < 0) return _mm512_srli_epi16(a, -n);
  return a;
}
template <int byte>
inline Floats ByteToFloats(Words a) {
  const Words shifted =
      byte == 3 ? _mm512_srli_epi32(a, 24) : _mm512_and_si512(_mm512_srli_epi32(a, 8 * byte), _mm512_set1_epi32(255));
  return _mm512_cvtepi32_ps(shifted);
}
inline Floats ToFloats(Words a) { return _mm512_cvtepi32_ps(a); }
inline Floats HighHalves(Words a) {  // bf16 in the upper half of each word
  return _mm512_castsi512_ps(_mm512_and_si512(a, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
inline Floats LowHalves(Words a) { return _mm512_castsi512_ps(_mm512_slli_epi32(a, 16)); }
inline Floats LoadHalf(const void* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }
inline Floats LoadU8(const void* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
}
inline Floats LoadS8(const void* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
}
inline Floats LoadFloats(const float* p) { return _mm512_loadu_ps(p); }
inline void StoreFloats(float* p, Floats v) { _mm512_storeu_ps(p, v); }
inline Floats ZeroFloats() { return _mm512_setzero_ps(); }
inline Floats Repeat(float v) { return _mm512_set1_ps(v); }
inline Floats Add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats Mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats Fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

// f32 to bf16, to nearest even. NaN stays NaN.
inline __m256i ToBF16Lanes(Floats v) {
#if defined(CACHETTE_HAS_BF16)
  return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v));
#else
  const Words bits = _mm512_castps_si512(v);
  const Words odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const Words rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const Words quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, is_nan, quiet), 16));
#endif
}
inline void StoreBF16(uint16_t* p, Floats v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), ToBF16Lanes(v)); }
inline void StoreBF16Pairs(uint16_t* p, Floats even, Floats odd) {  // even[0], odd[0], even[1], ...
#if defined(CACHETTE_HAS_BF16)
  const Words order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                       5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const Words both = reinterpret_cast<Words>(_mm512_cvtne2ps_pbh(odd, even));
  _mm512_storeu_si512(p, _mm512_permutexvar_epi16(order, both));
#else
  const Words low = _mm512_cvtepu16_epi32(ToBF16Lanes(even));
  const Words high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(ToBF16Lanes(odd)), 16);
  _mm512_storeu_si512(p, _mm512_or_si512(low, high));
#endif
}

// Sums of adjacent 16-bit pairs into i32.
inline Words PairSums(Words a) { return _mm512_madd_epi16(a, _mm512_set1_epi16(1)); }
inline Words Add16(Words a, Words b) { return _mm512_add_epi16(a, b); }
inline Words MulAddU8S8(Words u, Words s) { return _mm512_maddubs_epi16(u, s); }  // 16-bit, saturating
// |w| and s * sign(w), so that the unsigned-times-signed product takes signed w. |-128| reads as 128.
inline Words FlipSign(Words u) { return _mm512_xor_si512(u, _mm512_set1_epi8(-128)); }  // u = w + 128 to w
inline Words Magnitude(Words w) { return _mm512_abs_epi8(w); }
inline float LargestMagnitude(const Floats* v, int count) {
  Floats largest = _mm512_abs_ps(v[0]);
  for (int i = 1; i < count; ++i) largest = _mm512_max_ps(largest, _mm512_abs_ps(v[i]));
  return _mm512_reduce_max_ps(largest);
}
inline Words RoundToWords(Floats v) { return _mm512_cvtps_epi32(v); }  // to nearest even
inline void StoreAsBytes(int8_t* p, Words v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
}
inline int32_t SumWords(Words v) { return _mm512_reduce_add_epi32(v); }
inline Words WithSignOf(Words s, Words w) {
  return _mm512_mask_sub_epi8(s, _mm512_movepi8_mask(w), _mm512_setzero_si512(), s);
}

#else

constexpr int kLanes = 8;
using Words = __m256i;
using Floats = __m256;

inline Words LoadWords(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline Words ZeroWords() { return _mm256_setzero_si256(); }
inline Words Repeat32(int32_t v) { return _mm256_set1_epi32(v); }
inline Words Repeat8(char v) { return _mm256_set1_epi8(v); }
inline Words And(Words a, Words b) { return _mm256_and_si256(a, b); }
inline Words Or(Words a, Words b) { return _mm256_or_si256(a, b); }
inline Words AddWords(Words a, Words b) { return _mm256_add_epi32(a, b); }
template <int n>
inline Words ShiftBits(Words a) {
  if constexpr (n > 0) return _mm256_slli_epi16(a, n);
  if constexpr (n < 0) return _mm256_srli_epi16(a, -n);
  return a;
}
template <int byte>
inline Floats ByteToFloats(Words a) {
  const Words shifted = _mm256_and_si256(_mm256_srli_epi32(a, 8 * byte), _mm256_set1_epi32(255));
  return _mm256_cvtepi32_ps(shifted);
}
inline Floats ToFloats(Words a) { return _mm256_cvtepi32_ps(a); }
inline Floats HighHalves(Words a) {
  return _mm256_castsi256_ps(_mm256_and_si256(a, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
inline Floats LowHalves(Words a) { return _mm256_castsi256_ps(_mm256_slli_epi32(a, 16)); }
inline Floats LoadHalf(const void* p) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p))); }
inline Floats LoadU8(const void* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
}
inline Floats LoadS8(const void* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
}
inline Floats LoadFloats(const float* p) { return _mm256_loadu_ps(p); }
inline void StoreFloats(float* p, Floats v) { _mm256_storeu_ps(p, v); }
inline Floats ZeroFloats() { return _mm256_setzero_ps(); }
inline Floats Repeat(float v) { return _mm256_set1_ps(v); }
inline Floats Add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats Mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats Fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

// f32 to bf16 in the low half of each word, to nearest even. NaN stays NaN.
inline Words ToBF16Words(Floats v) {
  const Words bits = _mm256_castps_si256(v);
  const Words odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const Words rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const Words quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const Words is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
}
inline void StoreBF16(uint16_t* p, Floats v) {
  const Words w = ToBF16Words(v);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi32(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
}
inline void StoreBF16Pairs(uint16_t* p, Floats even, Floats odd) {
  const Words pairs = _mm256_or_si256(ToBF16Words(even), _mm256_slli_epi32(ToBF16Words(odd), 16));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), pairs);
}

inline Words PairSums(Words a) { return _mm256_madd_epi16(a, _mm256_set1_epi16(1)); }
inline Words Add16(Words a, Words b) { return _mm256_add_epi16(a, b); }
inline Words MulAddU8S8(Words u, Words s) { return _mm256_maddubs_epi16(u, s); }
inline Words FlipSign(Words u) { return _mm256_xor_si256(u, _mm256_set1_epi8(-128)); }
inline Words Magnitude(Words w) { return _mm256_abs_epi8(w); }
inline Words WithSignOf(Words s, Words w) { return _mm256_sign_epi8(s, w); }

inline float LargestMagnitude(const Floats* v, int count) {
  const Floats sign = _mm256_set1_ps(-0.0f);
  Floats largest = _mm256_andnot_ps(sign, v[0]);
  for (int i = 1; i < count; ++i) largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, v[i]));
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps(largest, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}
inline Words RoundToWords(Floats v) { return _mm256_cvtps_epi32(v); }
inline void StoreAsBytes(int8_t* p, Words v) {
  const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(halves, halves));
}
inline int32_t SumWords(Words v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_unpackhi_epi64(s, s));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 1)));
}

#endif

// Dot products of num_groups words of unsigned kBits-bit values u with the words x, 4 products per lane and word,
// minus offset * x_sum, exact in i32 (8 * 4 * 255 * 127 < 2^21).
template <int kBits, int kNumGroups>
inline Words DotGroups(const Words* u, const int32_t* x, int32_t offset_times_sum) {
#if defined(CACHETTE_HAS_VNNI)
  Words sum = Repeat32(-offset_times_sum);
  for (int g = 0; g < kNumGroups; ++g) sum = _mm512_dpbusd_epi32(sum, u[g], Repeat32(x[g]));
  return sum;
#else
  if constexpr (kBits == 8) {
    // u * x pairs reach 2 * 255 * 127 and would saturate 16 bits; as signed values |w| <= 128 they stay below 2^15.
    Words sum = ZeroWords();
    for (int g = 0; g < kNumGroups; ++g) {
      const Words w = FlipSign(u[g]);
      sum = AddWords(sum, PairSums(MulAddU8S8(Magnitude(w), WithSignOf(Repeat32(x[g]), w))));
    }
    return sum;
  } else {
    // How many pair products of at most 2 * (2^bits - 1) * 127 add up in 16 bits: 8, 4, 2 for 4, 5, 6 bits.
    constexpr int kChain = kBits == 4 ? 8 : kBits == 5 ? 4 : 2;
    static_assert(kChain * 2 * ((1 << kBits) - 1) * 127 < 32768);
    Words sum = Repeat32(-offset_times_sum);
    for (int g = 0; g < kNumGroups; g += kChain) {
      Words chain = MulAddU8S8(u[g], Repeat32(x[g]));
      for (int i = 1; i < kChain && g + i < kNumGroups; ++i)
        chain = Add16(chain, MulAddU8S8(u[g + i], Repeat32(x[g + i])));
      sum = AddWords(sum, PairSums(chain));
    }
    return sum;
  }
#endif
}

}  // namespace
}  // namespace cachette::CACHETTE_ISA
