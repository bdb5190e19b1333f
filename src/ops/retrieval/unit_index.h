#pragma once
// The words of the units' index, apart from its ops: kernels include this file.

#include <cstdint>

namespace cachette::ops {

// What a unit's index vectors say about q.k of its keys k.
enum class UnitBound : uint8_t {
  kDot,  // one vector mu (mean key, centroid): q.mu
  kBox,  // two vectors lo, hi: sum_c max(q_c lo_c, q_c hi_c), the largest q.k of any k between them
};

// How the scores of a group's query heads become one weight per unit.
enum class GroupReduce : uint8_t {
  kMeanSoftmax,  // mean over the heads of the softmax over units (LouisKV): weights are >= 0 and sum to 1
  kMean,         // mean score (ClusterKV, ArkVale; a sum ranks alike)
  kMax,          // largest score (Quest)
};

inline constexpr int kIndexBlockUnits = 16;

}  // namespace cachette::ops
