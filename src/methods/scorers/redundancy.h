#pragma once

#include "methods/part.h"

namespace cachette {

// Attention of the last queries, less how much a key repeats others: long chains of thought say the same thing often.
// The newest of near-duplicates is not punished. importance: largest logit of the query heads, softmax over what came
// before the window, mean over the window, max-pooled; redundancy: softmax of the mean cosine to all keys.
// 2 * head_dim * n^2 operations per KV head and eviction.
// Source: R-KV, arXiv:2505.24133, section 3.
class Redundancy final : public Scorer {
 public:
  const char* name() const override { return "redundancy"; }
  void VisitOptions(OptionVisitor& v) override;
  Result<void> Prepare(const CacheShape& shape) override;
  int64_t query_window() const override { return window; }
  void Score(Context& cx, const LayerView& view, std::span<std::vector<float>> scores) const override;

  int64_t window = 8;
  int64_t pool_width = 7;
  double importance_share = 0.1;
  double similar = 0.5;

 private:
  std::vector<float> RedundancyOf(Context& cx, const HeadStream& stream, std::span<const int64_t> slots) const;
};

}  // namespace cachette
