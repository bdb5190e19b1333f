#include "ops/attention/codes_simd.h"
#include "ops/attention/kv_codec_kernels.h"
#include "ops/simd_vec.h"

namespace cachette::CACHETTE_ISA {
namespace {

using ops::kCodedEntries;
using ops::kCodedGroup;

constexpr int kBlock = 16;
constexpr int kMaxHeadDim = 256;
constexpr int kMaxGroups = 512;  // of one kind in a block: 2 x 256 of keys, 8 x 64 of values

// Scales and minima of the groups of one kind, on the way to f16 and as the codes are made with them.
struct Groups {
  alignas(64) float min[kMaxGroups];
  alignas(64) float max[kMaxGroups];      // before Finish
  alignas(64) float inverse[kMaxGroups];  // after Finish: 1 / scale

  void Set(int idx, F32x16 lowest, F32x16 highest) {
    min[idx] = -ReduceMax(Set1(0.0f) - lowest);
    max[idx] = ReduceMax(highest);
  }
};

// count is a multiple of 16.
void Finish(Groups& groups, int count, int bits, std::byte* scales, std::byte* mins) {
  const F32x16 levels = Set1(static_cast<float>((1 << bits) - 1));
  for (int i = 0; i < count; i += 16) {
    // Adding 0 makes -0 a +0: instruction sets differ in which of the two a minimum returns.
    const F32x16 lowest = Load(groups.min + i) + Set1(0.0f);
    StoreF16Down(mins + i * 2, Max(Min(lowest, Set1(ops::kLargestF16)), Set1(-ops::kLargestF16)));
    const F32x16 min = LoadAs<Dtype::kF16>(mins + i * 2);
    const F32x16 step = (Max(Load(groups.max + i), min) - min) / levels + Set1(0.0f);
    StoreF16Up(scales + i * 2, Min(step, Set1(ops::kLargestF16)));
    const F32x16 scale = LoadAs<Dtype::kF16>(scales + i * 2);
    Store(groups.min + i, min);
    Store(groups.inverse + i, Set1(1.0f) / Max(scale, Set1(ops::kSmallestF16)));
  }
}

template <int kBits>
CACHETTE_INLINE F32x16 Scaled(const float* x, float min, float inverse) {
  const F32x16 y = (Load(x) - Set1(min)) * Set1(inverse);
  return Min(Max(y, Set1(0.0f)), Set1(static_cast<float>((1 << kBits) - 1)));
}

// staged [padded_dim][64]; padded channels become 0.
template <Dtype kDtype, int kBytes>
void GatherKeys(const ops::BlockEncode& e, float* staged) {
  int at = 0;
  for (int s = 0; s < e.num_sources; ++s) {
    const ops::EncodeSource& source = e.sources[s];
    for (int d = 0; d < e.layout.head_dim; ++d) {
      const F32x16 row = LoadAs<kDtype>(source.block + d * kBlock * kBytes);
      float* to = staged + d * kCodedEntries + at;
      if (source.mask == 0xffff) {
        Store(to, row);
        continue;
      }
      alignas(64) float all[16];
      Store(all, row);
      for (uint32_t mask = source.mask; mask != 0; mask &= mask - 1) *to++ = all[__builtin_ctz(mask)];
    }
    at += __builtin_popcount(source.mask);
  }
  for (int i = e.layout.head_dim * kCodedEntries; i < e.layout.padded_dim * kCodedEntries; ++i) staged[i] = 0.0f;
}

// staged [64][padded_dim]; padded channels repeat the last one, so that they widen no group.
template <Dtype kDtype, int kBytes>
void GatherValues(const ops::BlockEncode& e, float* staged) {
  const int head_dim = e.layout.head_dim, padded_dim = e.layout.padded_dim;
  for (int s = 0; s < e.num_sources; ++s)
    for (uint32_t mask = e.sources[s].mask; mask != 0; mask &= mask - 1, staged += padded_dim) {
      const std::byte* row = e.sources[s].block + (kBlock + __builtin_ctz(mask)) * head_dim * kBytes;
      int d = 0;
      for (; d + 16 <= head_dim; d += 16) Store(staged + d, LoadAs<kDtype>(row + d * kBytes));
      if (d < head_dim) Store(staged + d, LoadLow8As<kDtype>(row + d * kBytes));
      for (d = head_dim; d < padded_dim; ++d) staged[d] = staged[head_dim - 1];
    }
}

template <int kBits>
void EncodeKeys(const ops::BlockEncode& e, const float* staged, Groups& groups) {
  const ops::CodedLayout& l = e.layout;
  constexpr int kPerWord = 32 / kBits;
  for (int d = 0; d < l.padded_dim; ++d)
    for (int g = 0; g < ops::kCodedKeyGroups; ++g) {
      const F32x16 a = Load(staged + d * kCodedEntries + g * kCodedGroup);
      const F32x16 b = Load(staged + d * kCodedEntries + g * kCodedGroup + 16);
      groups.Set(g * l.padded_dim + d, Min(a, b), Max(a, b));
    }
  Finish(groups, ops::kCodedKeyGroups * l.padded_dim, kBits, e.coded + l.key_scales, e.coded + l.key_mins);
  std::byte* words = e.coded + l.key_codes;
  for (int first = 0; first < kCodedEntries; first += 16) {
    const int params = first / kCodedGroup * l.padded_dim;
    for (int d = 0; d < l.padded_dim; d += kPerWord, words += 64) {
      Words w = NoCodes();
      for (int i = d + kPerWord - 1; i >= d; --i)
        w = PushCodes<kBits>(
            w, Scaled<kBits>(staged + i * kCodedEntries + first, groups.min[params + i], groups.inverse[params + i]));
      StoreWords(words, w);
    }
  }
}

template <int kBits>
void EncodeValues(const ops::BlockEncode& e, const float* staged, Groups& groups) {
  const ops::CodedLayout& l = e.layout;
  constexpr int kPerWord = 32 / kBits;
  for (int i = 0; i < kCodedEntries; ++i)
    for (int g = 0; g < l.num_value_groups; ++g) {
      const float* x = staged + i * l.padded_dim + g * kCodedGroup;
      const F32x16 a = Load(x);
      const F32x16 b = g * kCodedGroup + 16 < l.padded_dim ? Load(x + 16) : a;
      groups.Set(g * kCodedEntries + i, Min(a, b), Max(a, b));
    }
  Finish(groups, l.num_value_groups * kCodedEntries, kBits, e.coded + l.value_scales, e.coded + l.value_mins);
  std::byte* words = e.coded + l.value_codes;
  for (int first = 0; first < kCodedEntries; first += kPerWord)
    for (int d = 0; d < l.padded_dim; d += 16, words += 64) {
      const int params = d / kCodedGroup * kCodedEntries;
      Words w = NoCodes();
      for (int i = first + kPerWord - 1; i >= first; --i)
        w = PushCodes<kBits>(
            w, Scaled<kBits>(staged + i * l.padded_dim + d, groups.min[params + i], groups.inverse[params + i]));
      StoreWords(words, w);
    }
}

template <Dtype kDtype, int kBytes>
void EncodeTyped(const ops::BlockEncode& e) {
  alignas(64) float staged[kMaxHeadDim * kCodedEntries];
  Groups groups;
  GatherKeys<kDtype, kBytes>(e, staged);
  switch (e.layout.bits) {
    case 8: EncodeKeys<8>(e, staged, groups); break;
    case 4: EncodeKeys<4>(e, staged, groups); break;
    default: EncodeKeys<2>(e, staged, groups); break;
  }
  GatherValues<kDtype, kBytes>(e, staged);
  switch (e.layout.bits) {
    case 8: return EncodeValues<8>(e, staged, groups);
    case 4: return EncodeValues<4>(e, staged, groups);
    default: return EncodeValues<2>(e, staged, groups);
  }
}

}  // namespace

void EncodeCodedBlock(const ops::BlockEncode& encode) {
  switch (encode.dtype) {
    case Dtype::kF16: return EncodeTyped<Dtype::kF16, 2>(encode);
    case Dtype::kBF16: return EncodeTyped<Dtype::kBF16, 2>(encode);
    default: return EncodeTyped<Dtype::kF32, 4>(encode);
  }
}

}  // namespace cachette::CACHETTE_ISA
