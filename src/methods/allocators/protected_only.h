#pragma once

#include <algorithm>

#include "methods/part.h"

namespace cachette {

// No entry beyond the protected ones, in every KV head.
class ProtectedOnly final : public Allocator {
 public:
  const char* name() const override { return "protected_only"; }
  void Share(const LayerContest&, std::span<int64_t> num_kept) const override {
    std::fill(num_kept.begin(), num_kept.end(), 0);
  }
};

}  // namespace cachette
