#pragma once
// Per-channel minimum and maximum of a unit's keys: an upper bound of every q.k in it (Quest, arXiv:2406.10774). One
// list per KV head: the largest bound over the group's query heads.

#include <algorithm>

#include "methods/retrieval/retrieval_part.h"

namespace cachette {

class MinMax final : public UnitIndex {
 public:
  const char* name() const override { return "min_max"; }
  ops::UnitBound bound() const override { return ops::UnitBound::kBox; }
  ops::GroupReduce reduce() const override { return ops::GroupReduce::kMax; }
  void Summarise(const float* keys, int64_t num_keys, int head_dim, float* first, float* second) const override {
    std::copy_n(keys, head_dim, first);
    std::copy_n(keys, head_dim, second);
    for (int64_t i = 1; i < num_keys; ++i)
      for (int c = 0; c < head_dim; ++c) {
        first[c] = std::min(first[c], keys[i * head_dim + c]);
        second[c] = std::max(second[c], keys[i * head_dim + c]);
      }
  }
};

}  // namespace cachette
