#pragma once
// Column sums of attention over a layer's KV heads: what every attention-scored method starts from.

#include <cstdint>
#include <span>
#include <vector>

#include "cache/layer_observer.h"
#include "cache/sequence_cache.h"
#include "methods/part.h"
#include "ops/attention/column_sums.h"

namespace cachette {

struct QuerySumsParams {
  int layer = 0;
  LayerQueries queries;
  std::span<const int32_t> positions;    // [queries.num_rows]
  std::span<const int64_t> begin_slots;  // [num_kv_heads] the softmax covers slots from here on
  bool excludes_query_window = false;    // ... and ends before the first query's own entry
  ops::GroupLogits group_logits = ops::GroupLogits::kSeparate;
};

// sums [num_kv_heads], each [group_size or 1][num_slots of the head]: see ops::ColumnSums. Each query covers what its
// attention covered: no entry after its own, none outside the model's own window.
std::vector<std::vector<float>> QuerySums(Context& cx, const SequenceCache& cache, const QuerySumsParams& params);

// The same over what a view shows: the softmax covers the competing entries and what came after them.
std::vector<std::vector<float>> QuerySums(Context& cx, const LayerView& view, bool excludes_query_window = false,
                                          ops::GroupLogits group_logits = ops::GroupLogits::kSeparate);

}  // namespace cachette
