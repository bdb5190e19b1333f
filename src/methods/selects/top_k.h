#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "methods/part.h"

namespace cachette {

// The losing ranks of num_live entries: everything outside the protected ranges except the budget - protected best
// scores (ties: the newer entry wins; NaN counts as the lowest score). scores [num_live], or empty when no entry beyond
// the protected ones is kept. Returned ranges are sorted and disjoint. Order n log n in the unprotected entries, n when
// none of them is kept.
std::vector<RankRange> TopKLosers(std::span<const float> scores, int64_t num_live, int64_t budget_entries,
                                  std::span<const RankRange> protected_ranges);

}  // namespace cachette
