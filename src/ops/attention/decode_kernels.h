#pragma once
// What decode.cc and its kernels agree on; not for other files.

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "ops/attention/coded_layout.h"

namespace cachette::ops {

struct DecodeParams;
struct DecodeRow;

// Slots [begin_slot, end_slot) of one row, for all query heads of its group.
struct DecodeSplit {
  const std::byte* const* blocks;
  const uint16_t* live_masks;  // or null
  int64_t begin_slot;
  int64_t end_slot;
  int64_t num_coded_slots;  // of the row: slots below it lie in coded blocks
  CodedLayout coded;        // where there are any
  Dtype dtype;
  int head_dim;
  int group_size;
  float scale;
  float softcap;
  const float* q;  // [group_size][head_dim]
};

// Of the split: out [group_size][head_dim] not yet divided by the denominator; max in units of log2.
struct DecodePartial {
  float* out;
  float* max_log2;     // [group_size]
  float* denominator;  // [group_size]
};

// The whole of one row, in the order of the definition.
void DecodeRowRef(const DecodeParams& params, const DecodeRow& row);

}  // namespace cachette::ops

namespace cachette {
namespace avx2 {
void AttendSplit(const ops::DecodeSplit& split, const ops::DecodePartial& partial);
}
namespace avx512 {
void AttendSplit(const ops::DecodeSplit& split, const ops::DecodePartial& partial);
}
namespace avx512vnni {
void AttendSplit(const ops::DecodeSplit& split, const ops::DecodePartial& partial);
}
namespace avx512bf16 {
void AttendSplit(const ops::DecodeSplit& split, const ops::DecodePartial& partial);
}
}  // namespace cachette
