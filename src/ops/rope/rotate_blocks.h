#pragma once

#include <cstdint>
#include <span>

#include "ops/attention/kv_view.h"
#include "ops/rope/rope.h"
#include "tensor/context.h"

namespace cachette::ops {

// Copies the blocks of a row whose keys were stored un-rotated to out_blocks (same number and format), keys rotated:
// the key in slot i by positions[i] ([num_slots]). Values are copied bit for bit; dead slots stay finite.
// What StreamingLLM needs when RoPE sees an entry's index in the cache. Source: arXiv:2309.17453, section 3.2.
void RotateBlockKeys(Context& cx, const RopeTable& table, const KvRow& row, std::span<const int32_t> positions,
                     std::byte* const* out_blocks);

}  // namespace cachette::ops
