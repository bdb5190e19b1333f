#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/half.h"
#include "ops/attention/element.h"
#include "ops/attention/kv_codec_kernels.h"
#include "ops/attention/kv_view.h"

namespace cachette::ops {
namespace {

// x rounded to f16 towards -infinity or +infinity; x within f16's range.
F16 RoundedTowards(float x, float direction) {
  const F16 nearest = static_cast<F16>(x);
  const float back = static_cast<float>(nearest);
  if (back == x || (back < x) == (direction < x)) return nearest;
  uint16_t bits;
  std::memcpy(&bits, &nearest, 2);
  const bool is_up = direction > x;
  // The nearest lies on the wrong side: one step over, through the denormals and the two zeros.
  if ((bits & 0x7fff) == 0) {
    bits = is_up ? 0x0001 : 0x8001;
  } else {
    bits = static_cast<uint16_t>(((bits & 0x8000) == 0) == is_up ? bits + 1 : bits - 1);
  }
  F16 stepped;
  std::memcpy(&stepped, &bits, 2);
  return stepped;
}

// One group of elements that share scale and min.
struct Group {
  float min, inverse;

  Group(const std::vector<float>& x, int bits, std::byte* scale_at, std::byte* min_at) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const auto [lowest, highest] = std::minmax_element(x.begin(), x.end());
    const F16 lo = RoundedTowards(std::clamp(*lowest + 0.0f, -kLargestF16, kLargestF16), -kInfinity);
    min = static_cast<float>(lo);
    const float step = (std::max(*highest, min) - min) / static_cast<float>((1 << bits) - 1) + 0.0f;
    const F16 scale = RoundedTowards(std::min(step, kLargestF16), kInfinity);
    inverse = 1.0f / std::max(static_cast<float>(scale), kSmallestF16);
    std::memcpy(scale_at, &scale, 2);
    std::memcpy(min_at, &lo, 2);
  }

  uint32_t CodeOf(float x, int bits) const {
    const float y = std::min(std::max((x - min) * inverse, 0.0f), static_cast<float>((1 << bits) - 1));
    return static_cast<uint32_t>(std::lrint(y));
  }
};

void PutCode(const CodedLayout& l, std::byte* words, int word_idx, int code_idx, uint32_t code) {
  uint32_t word;
  std::memcpy(&word, words + word_idx * 4, 4);
  word |= code << (l.bits * code_idx);
  std::memcpy(words + word_idx * 4, &word, 4);
}

struct Slot {
  const std::byte* block;
  int idx;
};

float KeyAt(const BlockEncode& e, const Slot& slot, int d) {
  return ElementAt(e.dtype, slot.block, d * kBlockTokens + slot.idx);
}

float ValueAt(const BlockEncode& e, const Slot& slot, int d) {
  return ElementAt(e.dtype, slot.block, (kBlockTokens + slot.idx) * e.layout.head_dim + d);
}

void EncodeKeys(const BlockEncode& e, const std::vector<Slot>& slots) {
  const CodedLayout& l = e.layout;
  for (int d = 0; d < l.head_dim; ++d)
    for (int first = 0; first < kCodedEntries; first += kCodedGroup) {
      std::vector<float> x;
      for (int i = first; i < first + kCodedGroup; ++i) x.push_back(KeyAt(e, slots[static_cast<size_t>(i)], d));
      const int params = (first / kCodedGroup * l.padded_dim + d) * 2;
      const Group group(x, l.bits, e.coded + l.key_scales + params, e.coded + l.key_mins + params);
      for (int i = first; i < first + kCodedGroup; ++i)
        PutCode(l, e.coded + l.key_codes, (i / 16 * (l.padded_dim / l.per_word) + d / l.per_word) * 16 + i % 16,
                d % l.per_word, group.CodeOf(x[static_cast<size_t>(i - first)], l.bits));
    }
}

void EncodeValues(const BlockEncode& e, const std::vector<Slot>& slots) {
  const CodedLayout& l = e.layout;
  for (int i = 0; i < kCodedEntries; ++i)
    for (int first = 0; first < l.head_dim; first += kCodedGroup) {
      std::vector<float> x;
      for (int d = first; d < std::min(first + kCodedGroup, l.head_dim); ++d)
        x.push_back(ValueAt(e, slots[static_cast<size_t>(i)], d));
      const int params = (first / kCodedGroup * kCodedEntries + i) * 2;
      const Group group(x, l.bits, e.coded + l.value_scales + params, e.coded + l.value_mins + params);
      // Padded channels repeat the last one.
      for (int d = first; d < std::min(first + kCodedGroup, l.padded_dim); ++d)
        PutCode(l, e.coded + l.value_codes, (i / l.per_word * (l.padded_dim / 16) + d / 16) * 16 + d % 16,
                i % l.per_word, group.CodeOf(x[std::min(static_cast<size_t>(d - first), x.size() - 1)], l.bits));
    }
}

}  // namespace

void EncodeBlockRef(const BlockEncode& e) {
  std::vector<Slot> slots;
  for (int s = 0; s < e.num_sources; ++s)
    for (uint32_t mask = e.sources[s].mask; mask != 0; mask &= mask - 1)
      slots.push_back({e.sources[s].block, __builtin_ctz(mask)});
  std::memset(e.coded, 0, static_cast<size_t>(e.layout.block_bytes));
  EncodeKeys(e, slots);
  EncodeValues(e, slots);
}

}  // namespace cachette::ops
