#pragma once
// What the forward pass shows of itself: the queries of a layer, right before and right after its attention, and at
// decode the next layer's as far as they can be told by then. The model does not know who looks; without an observer
// nothing is computed or kept.

#include <cstdint>

#include "base/result.h"
#include "tensor/context.h"

namespace cachette {

class SequenceCache;

// One layer of one sequence's pass. Everything else about its attention follows from the cache: the rows' own entries
// are the last num_rows slots of each KV head.
struct LayerQueries {
  int layer = 0;
  const float* q = nullptr;  // [num_rows][num_kv_heads * group_size][head_dim], rotated as attention saw them
  int64_t q_stride = 0;      // floats between rows
  int64_t num_rows = 0;      // tokens of the pass, then its transient ones
  int group_size = 1;        // query heads per KV head
  float scale = 1.0f;
  float softcap = 0.0f;
  int32_t attention_window = 0;  // the model's own; 0: none
};

class LayerObserver {
 public:
  virtual ~LayerObserver() = default;
  // Called when the rows' own entries are in the cache and attention is next; may choose what it reads of this layer
  // (SequenceCache::BeginView).
  virtual Result<void> BeforeAttention(Context&, SequenceCache&, const LayerQueries&) { return Ok(); }
  // At decode, between a layer's BeforeAttention and its attention: the next layer's queries as they would be if this
  // layer added nothing to the residual stream. Only where they are wanted, which costs one more pass over that layer's
  // query weights; next.q is null while being asked.
  virtual bool WantsNextQueries(const SequenceCache&, const LayerQueries& /*next*/) const { return false; }
  virtual Result<void> NextQueries(Context&, SequenceCache&, const LayerQueries& /*next*/) { return Ok(); }
  // Called after a layer's attention and before its output is used further; may evict entries of that layer.
  virtual Result<void> AfterAttention(Context& cx, SequenceCache& cache, const LayerQueries& queries) = 0;
};

}  // namespace cachette
