#pragma once

#include <algorithm>

#include "methods/part.h"

namespace cachette {

// The same number of places for every KV head of every layer.
class Uniform final : public Allocator {
 public:
  const char* name() const override { return "uniform"; }
  void Share(const LayerContest& contest, std::span<int64_t> num_kept) const override {
    std::fill(num_kept.begin(), num_kept.end(), contest.num_places);
  }
};

}  // namespace cachette
