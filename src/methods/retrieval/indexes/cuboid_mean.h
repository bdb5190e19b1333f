#pragma once
// The middle of a unit's keys per channel, and their mean distance from it: a box tighter than min and max (ArkVale,
// NeurIPS 2024, "cuboid-mean"). The mean over the group's query heads.

#include <algorithm>
#include <cmath>

#include "methods/retrieval/retrieval_part.h"

namespace cachette {

class CuboidMean final : public UnitIndex {
 public:
  const char* name() const override { return "cuboid_mean"; }
  ops::UnitBound bound() const override { return ops::UnitBound::kBox; }
  ops::GroupReduce reduce() const override { return ops::GroupReduce::kMean; }
  void Summarise(const float* keys, int64_t num_keys, int head_dim, float* first, float* second) const override {
    for (int c = 0; c < head_dim; ++c) {
      float low = keys[c], high = keys[c], spread = 0;
      for (int64_t i = 1; i < num_keys; ++i) {
        low = std::min(low, keys[i * head_dim + c]);
        high = std::max(high, keys[i * head_dim + c]);
      }
      const float middle = (low + high) / 2;
      for (int64_t i = 0; i < num_keys; ++i) spread += std::abs(keys[i * head_dim + c] - middle);
      spread /= static_cast<float>(num_keys);
      first[c] = middle - spread;
      second[c] = middle + spread;
    }
  }
};

}  // namespace cachette
