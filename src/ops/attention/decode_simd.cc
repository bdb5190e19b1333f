#include "ops/attention/codes_simd.h"
#include "ops/attention/decode_kernels.h"
#include "ops/simd_vec.h"

namespace cachette::CACHETTE_ISA {
namespace {

constexpr int kBlock = 16;
constexpr int kMaxHeadDim = 256;
constexpr int kMaxValueGroups = kMaxHeadDim / ops::kCodedGroup;

// Blocks attended together. Four give 64 scores per query head: enough independent sums to hide the latency of FMA at
// group size 1, and one softmax bookkeeping per 64 keys.
constexpr int kStepBlocks = 4;
constexpr int kStepSlots = kStepBlocks * kBlock;
static_assert(kStepSlots == ops::kCodedEntries);  // a step is one coded block or four plain ones

// Query heads handled in one pass over a step. Wider groups take several passes, the later ones from L1/L2.
constexpr int kMaxHeads = 4;

#if defined(CACHETTE_HAS_AVX512)
constexpr int kScoreBlocks = 4;  // blocks whose scores are summed at once: 4 x 4 accumulators of 32 registers
constexpr int kOutVectors = 4;   // 16-element pieces of out held in registers per query head
#else
constexpr int kScoreBlocks = 1;  // 16 registers of half the width
constexpr int kOutVectors = 1;
#endif

template <Dtype kDtype>
constexpr size_t kBytes = kDtype == Dtype::kF32 ? 4 : 2;

struct Step {
  const std::byte* blocks[kStepBlocks];  // past the last block: the last block again, all slots masked
  const std::byte* next[kStepBlocks];    // blocks of the following step, to prefetch
  uint16_t masks[kStepBlocks];           // bit i: slot i is visible
  bool is_masked;                        // any slot is not
};

// Running softmax of the query heads of one pass, in units of log2.
struct Heads {
  alignas(64) float out[kMaxHeads][kMaxHeadDim + 8];
  float max[kMaxHeads];
  F32x16 denominator[kMaxHeads];  // lane sums
  // Of coded values: lane sums of weight * min per group of channels, which all channels of the group share.
  int num_value_groups;
  F32x16 min_sums[kMaxHeads][kMaxValueGroups];
};

Step StepAt(const ops::DecodeSplit& s, int64_t block_idx, int64_t end_block) {
  Step step;
  step.is_masked = false;
  for (int b = 0; b < kStepBlocks; ++b) {
    const int64_t i = block_idx + b;
    const int64_t begin = s.begin_slot - i * kBlock;
    const int64_t end = s.end_slot - i * kBlock;
    uint32_t mask = end <= 0 ? 0 : end >= kBlock ? 0xffff : (1u << end) - 1;
    if (begin > 0) mask &= begin >= kBlock ? 0 : 0xffffu << begin;  // a coded step may begin blocks before
    if (s.live_masks != nullptr && mask != 0) mask &= s.live_masks[i];
    step.masks[b] = static_cast<uint16_t>(mask);
    step.is_masked |= mask != 0xffff;
    step.blocks[b] = s.blocks[i < end_block ? i : end_block - 1];
    step.next[b] = s.blocks[i + kStepBlocks < end_block ? i + kStepBlocks : end_block - 1];
  }
  return step;
}

// logits[g] [4 blocks of 16] = q . k; prefetches the keys of the next step, as its blocks lie anywhere in memory and no
// hardware stream follows them.
template <int kHeads, int kHeadDim, Dtype kDtype>
CACHETTE_INLINE void Score(const Step& step, const float* q_by_dim, int runtime_head_dim,
                           F32x16 (&logits)[kHeads][kStepBlocks]) {
  const int head_dim = kHeadDim != 0 ? kHeadDim : runtime_head_dim;
  constexpr size_t kRowBytes = kBlock * kBytes<kDtype>;
  constexpr int kRowsPerLine = kDtype == Dtype::kF32 ? 1 : 2;
  for (int first = 0; first < kStepBlocks; first += kScoreBlocks) {
    F32x16 sum[kScoreBlocks][kHeads];
    for (int b = 0; b < kScoreBlocks; ++b)
      for (int g = 0; g < kHeads; ++g) sum[b][g] = Set1(0.0f);
    for (int d = 0; d < head_dim; d += kRowsPerLine) {
      for (int b = 0; b < kScoreBlocks; ++b)
        _mm_prefetch(reinterpret_cast<const char*>(step.next[first + b] + static_cast<size_t>(d) * kRowBytes),
                     _MM_HINT_T0);
      for (int r = 0; r < kRowsPerLine; ++r)
        for (int b = 0; b < kScoreBlocks; ++b) {
          const F32x16 keys = LoadAs<kDtype>(step.blocks[first + b] + static_cast<size_t>(d + r) * kRowBytes);
          for (int g = 0; g < kHeads; ++g) sum[b][g] = Fma(keys, Set1(q_by_dim[(d + r) * kHeads + g]), sum[b][g]);
        }
    }
    for (int b = 0; b < kScoreBlocks; ++b)
      for (int g = 0; g < kHeads; ++g) logits[g][first + b] = sum[b][g];
  }
}

// softcap * tanh(x / softcap), times log2(e). tanh(y) = 1 - 2 / (e^2y + 1), absolute error below 3e-7.
CACHETTE_INLINE F32x16 Capped(F32x16 x, float softcap) {
  const F32x16 e = Exp(x * Set1(2.0f / softcap));
  return Fma(Set1(-2.0f * softcap * kLog2e), Set1(1.0f) / (e + Set1(1.0f)), Set1(softcap * kLog2e));
}

// Turns logits into weights [kHeads][64] relative to the running maximum, and rescales what was summed before.
template <int kHeads>
CACHETTE_INLINE void Softmax(const Step& step, float softcap, int padded_dim, F32x16 (&logits)[kHeads][kStepBlocks],
                             Heads& heads, float (&weights)[kHeads][kStepSlots]) {
  for (int g = 0; g < kHeads; ++g) {
    F32x16 top = Set1(kMinusInfinity);
    for (int b = 0; b < kStepBlocks; ++b) {
      if (softcap > 0.0f) logits[g][b] = Capped(logits[g][b], softcap);
      if (step.is_masked) logits[g][b] = Select(step.masks[b], logits[g][b], Set1(kMinusInfinity));
      top = Max(top, logits[g][b]);
    }
    const float max = ReduceMax(top);
    if (max > heads.max[g]) {
      const F32x16 factor = Exp2(Set1(heads.max[g] - max));
      heads.max[g] = max;
      heads.denominator[g] = heads.denominator[g] * factor;
      for (int d = 0; d < padded_dim; d += 16) Store(&heads.out[g][d], Load(&heads.out[g][d]) * factor);
      for (int v = 0; v < heads.num_value_groups; ++v) heads.min_sums[g][v] = heads.min_sums[g][v] * factor;
    }
    // All slots masked so far: any finite maximum makes every weight 0.
    const F32x16 shift = Set1(heads.max[g] == kMinusInfinity ? 0.0f : heads.max[g]);
    for (int b = 0; b < kStepBlocks; ++b) {
      const F32x16 weight = Exp2(logits[g][b] - shift);
      heads.denominator[g] = heads.denominator[g] + weight;
      Store(&weights[g][b * kBlock], weight);
    }
  }
}

// out[g][d .. d + 16 * kVectors) += sum over the step's slots of weight * value.
template <int kHeads, int kVectors, Dtype kDtype, bool kIsLow8>
CACHETTE_INLINE void AddValues(const Step& step, const float (&weights)[kHeads][kStepSlots], int d, int head_dim,
                               size_t values_offset, Heads& heads) {
  const size_t row_bytes = static_cast<size_t>(head_dim) * kBytes<kDtype>;
  F32x16 out[kHeads][kVectors];
  for (int g = 0; g < kHeads; ++g)
    for (int v = 0; v < kVectors; ++v) out[g][v] = Load(&heads.out[g][d + 16 * v]);
  const size_t offset = values_offset + static_cast<size_t>(d) * kBytes<kDtype>;
  for (int b = 0; b < kStepBlocks; ++b) {
    const std::byte* values = step.blocks[b] + offset;
    const std::byte* next = step.next[b] + offset;
    for (int slot = 0; slot < kBlock; ++slot) {
      const size_t row = static_cast<size_t>(slot) * row_bytes;
      for (size_t line = 0; line < 16 * kVectors * kBytes<kDtype>; line += 64)
        _mm_prefetch(reinterpret_cast<const char*>(next + row + line), _MM_HINT_T0);
      for (int v = 0; v < kVectors; ++v) {
        const std::byte* at = values + row + static_cast<size_t>(16 * v) * kBytes<kDtype>;
        const F32x16 value = kIsLow8 ? LoadLow8As<kDtype>(at) : LoadAs<kDtype>(at);
        for (int g = 0; g < kHeads; ++g) out[g][v] = Fma(Set1(weights[g][b * kBlock + slot]), value, out[g][v]);
      }
    }
  }
  for (int g = 0; g < kHeads; ++g)
    for (int v = 0; v < kVectors; ++v) Store(&heads.out[g][d + 16 * v], out[g][v]);
}

template <int kHeads, int kHeadDim, Dtype kDtype>
void AttendStep(const ops::DecodeSplit& s, const Step& step, const float* q_by_dim, Heads& heads) {
  const int head_dim = kHeadDim != 0 ? kHeadDim : s.head_dim;
  const size_t values_offset = static_cast<size_t>(head_dim) * kBlock * kBytes<kDtype>;
  F32x16 logits[kHeads][kStepBlocks];
  alignas(64) float weights[kHeads][kStepSlots];
  Score<kHeads, kHeadDim, kDtype>(step, q_by_dim, head_dim, logits);
  Softmax<kHeads>(step, s.softcap, (head_dim + 15) / 16 * 16, logits, heads, weights);
  int d = 0;
  for (; d + 16 * kOutVectors <= head_dim; d += 16 * kOutVectors)
    AddValues<kHeads, kOutVectors, kDtype, false>(step, weights, d, head_dim, values_offset, heads);
  if constexpr (kHeadDim == 0 || kHeadDim % (16 * kOutVectors) != 0) {
    for (; d + 16 <= head_dim; d += 16)
      AddValues<kHeads, 1, kDtype, false>(step, weights, d, head_dim, values_offset, heads);
    if (d < head_dim) AddValues<kHeads, 1, kDtype, true>(step, weights, d, head_dim, values_offset, heads);
  }
}

// logits of a coded block. q.k = sum of (q_d scale_d) code_d + sum of q_d min_d: scale and min are the same for 32
// keys, so they meet the query once per channel and group, and the loop over keys multiplies codes.
template <int kHeads, int kBits>
CACHETTE_INLINE void ScoreCoded(const ops::CodedLayout& l, const Step& step, const float* q,
                                F32x16 (&logits)[kHeads][kStepBlocks]) {
  constexpr int kPerWord = 32 / kBits;
  alignas(64) float factors[ops::kCodedKeyGroups][kHeads][kMaxHeadDim];
  float offsets[ops::kCodedKeyGroups][kHeads];
  const std::byte* block = step.blocks[0];
  for (int i = 0; i < l.key_codes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(step.next[0] + i), _MM_HINT_T0);
  for (int group = 0; group < ops::kCodedKeyGroups; ++group) {
    F32x16 sum[kHeads];
    for (int g = 0; g < kHeads; ++g) sum[g] = Set1(0.0f);
    for (int d = 0; d < l.padded_dim; d += 16) {
      const int params = (group * l.padded_dim + d) * 2;
      const F32x16 scale = LoadAs<Dtype::kF16>(block + l.key_scales + params);
      const F32x16 min = LoadAs<Dtype::kF16>(block + l.key_mins + params);
      for (int g = 0; g < kHeads; ++g) {
        const F32x16 x = Load(q + g * kMaxHeadDim + d);
        Store(&factors[group][g][d], x * scale);
        sum[g] = Fma(x, min, sum[g]);
      }
    }
    for (int g = 0; g < kHeads; ++g) offsets[group][g] = ReduceSum(sum[g]);
  }
  const int num_words = l.padded_dim / kPerWord;
  for (int first = 0; first < kStepBlocks; first += kScoreBlocks) {
    F32x16 sum[kScoreBlocks][kHeads];
    for (int b = 0; b < kScoreBlocks; ++b)
      for (int g = 0; g < kHeads; ++g) sum[b][g] = Set1(offsets[(first + b) / 2][g]);
    for (int i = 0; i < num_words; ++i) {
      Words words[kScoreBlocks];
      for (int b = 0; b < kScoreBlocks; ++b) {
        const int offset = l.key_codes + ((first + b) * num_words + i) * 64;
        _mm_prefetch(reinterpret_cast<const char*>(step.next[0] + offset), _MM_HINT_T0);
        words[b] = LoadWords(block + offset);
      }
      for (int j = 0; j < kPerWord; ++j)
        for (int b = 0; b < kScoreBlocks; ++b) {
          const F32x16 codes = LowCodes<kBits>(words[b]);
          words[b] = NextCodes<kBits>(words[b]);
          for (int g = 0; g < kHeads; ++g)
            sum[b][g] = Fma(codes, Set1(factors[(first + b) / 2][g][i * kPerWord + j]), sum[b][g]);
        }
    }
    for (int b = 0; b < kScoreBlocks; ++b)
      for (int g = 0; g < kHeads; ++g) logits[g][first + b] = sum[b][g];
  }
}

// What multiplies the codes of entry e in group v of channels: weight * scale, for each head.
template <int kHeads>
struct ValueFactors {
  alignas(64) float at[kHeads][kMaxValueGroups][kStepSlots];
};

template <int kHeads>
CACHETTE_INLINE void FoldValueParams(const ops::CodedLayout& l, const Step& step,
                                     const float (&weights)[kHeads][kStepSlots], Heads& heads,
                                     ValueFactors<kHeads>& factors) {
  for (int i = l.value_scales; i < l.value_codes; i += 64)
    _mm_prefetch(reinterpret_cast<const char*>(step.next[0] + i), _MM_HINT_T0);
  for (int v = 0; v < l.num_value_groups; ++v)
    for (int e = 0; e < kStepSlots; e += 16) {
      const int params = (v * kStepSlots + e) * 2;
      const F32x16 scale = LoadAs<Dtype::kF16>(step.blocks[0] + l.value_scales + params);
      const F32x16 min = LoadAs<Dtype::kF16>(step.blocks[0] + l.value_mins + params);
      for (int g = 0; g < kHeads; ++g) {
        const F32x16 weight = Load(&weights[g][e]);
        Store(&factors.at[g][v][e], weight * scale);
        heads.min_sums[g][v] = Fma(weight, min, heads.min_sums[g][v]);
      }
    }
}

// out[g][d .. d + 16 * kVectors) += sum over the block's entries of weight * scale * code.
template <int kHeads, int kVectors, int kBits>
CACHETTE_INLINE void AddCodedValues(const ops::CodedLayout& l, const Step& step, const ValueFactors<kHeads>& factors,
                                    int d, Heads& heads) {
  constexpr int kPerWord = 32 / kBits;
  F32x16 out[kHeads][kVectors];
  for (int g = 0; g < kHeads; ++g)
    for (int v = 0; v < kVectors; ++v) out[g][v] = Load(&heads.out[g][d + 16 * v]);
  for (int e = 0; e < kStepSlots; e += kPerWord) {
    Words words[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const int offset = l.value_codes + (e / kPerWord * (l.padded_dim / 16) + d / 16 + v) * 64;
      _mm_prefetch(reinterpret_cast<const char*>(step.next[0] + offset), _MM_HINT_T0);
      words[v] = LoadWords(step.blocks[0] + offset);
    }
    for (int j = 0; j < kPerWord; ++j)
      for (int v = 0; v < kVectors; ++v) {
        const F32x16 codes = LowCodes<kBits>(words[v]);
        words[v] = NextCodes<kBits>(words[v]);
        for (int g = 0; g < kHeads; ++g)
          out[g][v] = Fma(codes, Set1(factors.at[g][(d / 16 + v) / 2][e + j]), out[g][v]);
      }
  }
  for (int g = 0; g < kHeads; ++g)
    for (int v = 0; v < kVectors; ++v) Store(&heads.out[g][d + 16 * v], out[g][v]);
}

// q [kHeads][kMaxHeadDim], zero from head_dim to padded_dim.
template <int kHeads, int kBits>
void AttendCodedStep(const ops::DecodeSplit& s, const Step& step, const float* q, Heads& heads) {
  const ops::CodedLayout& l = s.coded;
  F32x16 logits[kHeads][kStepBlocks];
  alignas(64) float weights[kHeads][kStepSlots];
  ValueFactors<kHeads> factors;
  ScoreCoded<kHeads, kBits>(l, step, q, logits);
  Softmax<kHeads>(step, s.softcap, l.padded_dim, logits, heads, weights);
  FoldValueParams<kHeads>(l, step, weights, heads, factors);
  int d = 0;
  for (; d + 16 * kOutVectors <= l.padded_dim; d += 16 * kOutVectors)
    AddCodedValues<kHeads, kOutVectors, kBits>(l, step, factors, d, heads);
  for (; d < l.padded_dim; d += 16) AddCodedValues<kHeads, 1, kBits>(l, step, factors, d, heads);
}

// The query heads [first_head, first_head + kHeads) of the pass, as the kernels read them: q_by_dim [head_dim][kHeads]
// for plain blocks, q_rows [kHeads][kMaxHeadDim] for coded ones.
struct Pass {
  int first_head;
  int num_heads;
  alignas(64) float q_by_dim[kMaxHeadDim * kMaxHeads];
  alignas(64) float q_rows[kMaxHeads * kMaxHeadDim];
  Heads heads;
};

void BeginPass(const ops::DecodeSplit& s, int first_head, int num_heads, Pass& pass) {
  pass.first_head = first_head;
  pass.num_heads = num_heads;
  pass.heads.num_value_groups = s.num_coded_slots > 0 ? s.coded.num_value_groups : 0;
  const float factor = s.softcap > 0.0f ? s.scale : s.scale * kLog2e;
  for (int g = 0; g < num_heads; ++g) {
    const float* q = s.q + (first_head + g) * s.head_dim;
    for (int d = 0; d < s.head_dim; ++d) pass.q_by_dim[d * num_heads + g] = q[d] * factor;
    if (s.num_coded_slots > 0) {
      float* row = pass.q_rows + g * kMaxHeadDim;
      for (int d = 0; d < s.coded.padded_dim; ++d) row[d] = d < s.head_dim ? q[d] * factor : 0.0f;
      for (int v = 0; v < s.coded.num_value_groups; ++v) pass.heads.min_sums[g][v] = Set1(0.0f);
    }
    for (int d = 0; d < (s.head_dim + 15) / 16 * 16; d += 16) Store(&pass.heads.out[g][d], Set1(0.0f));
    pass.heads.max[g] = kMinusInfinity;
    pass.heads.denominator[g] = Set1(0.0f);
  }
}

void EndPass(const ops::DecodeSplit& s, const Pass& pass, const ops::DecodePartial& partial) {
  for (int g = 0; g < pass.num_heads; ++g) {
    const int head = pass.first_head + g;
    partial.max_log2[head] = pass.heads.max[g];
    partial.denominator[head] = ReduceSum(pass.heads.denominator[g]);
    float* out = partial.out + head * s.head_dim;
    __builtin_memcpy(out, pass.heads.out[g], static_cast<size_t>(s.head_dim) * 4);
    for (int v = 0; v < pass.heads.num_value_groups; ++v) {
      const float sum = ReduceSum(pass.heads.min_sums[g][v]);
      for (int d = v * ops::kCodedGroup; d < (v + 1) * ops::kCodedGroup && d < s.head_dim; ++d) out[d] += sum;
    }
  }
}

using StepFn = void (*)(const ops::DecodeSplit&, const Step&, const float*, Heads&);

template <int kHeadDim, Dtype kDtype>
StepFn StepForHeads(int num_heads) {
  switch (num_heads) {
    case 1: return AttendStep<1, kHeadDim, kDtype>;
    case 2: return AttendStep<2, kHeadDim, kDtype>;
    case 3: return AttendStep<3, kHeadDim, kDtype>;
    default: return AttendStep<4, kHeadDim, kDtype>;
  }
}

template <Dtype kDtype>
StepFn StepForDim(int head_dim, int num_heads) {
  switch (head_dim) {
    case 64: return StepForHeads<64, kDtype>(num_heads);
    case 128: return StepForHeads<128, kDtype>(num_heads);
    case 256: return StepForHeads<256, kDtype>(num_heads);
    default: return StepForHeads<0, kDtype>(num_heads);
  }
}

StepFn StepFor(const ops::DecodeSplit& s, int num_heads) {
  switch (s.dtype) {
    case Dtype::kF16: return StepForDim<Dtype::kF16>(s.head_dim, num_heads);
    case Dtype::kBF16: return StepForDim<Dtype::kBF16>(s.head_dim, num_heads);
    default: return StepForDim<Dtype::kF32>(s.head_dim, num_heads);
  }
}

template <int kBits>
StepFn CodedStepForHeads(int num_heads) {
  switch (num_heads) {
    case 1: return AttendCodedStep<1, kBits>;
    case 2: return AttendCodedStep<2, kBits>;
    case 3: return AttendCodedStep<3, kBits>;
    default: return AttendCodedStep<4, kBits>;
  }
}

StepFn CodedStepFor(const ops::DecodeSplit& s, int num_heads) {
  switch (s.coded.bits) {
    case 8: return CodedStepForHeads<8>(num_heads);
    case 4: return CodedStepForHeads<4>(num_heads);
    case 2: return CodedStepForHeads<2>(num_heads);
    default: return nullptr;
  }
}

}  // namespace

void AttendSplit(const ops::DecodeSplit& split, const ops::DecodePartial& partial) {
  constexpr int kMaxPasses = 4;  // group sizes up to 16 in evenly filled passes of at most kMaxHeads
  Pass passes[kMaxPasses];
  StepFn steps[kMaxPasses], coded_steps[kMaxPasses];
  const int num_passes = (split.group_size + kMaxHeads - 1) / kMaxHeads;
  for (int p = 0; p < num_passes; ++p) {
    const int begin = split.group_size * p / num_passes;
    const int end = split.group_size * (p + 1) / num_passes;
    BeginPass(split, begin, end - begin, passes[p]);
    steps[p] = StepFor(split, end - begin);
    coded_steps[p] = CodedStepFor(split, end - begin);
  }
  const int64_t end_block = (split.end_slot + kBlock - 1) / kBlock;
  const int64_t end_coded_block = split.num_coded_slots / kBlock;
  int64_t block = split.begin_slot / kBlock;
  if (block < end_coded_block) block = block / kStepBlocks * kStepBlocks;  // from the coded block's first slot on
  for (; block < end_block; block += kStepBlocks) {
    const Step step = StepAt(split, block, end_block);
    const bool is_coded = block < end_coded_block;
    for (int p = 0; p < num_passes; ++p)
      (is_coded ? coded_steps : steps)[p](split, step, is_coded ? passes[p].q_rows : passes[p].q_by_dim,
                                          passes[p].heads);
  }
  for (int p = 0; p < num_passes; ++p) EndPass(split, passes[p], partial);
}

}  // namespace cachette::CACHETTE_ISA
