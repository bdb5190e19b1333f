#include "ops/attention/codes_simd.h"
#include "ops/attention/prefill_kernels.h"
#include "ops/simd_vec.h"

namespace cachette::CACHETTE_ISA {
namespace {

constexpr int kBlock = 16;
constexpr int kMaxHeadDim = 256;

// 16 columns of rows 2i and 2i + 1, interleaved as bf16 pairs: 64 bytes.
CACHETTE_INLINE void StorePairs(std::byte* p, F32x16 even, F32x16 odd) {
#if defined(CACHETTE_HAS_AVX512)
  const __m512i pairs = _mm512_or_si512(RoundToBf16(even), _mm512_slli_epi32(RoundToBf16(odd), 16));
  _mm512_storeu_si512(p, pairs);
#else
  const __m256i lo = _mm256_or_si256(RoundToBf16(even.lo), _mm256_slli_epi32(RoundToBf16(odd.lo), 16));
  const __m256i hi = _mm256_or_si256(RoundToBf16(even.hi), _mm256_slli_epi32(RoundToBf16(odd.hi), 16));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), lo);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), hi);
#endif
}

// Rows row and row + 1 of a slab, 16 columns from column on. Rows are even; slab is the slab's first byte.
CACHETTE_INLINE void StoreRowPair(bool is_bf16, std::byte* slab, int64_t row, int column, F32x16 even, F32x16 odd) {
  if (is_bf16) {
    StorePairs(slab + (row / 2 * ops::kSlabColumns + column) * 4, even, odd);
  } else {
    Store(reinterpret_cast<float*>(slab) + row * ops::kSlabColumns + column, even);
    Store(reinterpret_cast<float*>(slab) + (row + 1) * ops::kSlabColumns + column, odd);
  }
}

// 16 elements of row at d; zero from head_dim on.
template <Dtype kDtype, int kBytes>
CACHETTE_INLINE F32x16 LoadPadded(const std::byte* row, int d, int head_dim) {
  if (d + 16 <= head_dim) return LoadAs<kDtype>(row + d * kBytes);
  return d < head_dim ? LoadLow8As<kDtype>(row + d * kBytes) : Set1(0.0f);
}

template <Dtype kDtype, int kBytes>
void GatherTyped(const ops::PanelView& panel, const ops::BlockGather& gather) {
  const int64_t element_bytes = panel.is_bf16 ? 2 : 4;
  const F32x16 zero = Set1(0.0f);
  std::byte* key_slab = panel.keys + gather.slot / ops::kSlabColumns * ops::kSlabColumns * panel.k_dim * element_bytes;
  const auto column = static_cast<int>(gather.slot % ops::kSlabColumns);
  for (int d = 0; d < panel.k_dim; d += 2) {
    const bool is_data = gather.block != nullptr && d < panel.head_dim;
    const std::byte* row = gather.block + d * kBlock * kBytes;
    StoreRowPair(panel.is_bf16, key_slab, d, column, is_data ? LoadAs<kDtype>(row) : zero,
                 is_data ? LoadAs<kDtype>(row + kBlock * kBytes) : zero);
  }
  const std::byte* values = gather.block + panel.head_dim * kBlock * kBytes;
  for (int d = 0; d < panel.v_dim; d += 16) {
    std::byte* slab = panel.values + d / ops::kSlabColumns * panel.num_slots * ops::kSlabColumns * element_bytes;
    for (int slot = 0; slot < kBlock; slot += 2) {
      const std::byte* row = values + slot * panel.head_dim * kBytes;
      const bool is_data = gather.block != nullptr;
      StoreRowPair(panel.is_bf16, slab, gather.slot + slot, d % ops::kSlabColumns,
                   is_data ? LoadPadded<kDtype, kBytes>(row, d, panel.head_dim) : zero,
                   is_data ? LoadPadded<kDtype, kBytes>(row + panel.head_dim * kBytes, d, panel.head_dim) : zero);
    }
  }
}

// f16 parameters [count] as f32; count is a multiple of 16.
void LoadParams(const std::byte* from, int count, float* to) {
  for (int i = 0; i < count; i += 16) Store(to + i, LoadAs<Dtype::kF16>(from + i * 2));
}

template <int kBits>
void GatherCodedKeys(const ops::PanelView& panel, const ops::BlockGather& gather) {
  constexpr int kPerWord = 32 / kBits;
  const ops::CodedLayout& l = gather.coded;
  const int64_t element_bytes = panel.is_bf16 ? 2 : 4;
  alignas(64) float scales[kMaxHeadDim], mins[kMaxHeadDim];
  const int params = gather.first_entry / ops::kCodedGroup * l.padded_dim * 2;
  LoadParams(gather.block + l.key_scales + params, l.padded_dim, scales);
  LoadParams(gather.block + l.key_mins + params, l.padded_dim, mins);
  std::byte* slab = panel.keys + gather.slot / ops::kSlabColumns * ops::kSlabColumns * panel.k_dim * element_bytes;
  const auto column = static_cast<int>(gather.slot % ops::kSlabColumns);
  // Padded channels decode to 0, as the panel wants them.
  for (int d = 0; d < l.padded_dim; d += kPerWord) {
    Words words = LoadWords(gather.block + l.key_codes +
                            (gather.first_entry / kBlock * (l.padded_dim / kPerWord) + d / kPerWord) * 64);
    for (int j = d; j < d + kPerWord; j += 2) {
      const F32x16 even = Fma(LowCodes<kBits>(words), Set1(scales[j]), Set1(mins[j]));
      words = NextCodes<kBits>(words);
      const F32x16 odd = Fma(LowCodes<kBits>(words), Set1(scales[j + 1]), Set1(mins[j + 1]));
      words = NextCodes<kBits>(words);
      StoreRowPair(panel.is_bf16, slab, j, column, even, odd);
    }
  }
  for (int d = l.padded_dim; d < panel.k_dim; d += 2)
    StoreRowPair(panel.is_bf16, slab, d, column, Set1(0.0f), Set1(0.0f));
}

template <int kBits>
void GatherCodedValues(const ops::PanelView& panel, const ops::BlockGather& gather) {
  constexpr int kPerWord = 32 / kBits;
  const ops::CodedLayout& l = gather.coded;
  const int64_t element_bytes = panel.is_bf16 ? 2 : 4;
  for (int d = 0; d < panel.v_dim; d += 16) {
    std::byte* slab = panel.values + d / ops::kSlabColumns * panel.num_slots * ops::kSlabColumns * element_bytes;
    const int column = d % ops::kSlabColumns;
    if (d >= l.padded_dim) {
      for (int e = 0; e < kBlock; e += 2)
        StoreRowPair(panel.is_bf16, slab, gather.slot + e, column, Set1(0.0f), Set1(0.0f));
      continue;
    }
    const uint16_t mask = d + 16 <= l.head_dim ? uint16_t{0xffff} : uint16_t{0xff};
    alignas(64) float scales[kBlock], mins[kBlock];
    const int params = (d / ops::kCodedGroup * ops::kCodedEntries + gather.first_entry) * 2;
    LoadParams(gather.block + l.value_scales + params, kBlock, scales);
    LoadParams(gather.block + l.value_mins + params, kBlock, mins);
    for (int e = 0; e < kBlock; e += kPerWord) {
      Words words = LoadWords(gather.block + l.value_codes +
                              ((gather.first_entry + e) / kPerWord * (l.padded_dim / 16) + d / 16) * 64);
      for (int j = e; j < e + kPerWord; j += 2) {
        const F32x16 even = Fma(LowCodes<kBits>(words), Set1(scales[j]), Set1(mins[j]));
        words = NextCodes<kBits>(words);
        const F32x16 odd = Fma(LowCodes<kBits>(words), Set1(scales[j + 1]), Set1(mins[j + 1]));
        words = NextCodes<kBits>(words);
        StoreRowPair(panel.is_bf16, slab, gather.slot + j, column, Select(mask, even, Set1(0.0f)),
                     Select(mask, odd, Set1(0.0f)));
      }
    }
  }
}

template <int kBits>
void GatherCoded(const ops::PanelView& panel, const ops::BlockGather& gather) {
  GatherCodedKeys<kBits>(panel, gather);
  GatherCodedValues<kBits>(panel, gather);
}

void GatherBlock(const ops::PanelView& panel, const ops::BlockGather& gather) {
  switch (gather.coded.bits) {
    case 8: return GatherCoded<8>(panel, gather);
    case 4: return GatherCoded<4>(panel, gather);
    case 2: return GatherCoded<2>(panel, gather);
    default: break;
  }
  switch (gather.dtype) {
    case Dtype::kF16: return GatherTyped<Dtype::kF16, 2>(panel, gather);
    case Dtype::kBF16: return GatherTyped<Dtype::kBF16, 2>(panel, gather);
    default: return GatherTyped<Dtype::kF32, 4>(panel, gather);
  }
}

void PackQueries(const ops::QueryPack& p) {
  const F32x16 factor = Set1(p.factor);
  for (int r = 0; r < p.padded_rows; ++r) {
    const float* q = p.q + r / p.group_size * p.q_stride + r % p.group_size * p.head_dim;
    for (int d = 0; d < p.k_dim; d += 16) {
      F32x16 x = Set1(0.0f);
      if (r < p.num_rows) x = LoadPadded<Dtype::kF32, 4>(reinterpret_cast<const std::byte*>(q), d, p.head_dim) * factor;
      const int64_t at = static_cast<int64_t>(r) * p.k_dim + d;
      if (p.is_bf16) {
        StoreAs<Dtype::kBF16>(p.packed + at * 2, x);
      } else {
        StoreAs<Dtype::kF32>(p.packed + at * 4, x);
      }
    }
  }
}

// softcap * tanh(x / softcap), times log2(e). tanh(y) = 1 - 2 / (e^2y + 1), absolute error below 3e-7.
CACHETTE_INLINE F32x16 Capped(F32x16 x, float softcap) {
  const F32x16 e = Exp(x * Set1(2.0f / softcap));
  return Fma(Set1(-2.0f * softcap * kLog2e), Set1(1.0f) / (e + Set1(1.0f)), Set1(softcap * kLog2e));
}

// Caps and masks the first count scores of a row in place; those up to the next multiple of 16 become -infinity.
void MaskRow(const ops::SoftmaxTile& t, int row, int count, float* scores) {
  int32_t oldest = INT32_MIN;
  if (t.positions != nullptr && t.attention_window > 0)
    oldest = t.query_positions[row / t.group_size] - t.attention_window;
  for (int i = 0; i < count; i += 16) {
    F32x16 x = Load(scores + i);
    if (t.softcap > 0.0f) x = Capped(x, t.softcap);
    uint16_t mask = count - i >= 16 ? uint16_t{0xffff} : static_cast<uint16_t>((1u << (count - i)) - 1);
    if (t.positions != nullptr) mask = static_cast<uint16_t>(mask & MaskGreater(t.positions + i, oldest));
    Store(scores + i, Select(mask, x, Set1(kMinusInfinity)));
  }
}

CACHETTE_INLINE float MaxOf(const float* scores, int padded) {
  F32x16 a = Set1(kMinusInfinity), b = a;
  int i = 0;
  for (; i + 32 <= padded; i += 32) {
    a = Max(a, Load(scores + i));
    b = Max(b, Load(scores + i + 16));
  }
  if (i < padded) a = Max(a, Load(scores + i));
  return ReduceMax(Max(a, b));
}

// weights = 2^(score - max) as f32 or bf16; returns their sum. weights may overlay scores: a row's weights never lie
// beyond the scores read so far. They are summed before they are rounded to bf16: the rounding errors of numerator and
// denominator are then independent and average out over a row.
CACHETTE_INLINE float WeighF32(const float* scores, float* weights, int padded, float max) {
  const F32x16 shift = Set1(max);
  F32x16 sum = Set1(0.0f);
  for (int i = 0; i < padded; i += 16) {
    const F32x16 weight = Exp2(Load(scores + i) - shift);
    sum = sum + weight;
    Store(weights + i, weight);
  }
  return ReduceSum(sum);
}

CACHETTE_INLINE void StoreBf16(std::byte* p, F32x16 lo, F32x16 hi) {
#if defined(CACHETTE_HAS_BF16)
  const __m512bh packed = _mm512_cvtne2ps_pbh(hi.v, lo.v);
  __builtin_memcpy(p, &packed, 64);
#else
  StoreAs<Dtype::kBF16>(p, lo);
  StoreAs<Dtype::kBF16>(p + 32, hi);
#endif
}

CACHETTE_INLINE float WeighBf16(const float* scores, std::byte* weights, int padded, float max) {
  const F32x16 shift = Set1(max);
  F32x16 sum_a = Set1(0.0f), sum_b = sum_a;
  int i = 0;
  for (; i + 32 <= padded; i += 32) {
    const F32x16 a = Exp2Coarse(Load(scores + i) - shift);
    const F32x16 b = Exp2Coarse(Load(scores + i + 16) - shift);
    sum_a = sum_a + a;
    sum_b = sum_b + b;
    StoreBf16(weights + i * 2, a, b);
  }
  if (i < padded) {
    const F32x16 a = Exp2Coarse(Load(scores + i) - shift);
    sum_a = sum_a + a;
    StoreAs<Dtype::kBF16>(weights + i * 2, a);
  }
  return ReduceSum(sum_a + sum_b);
}

void SoftmaxRow(const ops::SoftmaxTile& t, int row, int count) {
  float* scores = t.scores + static_cast<int64_t>(row) * t.num_slots;
  const size_t element_bytes = t.is_bf16 ? 2 : 4;
  std::byte* weights = reinterpret_cast<std::byte*>(t.scores) + static_cast<size_t>(row * t.num_slots) * element_bytes;
  const int padded = (count + 15) / 16 * 16;
  if (t.positions != nullptr || t.softcap > 0.0f || count != padded) MaskRow(t, row, count, scores);
  const float max = MaxOf(scores, padded);
  const float old_max = t.max[row];
  if (max > old_max) {
    const F32x16 factor = Exp2(Set1(old_max - max));
    alignas(64) float factors[16];
    Store(factors, factor);
    t.max[row] = max;
    t.denominator[row] *= factors[0];
    for (int slab = 0; slab < t.v_dim / ops::kSlabColumns; ++slab) {
      float* out = t.out + (slab * t.padded_rows + row) * ops::kSlabColumns;
      for (int d = 0; d < ops::kSlabColumns; d += 16) Store(out + d, Load(out + d) * factor);
    }
  }
  // Nothing visible so far: any finite maximum makes every weight 0.
  const float shift = t.max[row] == kMinusInfinity ? 0.0f : t.max[row];
  t.denominator[row] += t.is_bf16 ? WeighBf16(scores, weights, padded, shift)
                                  : WeighF32(scores, reinterpret_cast<float*>(weights), padded, shift);
  __builtin_memset(weights + static_cast<size_t>(padded) * element_bytes, 0,
                   static_cast<size_t>(t.num_slots - padded) * element_bytes);
}

void SoftmaxTileRows(const ops::SoftmaxTile& t) {
  for (int row = 0; row < t.num_rows; ++row) {
    const int64_t limit = t.first_limit + row / t.group_size;
    SoftmaxRow(t, row, static_cast<int>(limit < 0 ? 0 : limit > t.num_slots ? t.num_slots : limit));
  }
  const size_t row_bytes = static_cast<size_t>(t.num_slots) * (t.is_bf16 ? 2 : 4);
  __builtin_memset(reinterpret_cast<std::byte*>(t.scores) + static_cast<size_t>(t.num_rows) * row_bytes, 0,
                   static_cast<size_t>(t.padded_rows - t.num_rows) * row_bytes);
}

}  // namespace

ops::PrefillKernels PrefillKernelsOfIsa() { return {GatherBlock, PackQueries, SoftmaxTileRows}; }

}  // namespace cachette::CACHETTE_ISA
