#pragma once

#include <cstdint>
#include <span>

#include "ops/attention/kv_view.h"
#include "ops/linear/linear.h"
#include "tensor/context.h"

namespace cachette::ops {

// One KV head of one request during a prefill chunk. The chunk's own entries are already appended: they are the last
// num_queries slots of kv, all live, and query i sees the live slots in [0, num_slots - num_queries + i], i.e. all that
// came before the chunk and the chunk causally.
struct PrefillRow {
  KvRow kv;
  const float* q;  // query i, group head g at q + i * q_stride + g * head_dim
  float* out;      // as q, with out_stride; must not alias q
};

struct PrefillParams {
  std::span<const PrefillRow> rows;  // one per KV head
  int64_t num_queries = 0;           // of the chunk, same for all rows
  int64_t q_stride = 0;              // elements between consecutive queries
  int64_t out_stride = 0;
  int group_size = 1;
  int head_dim = 0;
  float scale = 1.0f;
  float softcap = 0.0f;
  int32_t attention_window = 0;  // > 0: query at position p sees positions > p - attention_window only (by positions)
  GemmDtype gemm = GemmDtype::kF32;  // products in f32 or in bf16 with f32 accumulation; softmax always f32
};

// Causal attention of a prefill chunk over ragged rows, tile by tile: scores and weighted values through oneDNN
// matmul, masks and online softmax in own SIMD. 4 * head_dim operations per visible (query, entry) pair and head.
// Scratch O(tile) from cx, not O(num_queries * num_entries).
// Source: arXiv:2205.14135.
void PrefillAttention(Context& cx, const PrefillParams& params);

}  // namespace cachette::ops
