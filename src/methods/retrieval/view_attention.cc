#include "methods/retrieval/view_attention.h"

#include "ops/attention/column_sums.h"

namespace cachette {

std::vector<ViewAttention> AttendView(Context& cx, const SequenceCache& cache, const LayerQueries& queries) {
  const int num_kv_heads = cache.shape().num_kv_heads;
  const int head_dim = cache.shape().format.head_dim;
  std::vector<int64_t> begins(static_cast<size_t>(num_kv_heads), 0), ends;
  for (int head = 0; head < num_kv_heads; ++head) ends.push_back(cache.AttentionRow(queries.layer, head).num_slots);
  std::vector<ops::ColumnSumRow> rows;
  std::vector<ViewAttention> out;
  for (int head = 0; head < num_kv_heads; ++head) {
    const auto at = static_cast<size_t>(head);
    float* const weights = cx.scratch().Array<float>(static_cast<size_t>(queries.group_size * ends[at])).data();
    rows.push_back({.kv = cache.AttentionRow(queries.layer, head),
                    .q = queries.q + static_cast<int64_t>(head) * queries.group_size * head_dim,
                    .begin_slots = &begins[at],
                    .end_slots = &ends[at],
                    .sums = weights});
    out.push_back({.weights = weights, .num_slots = ends[at], .group_size = queries.group_size});
  }
  ops::ColumnSums(cx, {.rows = rows,
                       .num_queries = 1,
                       .q_stride = queries.q_stride,
                       .group_size = queries.group_size,
                       .head_dim = head_dim,
                       .scale = queries.scale,
                       .softcap = queries.softcap});
  return out;
}

}  // namespace cachette
