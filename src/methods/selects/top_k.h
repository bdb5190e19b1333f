#pragma once

#include "methods/part.h"

namespace cachette {

// Keeps the protected entries and, of the others, those with the best scores up to the number of places (ties: the
// newer entry wins; NaN counts as the lowest score). Order n log n in the unprotected entries, n when none is kept.
class TopK final : public Select {
 public:
  const char* name() const override { return "top_k"; }
  std::vector<RankRange> Losers(std::span<const float> scores, std::span<const int32_t> positions, int64_t num_kept,
                                std::span<const RankRange> protected_ranges) const override;
};

}  // namespace cachette
