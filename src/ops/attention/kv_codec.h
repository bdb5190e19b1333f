#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/attention/coded_layout.h"
#include "ops/attention/kv_view.h"

namespace cachette::ops {

// Writes 64 live entries of plain blocks (bits of live_masks, oldest first, after skipping first_rank of them) as one
// coded block. blocks and live_masks must hold that many. Minima are rounded down and scales up to f16, codes are
// chosen against the rounded ones: |x - x'| <= scale / 2 for finite x in f16's range; others saturate.
void EncodeBlock(const KvFormat& format, const std::byte* const* blocks, const uint16_t* live_masks, int64_t first_rank,
                 int bits, std::byte* coded);

// Entry (0..63) of a coded block as f32: key [head_dim], value [head_dim]; either may be null.
void LoadCodedEntry(const CodedLayout& layout, const std::byte* coded, int entry, float* key, float* value);

// Entry in slot_idx of a row, coded or plain.
void LoadEntry(const KvRow& kv, int64_t slot_idx, float* key, float* value);

}  // namespace cachette::ops
