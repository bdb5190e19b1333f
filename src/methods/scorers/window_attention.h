#pragma once

#include <string>

#include "methods/part.h"
#include "methods/scorers/pooling.h"

namespace cachette {

// What the last queries attend to, smoothed over neighbours: they predict which entries the answer will need. Softmax
// over the competing entries and the window itself, causal inside the window; summed over the window; one score per KV
// head from its query heads (or one per layer from all of them).
// Source: SnapKV, arXiv:2404.14469, sections 3-4.
class WindowAttention final : public Scorer {
 public:
  struct Defaults {
    int64_t window = 64;
    const char* pool = "avg";
    int64_t pool_width = 5;
    const char* reduce = "mean";
    bool pools_reduced = false;
    bool shares_heads = false;
  };
  WindowAttention() : WindowAttention(Defaults{}) {}
  explicit WindowAttention(const Defaults& d)
      : window(d.window),
        pool(d.pool),
        pool_width(d.pool_width),
        reduce(d.reduce),
        pools_reduced(d.pools_reduced),
        shares_heads(d.shares_heads) {}

  const char* name() const override { return "window_attention"; }
  void VisitOptions(OptionVisitor& v) override;
  Result<void> Prepare(const CacheShape& shape) override;
  int64_t query_window() const override { return window; }
  void Score(Context& cx, const LayerView& view, std::span<std::vector<float>> scores) const override;

  int64_t window;
  std::string pool;
  int64_t pool_width;
  std::string reduce;
  bool pools_reduced;
  bool shares_heads;

 private:
  std::vector<float> ScoreOfGroup(std::span<const float> sums, int64_t num_slots, std::span<const int64_t> slots) const;

  PoolKind pool_kind_ = PoolKind::kNone;
};

}  // namespace cachette
