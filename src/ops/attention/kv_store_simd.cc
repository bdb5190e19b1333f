#include "ops/attention/kv_store_kernels.h"
#include "ops/simd_vec.h"

namespace cachette::CACHETTE_ISA {
namespace {

constexpr int kBlock = 16;

// Rows 0..7 of 8 floats each become columns.
CACHETTE_INLINE void Transpose8x8(__m256 (&r)[8]) {
  __m256 t[8], u[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
  }
}

CACHETTE_INLINE F32x16 Join(__m256 lo, __m256 hi) {
#if defined(CACHETTE_HAS_AVX512)
  return {_mm512_insertf32x8(_mm512_castps256_ps512(lo), hi, 1)};
#else
  return {lo, hi};
#endif
}

CACHETTE_INLINE __m256 LowHalf(F32x16 x) {
#if defined(CACHETTE_HAS_AVX512)
  return _mm512_castps512_ps256(x.v);
#else
  return x.lo;
#endif
}

CACHETTE_INLINE __m256 HighHalf(F32x16 x) {
#if defined(CACHETTE_HAS_AVX512)
  return _mm512_extractf32x8_ps(x.v, 1);
#else
  return x.hi;
#endif
}

// A whole block at once: 16 rows of keys, 8 columns at a time, through two 8x8 transposes.
template <Dtype kDtype, size_t kBytes>
void StoreKeysWhole(const ops::KeyRows& s) {
  for (int d = 0; d < s.head_dim; d += 8) {
    __m256 first[8], second[8];
    for (int t = 0; t < 8; ++t) {
      first[t] = _mm256_loadu_ps(s.rows[t] + d);
      second[t] = _mm256_loadu_ps(s.rows[t + 8] + d);
    }
    Transpose8x8(first);
    Transpose8x8(second);
    for (int i = 0; i < 8; ++i)
      StoreAs<kDtype>(s.keys + static_cast<size_t>(d + i) * kBlock * kBytes, Join(first[i], second[i]));
  }
}

// 16 (or, at a tail, 8) converted elements of a row at d.
template <Dtype kDtype, size_t kBytes>
CACHETTE_INLINE int ConvertAt(const float* row, int d, int head_dim, std::byte* out) {
  if (d + 16 <= head_dim) {
    StoreAs<kDtype>(out, Load(row + d));
    return 16;
  }
  StoreAs<kDtype>(out, LoadLow8As<Dtype::kF32>(reinterpret_cast<const std::byte*>(row + d)));
  return 8;
}

template <Dtype kDtype, size_t kBytes>
void StoreTyped(const ops::BlockStore& s) {
  alignas(64) std::byte converted[16 * kBytes];
  const bool is_whole = s.num_tokens == kBlock;
  if (is_whole) {
    ops::KeyRows rows{s.dtype, s.head_dim, {}, s.keys};
    for (int t = 0; t < kBlock; ++t) rows.rows[t] = s.key_rows + t * s.key_stride;
    StoreKeysWhole<kDtype, kBytes>(rows);
  }
  for (int t = 0; t < s.num_tokens; ++t) {
    const auto slot = static_cast<size_t>(s.slot_idx + t);
    for (int d = 0; d < s.head_dim; d += 16) {
      const int count = ConvertAt<kDtype, kBytes>(s.value_rows + t * s.value_stride, d, s.head_dim, converted);
      __builtin_memcpy(s.values + (slot * static_cast<size_t>(s.head_dim) + static_cast<size_t>(d)) * kBytes, converted,
                       static_cast<size_t>(count) * kBytes);
      if (is_whole) continue;
      ConvertAt<kDtype, kBytes>(s.key_rows + t * s.key_stride, d, s.head_dim, converted);
      for (int i = 0; i < count; ++i)
        __builtin_memcpy(s.keys + (static_cast<size_t>(d + i) * kBlock + slot) * kBytes,
                         converted + static_cast<size_t>(i) * kBytes, kBytes);
    }
  }
}

void StoreBlock(const ops::BlockStore& store) {
  switch (store.dtype) {
    case Dtype::kF16: return StoreTyped<Dtype::kF16, 2>(store);
    case Dtype::kBF16: return StoreTyped<Dtype::kBF16, 2>(store);
    default: return StoreTyped<Dtype::kF32, 4>(store);
  }
}

void StoreKeys(const ops::KeyRows& keys) {
  switch (keys.dtype) {
    case Dtype::kF16: return StoreKeysWhole<Dtype::kF16, 2>(keys);
    case Dtype::kBF16: return StoreKeysWhole<Dtype::kBF16, 2>(keys);
    default: return StoreKeysWhole<Dtype::kF32, 4>(keys);
  }
}

// The way back of StoreKeysWhole.
template <Dtype kDtype, size_t kBytes>
void LoadKeysTyped(const ops::BlockKeys& b) {
  for (int d = 0; d < b.head_dim; d += 8) {
    __m256 first[8], second[8];
    for (int i = 0; i < 8; ++i) {
      const F32x16 channel = LoadAs<kDtype>(b.keys + static_cast<size_t>(d + i) * kBlock * kBytes);
      first[i] = LowHalf(channel);
      second[i] = HighHalf(channel);
    }
    Transpose8x8(first);
    Transpose8x8(second);
    for (int t = 0; t < 8; ++t) {
      _mm256_storeu_ps(b.rows + t * b.head_dim + d, first[t]);
      _mm256_storeu_ps(b.rows + (t + 8) * b.head_dim + d, second[t]);
    }
  }
}

void LoadKeys(const ops::BlockKeys& block) {
  switch (block.dtype) {
    case Dtype::kF16: return LoadKeysTyped<Dtype::kF16, 2>(block);
    case Dtype::kBF16: return LoadKeysTyped<Dtype::kBF16, 2>(block);
    default: return LoadKeysTyped<Dtype::kF32, 4>(block);
  }
}

}  // namespace
}  // namespace cachette::CACHETTE_ISA

namespace cachette::ops {

template <>
KvStoreKernels KvStoreKernelsOf<CACHETTE_ISA::kIsa>() {
  return {CACHETTE_ISA::StoreBlock, CACHETTE_ISA::LoadKeys, CACHETTE_ISA::StoreKeys};
}

}  // namespace cachette::ops
