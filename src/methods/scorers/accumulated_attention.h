#pragma once

#include "methods/part.h"

namespace cachette {

// All the attention an entry has received so far, from every query since it was written, its own included, summed over
// the query heads of its KV head. After an eviction attention spreads over the entries that are left.
// Source: H2O, arXiv:2306.14048, section 4.
class AccumulatedAttention final : public Scorer {
 public:
  const char* name() const override { return "accumulated_attention"; }
  void VisitOptions(OptionVisitor& v) override {
    v(normalise, "normalise", "divide by the number of queries that could see the entry, against the bias to old ones");
  }
  bool has_running_score() const override { return true; }
  void Accumulate(Context& cx, SequenceCache& cache, const LayerQueries& queries) const override;
  void Score(Context& cx, const LayerView& view, std::span<std::vector<float>> scores) const override;

  bool normalise = false;
};

}  // namespace cachette
