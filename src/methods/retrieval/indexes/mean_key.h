#pragma once
// The mean of a unit's keys. Softmax over all units, then the mean over the group's query heads (LouisKV,
// arXiv:2510.11292), or the mean of the inner products (ClusterKV, arXiv:2412.03213, with one list per KV head).

#include <algorithm>

#include "methods/retrieval/retrieval_part.h"

namespace cachette {

class MeanKey final : public UnitIndex {
 public:
  explicit MeanKey(ops::GroupReduce reduce) : reduce_(reduce) {}
  const char* name() const override { return reduce_ == ops::GroupReduce::kMean ? "mean_key" : "mean_key_softmax"; }
  ops::UnitBound bound() const override { return ops::UnitBound::kDot; }
  ops::GroupReduce reduce() const override { return reduce_; }
  void Summarise(const float* keys, int64_t num_keys, int head_dim, float* first, float*) const override {
    std::fill_n(first, head_dim, 0.0f);
    for (int64_t i = 0; i < num_keys; ++i)
      for (int c = 0; c < head_dim; ++c) first[c] += keys[i * head_dim + c];
    for (int c = 0; c < head_dim; ++c) first[c] /= static_cast<float>(num_keys);
  }

 private:
  ops::GroupReduce reduce_;
};

}  // namespace cachette
