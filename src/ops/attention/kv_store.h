#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "ops/attention/kv_view.h"

namespace cachette::ops {

// Writes keys and values [num_tokens][head_dim] f32 (row strides in elements) into slots first_slot ... of the
// blocks of one row, converting to the format (round to nearest even). blocks as in KvRow.
void StoreEntries(const KvFormat& format, std::byte* const* blocks, int64_t first_slot, const float* keys,
                  int64_t key_stride, const float* values, int64_t value_stride, int64_t num_tokens);

// Reads the entry in slot_idx back as f32: key [head_dim], value [head_dim]; either may be null.
void LoadEntry(const KvFormat& format, const std::byte* const* blocks, int64_t slot_idx, float* key, float* value);

// Reads the keys of whole blocks back as f32: keys [blocks.size() * kBlockTokens][head_dim].
void LoadKeys(const KvFormat& format, std::span<const std::byte* const> blocks, float* keys);

// Copies the entry in slot from_slot to to_slot, within or between block lists of the same format, bit for bit.
void CopyEntry(const KvFormat& format, const std::byte* const* from_blocks, int64_t from_slot,
               std::byte* const* to_blocks, int64_t to_slot);

// Makes a whole block at to of the entries in these slots of blocks, kBlockTokens at most, bit for bit; the slots
// behind them become zero. keys: what LoadKeys read of blocks, finite: a key is one run of memory there and a column of
// its block here.
void GatherEntries(const KvFormat& format, const std::byte* const* blocks, const float* keys,
                   std::span<const int32_t> slots, std::byte* to);

}  // namespace cachette::ops
