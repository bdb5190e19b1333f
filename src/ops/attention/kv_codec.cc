#include "ops/attention/kv_codec.h"

#include <array>
#include <cstring>

#include "base/half.h"
#include "base/result.h"
#include "ops/attention/kv_codec_kernels.h"
#include "ops/attention/kv_store.h"
#include "tensor/backend.h"

namespace cachette::ops {
namespace {

using EncodeFn = void (*)(const BlockEncode&);

// All levels round alike, so the best one of the machine serves every Context.
EncodeFn BestEncode() {
#if defined(CACHETTE_X86)
  constexpr std::array<EncodeFn, kNumIsas> kTable = {EncodeBlockRef, avx2::EncodeCodedBlock, avx512::EncodeCodedBlock,
                                                     avx512vnni::EncodeCodedBlock, avx512bf16::EncodeCodedBlock};
  static const EncodeFn best = kTable[static_cast<size_t>(FindBackend("auto")->isa)];
  return best;
#else
  return EncodeBlockRef;
#endif
}

float F16At(const std::byte* base, int idx) {
  F16 x;
  std::memcpy(&x, base + idx * 2, 2);
  return static_cast<float>(x);
}

float CodeAt(const CodedLayout& layout, const std::byte* words, int word_idx, int code_idx) {
  uint32_t word;
  std::memcpy(&word, words + word_idx * 4, 4);
  return static_cast<float>((word >> (layout.bits * code_idx)) & ((1u << layout.bits) - 1u));
}

}  // namespace

CodedLayout CodedLayoutOf(int bits, int head_dim) {
  CACHETTE_CHECK((bits == 8 || bits == 4 || bits == 2) && head_dim >= 8 && head_dim <= 256 && head_dim % 8 == 0);
  CodedLayout l{};
  l.bits = bits;
  l.head_dim = head_dim;
  l.padded_dim = (head_dim + 15) / 16 * 16;
  l.per_word = 32 / bits;
  l.num_value_groups = (head_dim + kCodedGroup - 1) / kCodedGroup;
  const int key_params = kCodedKeyGroups * l.padded_dim * 2;
  const int value_params = l.num_value_groups * kCodedEntries * 2;
  const int codes = kCodedEntries * l.padded_dim * bits / 8;
  l.key_scales = 0;
  l.key_mins = l.key_scales + key_params;
  l.key_codes = l.key_mins + key_params;
  l.value_scales = l.key_codes + codes;
  l.value_mins = l.value_scales + value_params;
  l.value_codes = l.value_mins + value_params;
  l.block_bytes = l.value_codes + codes;
  l.entry_bytes = l.block_bytes / kCodedEntries;
  return l;
}

void EncodeBlock(const KvFormat& format, const std::byte* const* blocks, const uint16_t* live_masks, int64_t first_rank,
                 int bits, std::byte* coded) {
  std::array<EncodeSource, kCodedEntries> sources;
  int num_sources = 0, num_entries = 0;
  for (int64_t b = 0; num_entries < kCodedEntries; ++b) {
    uint32_t mask = live_masks[b];
    const int live = __builtin_popcount(mask);
    if (first_rank >= live) {
      first_rank -= live;
      continue;
    }
    for (; first_rank > 0; --first_rank) mask &= mask - 1;
    while (num_entries + __builtin_popcount(mask) > kCodedEntries) mask &= ~(1u << (31 - __builtin_clz(mask)));
    num_entries += __builtin_popcount(mask);
    sources[static_cast<size_t>(num_sources++)] = {blocks[b], static_cast<uint16_t>(mask)};
  }
  BestEncode()({CodedLayoutOf(bits, format.head_dim), format.dtype, sources.data(), num_sources, coded});
}

void LoadCodedEntry(const CodedLayout& l, const std::byte* coded, int entry, float* key, float* value) {
  for (int d = 0; d < l.head_dim; ++d) {
    if (key != nullptr) {
      const int params = entry / kCodedGroup * l.padded_dim + d;
      const int word = (entry / 16 * (l.padded_dim / l.per_word) + d / l.per_word) * 16 + entry % 16;
      key[d] = CodeAt(l, coded + l.key_codes, word, d % l.per_word) * F16At(coded + l.key_scales, params) +
               F16At(coded + l.key_mins, params);
    }
    if (value != nullptr) {
      const int params = d / kCodedGroup * kCodedEntries + entry;
      const int word = (entry / l.per_word * (l.padded_dim / 16) + d / 16) * 16 + d % 16;
      value[d] = CodeAt(l, coded + l.value_codes, word, entry % l.per_word) * F16At(coded + l.value_scales, params) +
                 F16At(coded + l.value_mins, params);
    }
  }
}

void LoadEntry(const KvRow& kv, int64_t slot_idx, float* key, float* value) {
  if (slot_idx >= kv.num_coded_slots) return LoadEntry(kv.format, kv.blocks, slot_idx, key, value);
  LoadCodedEntry(CodedLayoutOf(kv.coded_bits, kv.format.head_dim), kv.blocks[slot_idx / kBlockTokens],
                 static_cast<int>(slot_idx % kCodedEntries), key, value);
}

}  // namespace cachette::ops
