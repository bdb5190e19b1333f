#pragma once

#include "methods/part.h"

namespace cachette {

// What the newest query attends to, averaged over all query heads of the layer: every KV head keeps the same entries.
// Source: TOVA, arXiv:2401.06104, section 3.
class LastAttention final : public Scorer {
 public:
  const char* name() const override { return "last_attention"; }
  int64_t query_window() const override { return 1; }
  bool keeps_query_window() const override { return false; }
  void Score(Context& cx, const LayerView& view, std::span<std::vector<float>> scores) const override;
};

}  // namespace cachette
