#pragma once
// A block of 64 entries in 8, 4 or 2 bits per element. Plain struct: *_simd.cc files include it.
//
// An element is code * scale + min. Keys share scale and min over 32 consecutive entries of one channel, values over 32
// consecutive channels of one entry (the last group of a head_dim that 32 does not divide is shorter): outliers of keys
// sit in fixed channels, those of values do not. Source: KIVI, arXiv:2402.02750. Parts of a block, in order:
//   key_scales, key_mins      f16 [2][padded_dim]             entry e: row e / 32
//   key_codes                 u32 [4][padded_dim / per_word][16]
//                             entry e, channel d: word [e / 16][d / per_word][e % 16], code d % per_word
//   value_scales, value_mins  f16 [num_value_groups][64]      channel d: row d / 32
//   value_codes               u32 [64 / per_word][padded_dim / 16][16]
//                             entry e, channel d: word [e / per_word][d / 16][d % 16], code e % per_word
// A word holds per_word = 32 / bits codes, the first in its lowest bits. So one register of 16 words becomes per_word
// registers of 16 codes by shifts alone: 16 keys of one channel, or 16 channels of one value, as the kernels want them.

#include <cstdint>

namespace cachette::ops {

inline constexpr int kCodedEntries = 64;  // of a block: four hot blocks, one step of the decode kernel
inline constexpr int kCodedGroup = 32;    // elements that share scale and min
inline constexpr int kCodedKeyGroups = kCodedEntries / kCodedGroup;

struct CodedLayout {
  int bits;  // 8, 4 or 2; 0: no coded blocks
  int head_dim;
  int padded_dim;  // head_dim rounded up to 16; padded channels of keys decode to 0, those of values to anything finite
  int per_word;
  int num_value_groups;
  // Bytes from the start of a block, multiples of 64.
  int key_scales, key_mins, key_codes, value_scales, value_mins, value_codes;
  int block_bytes;
  int entry_bytes;  // block_bytes / 64: codes, scales and minima
};

// bits 8, 4 or 2.
CodedLayout CodedLayoutOf(int bits, int head_dim);

}  // namespace cachette::ops
