#pragma once

#include <cstdint>
#include <span>

#include "ops/attention/kv_view.h"
#include "tensor/context.h"

namespace cachette::ops {

// How the query heads of a group become sums.
enum class GroupLogits : uint8_t {
  kSeparate,  // one softmax per query head, one row of sums each
  kMax,       // the largest logit of the group, then one softmax and one row of sums (R-KV)
};

// One KV head and the queries that look at it.
struct ColumnSumRow {
  KvRow kv;
  const float* q;              // query i, group head g at q + i * q_stride + g * head_dim
  const int64_t* begin_slots;  // [num_queries] the softmax of query i covers the live slots in [begin, end)
  const int64_t* end_slots;    // [num_queries]
  float* sums;                 // [group_size, or 1 with kMax][kv.num_slots], overwritten; 0 at slots nobody covers
};

struct ColumnSumParams {
  std::span<const ColumnSumRow> rows;
  int64_t num_queries = 0;  // same for all rows
  int64_t q_stride = 0;     // floats between consecutive queries
  int group_size = 1;
  int head_dim = 0;  // a multiple of 8, at most 256
  float scale = 1.0f;
  float softcap = 0.0f;
  GroupLogits group_logits = GroupLogits::kSeparate;
};

// sums[g][j] = sum over queries i of softmax_j(scale * q_i^g . k_j): how much the queries attend to each entry. The one
// observation behind the scores of SnapKV (last queries), H2O (all queries) and TOVA (last query). f32 throughout, the
// result independent of the number of threads. A query that covers no live slot adds nothing.
// 2 * head_dim operations per (query, entry) pair and head. Scratch from cx: 4 * group_size floats per slot and
// row, 32 more per slot and thread.
void ColumnSums(Context& cx, const ColumnSumParams& params);

}  // namespace cachette::ops
