#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "ops/retrieval/unit_index.h"
#include "tensor/context.h"

namespace cachette::ops {

inline int NumIndexVectors(UnitBound bound) { return bound == UnitBound::kBox ? 2 : 1; }

// Bytes of the index of num_units units, whole blocks: f16 [ceil(num_units / 16)][num_vectors][head_dim][16]. The last
// axis is the unit, so that one register holds a channel of 16 units.
inline int64_t UnitIndexBytes(UnitBound bound, int64_t num_units, int head_dim) {
  return (num_units + kIndexBlockUnits - 1) / kIndexBlockUnits * kIndexBlockUnits * NumIndexVectors(bound) * head_dim *
         2;
}

// Writes the vectors of one unit ([head_dim] each; second is hi, null with kDot) into the index. kDot rounds to
// nearest; kBox rounds lo (first) down and hi up, so that the box still holds what it held. What exceeds the range of
// f16 becomes its largest finite value. Fresh blocks must be zeroed by the caller: lanes without a unit have to be
// finite.
void StoreUnitVectors(UnitBound bound, int head_dim, std::byte* index, int64_t unit, const float* first,
                      const float* second);

// Units of one KV head and the query heads that look at them.
struct UnitScoreRow {
  const std::byte* index = nullptr;  // see UnitIndexBytes; any alignment of at least 2
  int64_t num_units = 0;
  const float* q = nullptr;  // [group_size][head_dim]
  float* weights = nullptr;  // [num_units rounded up to 16], written; 0 from num_units on
};

struct UnitScoreParams {
  std::span<const UnitScoreRow> rows;
  UnitBound bound = UnitBound::kDot;
  GroupReduce reduce = GroupReduce::kMeanSoftmax;
  int group_size = 1;  // at most 16
  int head_dim = 0;    // a multiple of 8, at most 256
  float scale = 1.0f;
  float softcap = 0.0f;  // 0: none
};

// weights[u] = the group's reduction of score(q_g, u), score = scale * bound, capped as the model caps its logits. f32
// throughout; the result does not depend on the threads or on other rows. Small calls stay on the calling thread.
// Reads UnitIndexBytes of every row once for the whole group. Scratch from cx: 4 * group_size bytes per unit and row.
void ScoreUnits(Context& cx, const UnitScoreParams& params);

}  // namespace cachette::ops
