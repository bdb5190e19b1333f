#pragma once

#include <cstdint>
#include <vector>

#include "cache/layer_observer.h"
#include "cache/sequence_cache.h"

namespace cachette {

// Attention of a decode token over what the layer's open view holds, for one KV head.
struct ViewAttention {
  const float* weights;  // [group_size][num_slots], each row a softmax; in scratch
  int64_t num_slots = 0;
  int group_size = 0;
  // Over the group's query heads.
  float Sum(int64_t slot) const {
    float sum = 0;
    for (int g = 0; g < group_size; ++g) sum += weights[g * num_slots + slot];
    return sum;
  }
};

// Of every KV head [num_kv_heads]. The weights live as long as the caller's scratch scope.
std::vector<ViewAttention> AttendView(Context& cx, const SequenceCache& cache, const LayerQueries& queries);

}  // namespace cachette
