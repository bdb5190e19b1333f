#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/attention/kv_view.h"

namespace cachette::ops {

// Writes keys and values [num_tokens][head_dim] f32 (row strides in elements) as entries first_entry_idx ... of the
// blocks of one row, converting to the format (round to nearest even). blocks as in KvRow.
void StoreEntries(const KvFormat& format, std::byte* const* blocks, int64_t first_entry_idx, const float* keys,
                  int64_t key_stride, const float* values, int64_t value_stride, int64_t num_tokens);

// Reads entry entry_idx back as f32: key [head_dim], value [head_dim]; either may be null.
void LoadEntry(const KvFormat& format, const std::byte* const* blocks, int64_t entry_idx, float* key, float* value);

// Copies entry from -> to within or between block lists of the same format, bit for bit.
void CopyEntry(const KvFormat& format, const std::byte* const* from_blocks, int64_t from_idx,
               std::byte* const* to_blocks, int64_t to_idx);

}  // namespace cachette::ops
