#pragma once
// What prefill.cc and its kernels agree on; not for other files.
//
// Panels hold the entries of one row in the form that oneDNN's matrix kernels read without copying (its tags BA16a64b
// and BA16a64b2a): slabs of 64 columns; in bf16 two consecutive rows are interleaved. So any tile of 64-aligned slots
// is addressed by an offset.
//   keys   f32 [slots/64][k_dim][64]         bf16 [slots/64][k_dim/2][64][2]
//   values f32 [v_dim/64][slots][64]         bf16 [v_dim/64][slots/2][64][2]
// k_dim and v_dim are head_dim rounded up to 32 and 64, slots is num_slots rounded up; the padding is zero.

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "ops/attention/coded_layout.h"

namespace cachette {
class Context;
}

namespace cachette::ops {

struct PrefillParams;

inline constexpr int kSlabColumns = 64;

struct PanelView {
  std::byte* keys;
  std::byte* values;
  int64_t num_slots;  // a multiple of 64
  int head_dim;
  int k_dim;
  int v_dim;
  bool is_bf16;
};

// Block of 16 slots to convert into a panel at slot (a multiple of 16); block is null past the row's end: zeros.
struct BlockGather {
  const std::byte* block;
  Dtype dtype;
  int64_t slot;
  CodedLayout coded;    // bits 0: the block is plain
  int first_entry = 0;  // of a coded block: entries [first_entry, first_entry + 16)
};

// Query rows of a tile, scaled and converted: row r is query r / group_size, head r % group_size.
struct QueryPack {
  const float* q;
  int64_t q_stride;
  int group_size;
  int num_rows;     // group_size * queries
  int padded_rows;  // rows past num_rows become zero
  int head_dim;
  int k_dim;
  float factor;
  bool is_bf16;
  std::byte* packed;  // [padded_rows][k_dim]
};

// Scores of a tile on the way to weights, and the running softmax of its rows in units of log2.
struct SoftmaxTile {
  // [padded_rows][num_slots] f32 in; the weights replace them, dense from the same address on: f32, or bf16 in half the
  // bytes (the matrix kernels take no strided operand). Rows past num_rows become 0.
  float* scores;
  int num_rows;  // row r is query r / group_size
  int padded_rows;
  int num_slots;  // a multiple of 64
  int group_size;
  int64_t first_limit;       // query i sees the tile's slots below first_limit + i
  const int32_t* positions;  // [num_slots], INT32_MIN for dead slots; null when neither window nor holes mask the tile
  const int32_t* query_positions;  // [queries]
  int32_t attention_window;        // 0: none
  float softcap;
  bool is_bf16;
  float* max;          // [num_rows]
  float* denominator;  // [num_rows]
  float* out;          // [v_dim/64][padded_rows][64], rescaled when a row's maximum rises
  int v_dim;
};

struct PrefillKernels {
  void (*gather_block)(const PanelView& panel, const BlockGather& gather);
  void (*pack_queries)(const QueryPack& pack);
  void (*softmax_tile)(const SoftmaxTile& tile);
};

// All rows, in the order of the definition.
void PrefillRef(Context& cx, const PrefillParams& params);

}  // namespace cachette::ops

namespace cachette {
namespace avx2 {
ops::PrefillKernels PrefillKernelsOfIsa();
}
namespace avx512 {
ops::PrefillKernels PrefillKernelsOfIsa();
}
namespace avx512vnni {
ops::PrefillKernels PrefillKernelsOfIsa();
}
namespace avx512bf16 {
ops::PrefillKernels PrefillKernelsOfIsa();
}
}  // namespace cachette
