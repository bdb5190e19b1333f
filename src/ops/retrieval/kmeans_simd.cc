#include "ops/retrieval/kmeans_kernels.h"
#include "ops/simd_vec.h"

namespace cachette::CACHETTE_ISA {
namespace {

constexpr int kTile = ops::kKeyTile;
constexpr int kLanes = 16;
constexpr int kRows = 6;  // centroids whose sums are in registers together
#if defined(CACHETTE_HAS_AVX512)
constexpr int kWide = 4;  // registers of keys beside them: 24 sums of 32 registers
#else
constexpr int kWide = 1;  // 12 of 16 registers of half the width
#endif

// 8 x 8 floats: row r of in becomes column r of out.
CACHETTE_INLINE void Transpose8(const __m256 (&in)[8], __m256 (&out)[8]) {
  __m256 pairs[8], quads[8];
  for (int r = 0; r < 8; r += 2) {
    pairs[r] = _mm256_unpacklo_ps(in[r], in[r + 1]);
    pairs[r + 1] = _mm256_unpackhi_ps(in[r], in[r + 1]);
  }
  for (int r = 0; r < 8; r += 4)
    for (int h = 0; h < 2; ++h) {
      quads[r + 2 * h] = _mm256_shuffle_ps(pairs[r + h], pairs[r + 2 + h], 0x44);
      quads[r + 2 * h + 1] = _mm256_shuffle_ps(pairs[r + h], pairs[r + 2 + h], 0xee);
    }
  for (int r = 0; r < 4; ++r) {
    out[r] = _mm256_permute2f128_ps(quads[r], quads[r + 4], 0x20);
    out[r + 4] = _mm256_permute2f128_ps(quads[r], quads[r + 4], 0x31);
  }
}

CACHETTE_INLINE float InverseLength(const float* key, int head_dim) {
  __m256 squares = _mm256_setzero_ps();
  for (int d = 0; d < head_dim; d += 8) {
    const __m256 x = _mm256_loadu_ps(key + d);
    squares = _mm256_fmadd_ps(x, x, squares);
  }
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(squares), _mm256_extractf128_ps(squares, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  const float sum = _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
  return sum > 0.0f ? 1.0f / __builtin_sqrtf(sum) : 0.0f;
}

void PackKeys(const ops::KeyPack& pack) {
  const int head_dim = pack.head_dim;
  for (int first = 0; first < kTile; first += 8) {
    // Keys lie anywhere in megabytes: the next eight come while these are transposed.
    for (int i = first + 8; i < first + 16 && i < pack.num_keys; ++i)
      for (int d = 0; d < head_dim; d += 16)
        _mm_prefetch(reinterpret_cast<const char*>(pack.keys + static_cast<int64_t>(pack.order[i]) * head_dim + d),
                     _MM_HINT_T0);
    const float* keys[8];
    __m256 inverses[8];
    for (int i = 0; i < 8; ++i) {
      const bool is_key = first + i < pack.num_keys;  // others: any key times zero
      keys[i] = pack.keys + static_cast<int64_t>(pack.order[is_key ? first + i : 0]) * head_dim;
      inverses[i] = _mm256_set1_ps(is_key ? InverseLength(keys[i], head_dim) : 0.0f);
    }
    for (int d = 0; d < head_dim; d += 8) {
      __m256 rows[8], columns[8];
      for (int i = 0; i < 8; ++i) rows[i] = _mm256_mul_ps(_mm256_loadu_ps(keys[i] + d), inverses[i]);
      Transpose8(rows, columns);
      for (int j = 0; j < 8; ++j) _mm256_storeu_ps(pack.tile + (d + j) * kTile + first, columns[j]);
    }
  }
}

template <int kNumRows>
CACHETTE_INLINE void ScoreRows(const ops::KeyScores& s, int first_row) {
  const float* centroids = s.centroids + static_cast<int64_t>(first_row) * s.head_dim;
  for (int first = 0; first < kTile; first += kWide * kLanes) {
    F32x16 sum[kNumRows][kWide];
    for (int r = 0; r < kNumRows; ++r)
      for (int w = 0; w < kWide; ++w) sum[r][w] = Set1(0.0f);
    for (int d = 0; d < s.head_dim; ++d) {
      F32x16 keys[kWide];
      for (int w = 0; w < kWide; ++w) keys[w] = Load(s.tile + d * kTile + first + w * kLanes);
      for (int r = 0; r < kNumRows; ++r) {
        const F32x16 centroid = Set1(centroids[r * s.head_dim + d]);
        for (int w = 0; w < kWide; ++w) sum[r][w] = Fma(centroid, keys[w], sum[r][w]);
      }
    }
    for (int r = 0; r < kNumRows; ++r)
      for (int w = 0; w < kWide; ++w)
        Store(s.scores + static_cast<int64_t>(first_row + r) * kTile + first + w * kLanes, sum[r][w]);
  }
}

void ScoreKeys(const ops::KeyScores& s) {
  int row = 0;
  for (; row + kRows <= s.num_centroids; row += kRows) ScoreRows<kRows>(s, row);
  switch (s.num_centroids - row) {
    case 5: ScoreRows<5>(s, row); break;
    case 4: ScoreRows<4>(s, row); break;
    case 3: ScoreRows<3>(s, row); break;
    case 2: ScoreRows<2>(s, row); break;
    case 1: ScoreRows<1>(s, row); break;
    default: break;
  }
}

#if defined(CACHETTE_HAS_AVX512)
CACHETTE_INLINE F32x16 WhereGreater(F32x16 a, F32x16 b, F32x16 x, F32x16 other) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ), other.v, x.v)};
}
#else
CACHETTE_INLINE F32x16 WhereGreater(F32x16 a, F32x16 b, F32x16 x, F32x16 other) {
  return {_mm256_blendv_ps(other.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_GT_OQ)),
          _mm256_blendv_ps(other.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_GT_OQ))};
}
#endif

void PickCentroids(const ops::CentroidPick& p) {
  F32x16 best[4], second[4], label[4];  // all four registers at once hide the latency of compare and blend
  for (int w = 0; w < 4; ++w) {
    best[w] = second[w] = Set1(kMinusInfinity);
    label[w] = Set1(0.0f);
  }
  for (int c = 0; c < p.num_centroids; ++c) {
    const F32x16 price = Set1(p.prices[c]), centroid = Set1(static_cast<float>(c));
    for (int w = 0; w < 4; ++w) {
      const F32x16 value = Load(p.scores + static_cast<int64_t>(c) * kTile + w * kLanes) - price;
      label[w] = WhereGreater(value, best[w], centroid, label[w]);
      second[w] = Max(second[w], Min(value, best[w]));
      best[w] = Max(best[w], value);
    }
  }
  alignas(64) float labels[kTile];
  for (int w = 0; w < 4; ++w) {
    Store(labels + w * kLanes, label[w]);
    Store(p.margins + w * kLanes, best[w] - second[w]);
  }
  for (int i = 0; i < kTile; ++i) p.labels[i] = static_cast<int32_t>(labels[i]);
}

void AddKeys(const ops::KeySums& s) {
  for (int64_t i = 0; i < s.num_keys; ++i) {
    const float* key = s.keys + static_cast<int64_t>(s.order[i]) * s.head_dim;
    float* sum = s.sums + static_cast<int64_t>(s.labels[i]) * s.head_dim;
    int d = 0;
    for (; d + kLanes <= s.head_dim; d += kLanes) Store(sum + d, Load(sum + d) + Load(key + d));
    if (d < s.head_dim) _mm256_storeu_ps(sum + d, _mm256_add_ps(_mm256_loadu_ps(sum + d), _mm256_loadu_ps(key + d)));
  }
}

// The length in f64: centroids are compared where keys are few and close.
void Normalise(const float* x, int head_dim, float* unit) {
  __m256d even = _mm256_setzero_pd(), odd = even;
  for (int d = 0; d < head_dim; d += 8) {
    const __m256d lo = _mm256_cvtps_pd(_mm_loadu_ps(x + d)), hi = _mm256_cvtps_pd(_mm_loadu_ps(x + d + 4));
    even = _mm256_fmadd_pd(lo, lo, even);
    odd = _mm256_fmadd_pd(hi, hi, odd);
  }
  const __m256d sum = _mm256_add_pd(even, odd);
  const __m128d half = _mm_add_pd(_mm256_castpd256_pd128(sum), _mm256_extractf128_pd(sum, 1));
  const double squares = _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
  const float inverse = squares > 0.0 ? static_cast<float>(1.0 / __builtin_sqrt(squares)) : 0.0f;
  for (int d = 0; d < head_dim; ++d) unit[d] = x[d] * inverse;
}

int32_t Exchange(const ops::KeyExchange& e) {
  __m256 best_gain = _mm256_set1_ps(e.least_gain);
  __m256i best = _mm256_set1_epi32(-1), key = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256 leaving = _mm256_set1_ps(e.key_scores[e.own]);
  for (int t = 0; t < e.num_tiles; ++t) {
    const float* with_own = e.scores + (static_cast<int64_t>(t) * e.num_centroids + e.own) * kTile;
    for (int i = 0; i < kTile; i += 8) {
      const __m256i labels = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(e.labels + t * kTile + i));
      __m256 gain = _mm256_sub_ps(_mm256_i32gather_ps(e.key_scores, labels, 4), leaving);
      gain = _mm256_add_ps(gain, _mm256_loadu_ps(with_own + i));
      gain = _mm256_sub_ps(gain, _mm256_loadu_ps(e.own_scores + t * kTile + i));
      const __m256 is_better = _mm256_cmp_ps(gain, best_gain, _CMP_GT_OQ);
      best_gain = _mm256_blendv_ps(best_gain, gain, is_better);
      best = _mm256_blendv_epi8(best, key, _mm256_castps_si256(is_better));
      key = _mm256_add_epi32(key, _mm256_set1_epi32(8));
    }
  }
  alignas(32) float gains[8];
  alignas(32) int32_t keys[8];
  _mm256_store_ps(gains, best_gain);
  _mm256_store_si256(reinterpret_cast<__m256i*>(keys), best);
  int at = 0;
  for (int i = 1; i < 8; ++i)
    if (gains[i] > gains[at] || (gains[i] == gains[at] && keys[i] < keys[at])) at = i;
  return keys[at];
}

CACHETTE_INLINE int32_t ReduceMaxInt(__m256i x) {
  __m128i half = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}

CACHETTE_INLINE int32_t ReduceMinInt(__m256i x) {
  __m128i half = _mm_min_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  half = _mm_min_epi32(half, _mm_shuffle_epi32(half, 0x4e));
  return _mm_cvtsi128_si32(_mm_min_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}

// Bisects between the numbers that are left, as integers: floats >= 0 rank as their bits do. No branch depends on a
// single number, and about log2(count) rounds do.
float Select(const float* x, int count, int rank) {
  int32_t least = 0, most = 0x7f800000;  // the answer is in [least, most]
  while (least < most) {
    const int32_t middle = least + (most - least) / 2;
    const __m256i limit = _mm256_set1_epi32(middle);
    __m256i most_below = _mm256_setzero_si256(), least_above = _mm256_set1_epi32(0x7f800000);
    int num_above = 0;
    for (int i = 0; i < count; i += 8) {
      const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
      const __m256i is_above = _mm256_cmpgt_epi32(bits, limit);
      num_above += __builtin_popcount(static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(is_above))));
      most_below = _mm256_max_epi32(most_below, _mm256_andnot_si256(is_above, bits));
      least_above = _mm256_min_epi32(least_above, _mm256_blendv_epi8(least_above, bits, is_above));
    }
    const int num_below = (count + 7) / 8 * 8 - num_above;  // padding is above
    if (num_below > rank)
      most = ReduceMaxInt(most_below);
    else
      least = ReduceMinInt(least_above);
  }
  float selected;
  __builtin_memcpy(&selected, &least, sizeof(selected));
  return selected;
}

}  // namespace
}  // namespace cachette::CACHETTE_ISA

namespace cachette::ops {

using namespace CACHETTE_ISA;

template <>
KMeansKernels KMeansKernelsOf<kIsa>() {
  return {PackKeys, ScoreKeys, PickCentroids, AddKeys, Normalise, Exchange, Select};
}

}  // namespace cachette::ops
