#include "ops/retrieval/unit_scores_kernels.h"
#include "ops/simd_vec.h"

namespace cachette::CACHETTE_ISA {
namespace {

constexpr int kUnits = ops::kIndexBlockUnits;
constexpr int64_t kVectorBytes = kUnits * 2;  // one channel of a block
constexpr int kMaxHeads = 4;                  // of the group, per pass over the index
#if defined(CACHETTE_HAS_AVX512)
constexpr int kBlocks = 4;  // side by side: 4 to 16 sums hide the latency of a multiply-add
#else
constexpr int kBlocks = 1;
#endif

CACHETTE_INLINE F32x16 Capped(F32x16 x, float softcap) {
  const F32x16 e = Exp(x * Set1(2.0f / softcap));
  return Fma(Set1(-2.0f * softcap), Set1(1.0f) / (e + Set1(1.0f)), Set1(softcap));
}

// kHeads heads from first_head on against kNumBlocks blocks from first_block on.
template <ops::UnitBound kBound, int kHeads, int kNumBlocks>
CACHETTE_INLINE void ScoreTile(const ops::UnitScoreBlocks& p, int first_head, int64_t first_block) {
  const int head_dim = p.head_dim;
  const int64_t block_bytes = kVectorBytes * head_dim * (kBound == ops::UnitBound::kBox ? 2 : 1);
  const std::byte* index = p.index + first_block * block_bytes;
  const float* q = p.q + first_head * head_dim;
  F32x16 sum[kHeads][kNumBlocks];
  for (int h = 0; h < kHeads; ++h)
    for (int b = 0; b < kNumBlocks; ++b) sum[h][b] = Set1(0.0f);
  for (int d = 0; d < head_dim; ++d)
    for (int b = 0; b < kNumBlocks; ++b) {
      const std::byte* channel = index + b * block_bytes + d * kVectorBytes;
      // The next blocks, a line per two channels: the hardware's streams end every few kilobytes.
      if (d % 2 == 0) _mm_prefetch(channel + kNumBlocks * block_bytes, _MM_HINT_T0);
      const F32x16 first = LoadAs<Dtype::kF16>(channel);
      if constexpr (kBound == ops::UnitBound::kDot) {
        for (int h = 0; h < kHeads; ++h) sum[h][b] = Fma(Set1(q[h * head_dim + d]), first, sum[h][b]);
      } else {  // as lo <= hi, a positive q takes hi and a negative one lo
        const F32x16 second = LoadAs<Dtype::kF16>(channel + head_dim * kVectorBytes);
        if (d % 2 == 0) _mm_prefetch(channel + kNumBlocks * block_bytes + head_dim * kVectorBytes, _MM_HINT_T0);
        for (int h = 0; h < kHeads; ++h) {
          const F32x16 x = Set1(q[h * head_dim + d]), zero = Set1(0.0f);
          sum[h][b] = Fma(Max(x, zero), second, Fma(Min(x, zero), first, sum[h][b]));
        }
      }
    }
  for (int h = 0; h < kHeads; ++h)
    for (int b = 0; b < kNumBlocks; ++b) {
      F32x16 score = sum[h][b] * Set1(p.scale);
      if (p.softcap > 0.0f) score = Capped(score, p.softcap);
      Store(p.scores + (first_head + h) * p.stride + (first_block + b) * kUnits, score);
    }
}

template <ops::UnitBound kBound, int kHeads>
CACHETTE_INLINE void ScoreHeads(const ops::UnitScoreBlocks& p, int first_head, int64_t begin, int64_t end) {
  int64_t block = begin;
  for (; block + kBlocks <= end; block += kBlocks) ScoreTile<kBound, kHeads, kBlocks>(p, first_head, block);
  for (; block < end; ++block) ScoreTile<kBound, kHeads, 1>(p, first_head, block);
}

// All heads of a few blocks before the next few: later passes find the blocks in L1 or L2.
constexpr int64_t kPassBlocks = 16;

template <ops::UnitBound kBound>
CACHETTE_INLINE void ScoreAll(const ops::UnitScoreBlocks& p) {
  for (int64_t begin = 0; begin < p.num_blocks; begin += kPassBlocks) {
    const int64_t end = begin + kPassBlocks < p.num_blocks ? begin + kPassBlocks : p.num_blocks;
    int head = 0;
    for (; head + kMaxHeads <= p.group_size; head += kMaxHeads) ScoreHeads<kBound, kMaxHeads>(p, head, begin, end);
    switch (p.group_size - head) {
      case 3: ScoreHeads<kBound, 3>(p, head, begin, end); break;
      case 2: ScoreHeads<kBound, 2>(p, head, begin, end); break;
      case 1: ScoreHeads<kBound, 1>(p, head, begin, end); break;
      default: break;
    }
  }
}

void ScoreBlocks(const ops::UnitScoreBlocks& p) {
  if (p.bound == ops::UnitBound::kBox)
    ScoreAll<ops::UnitBound::kBox>(p);
  else
    ScoreAll<ops::UnitBound::kDot>(p);
}

// Lanes of the last block from num_units on.
CACHETTE_INLINE void SetTail(float* values, int64_t num_units, float to) {
  const int64_t rest = num_units % kUnits;
  if (rest == 0) return;
  float* last = values + num_units - rest;
  Store(last, Select(static_cast<uint16_t>((1u << rest) - 1u), Load(last), Set1(to)));
}

void MeanSoftmax(const ops::UnitReduce& r) {
  for (int g = 0; g < r.group_size; ++g) {
    float* scores = r.scores + g * r.stride;
    SetTail(scores, r.num_units, kMinusInfinity);
    F32x16 top = Set1(kMinusInfinity);
    for (int64_t u = 0; u < r.num_units; u += kUnits) top = Max(top, Load(scores + u));
    const F32x16 max = Set1(ReduceMax(top));
    F32x16 sum = Set1(0.0f);
    for (int64_t u = 0; u < r.num_units; u += kUnits) {
      const F32x16 weight = Exp2((Load(scores + u) - max) * Set1(kLog2e));
      Store(scores + u, weight);
      sum = sum + weight;
    }
    const F32x16 share = Set1(1.0f / (ReduceSum(sum) * static_cast<float>(r.group_size)));
    for (int64_t u = 0; u < r.num_units; u += kUnits) {
      const F32x16 before = g == 0 ? Set1(0.0f) : Load(r.weights + u);
      Store(r.weights + u, Fma(Load(scores + u), share, before));
    }
  }
}

void Reduce(const ops::UnitReduce& r) {
  if (r.reduce == ops::GroupReduce::kMeanSoftmax) return MeanSoftmax(r);
  const F32x16 inverse = Set1(1.0f / static_cast<float>(r.group_size));
  for (int64_t u = 0; u < r.num_units; u += kUnits) {
    F32x16 weight = Load(r.scores + u);
    for (int g = 1; g < r.group_size; ++g) {
      const F32x16 score = Load(r.scores + g * r.stride + u);
      weight = r.reduce == ops::GroupReduce::kMax ? Max(weight, score) : weight + score;
    }
    Store(r.weights + u, r.reduce == ops::GroupReduce::kMax ? weight : weight * inverse);
  }
  SetTail(r.weights, r.num_units, 0.0f);
}

template <int kRounding>
void NarrowTo(const float* x, int count, uint16_t* bits) {
  const __m256 most = _mm256_set1_ps(65504.0f), least = _mm256_set1_ps(-65504.0f);
  for (int i = 0; i < count; i += 8) {
    const __m256 within = _mm256_max_ps(_mm256_min_ps(_mm256_loadu_ps(x + i), most), least);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bits + i), _mm256_cvtps_ph(within, kRounding));
  }
}

void Narrow(const float* x, int count, ops::Narrowing narrowing, uint16_t* bits) {
  switch (narrowing) {
    case ops::Narrowing::kNearest: return NarrowTo<_MM_FROUND_TO_NEAREST_INT>(x, count, bits);
    case ops::Narrowing::kDown: return NarrowTo<_MM_FROUND_TO_NEG_INF>(x, count, bits);
    case ops::Narrowing::kUp: return NarrowTo<_MM_FROUND_TO_POS_INF>(x, count, bits);
  }
}

}  // namespace
}  // namespace cachette::CACHETTE_ISA

namespace cachette::ops {

using namespace CACHETTE_ISA;

template <>
UnitScoreKernels UnitScoreKernelsOf<kIsa>() {
  return {ScoreBlocks, Reduce, Narrow};
}

}  // namespace cachette::ops
