#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace cachette::ops {

// Chooses units by weight within a budget of entries: in descending weight (equal weights: the lower unit first), the
// longest run of units whose sizes add up to at most budget_entries; one unit at least, even when it alone exceeds the
// budget, if the budget is positive and there is a unit. chosen is overwritten, in descending order of weight, so every
// front part of it is the choice of a smaller budget. Returns the sum of the chosen weights.
//
// sizes: entries of each unit, >= 0; empty: every unit has uniform_size entries (>= 1). A weight that is NaN ranks
// below all numbers and adds nothing to the sum. O(units + chosen log chosen) whatever the weights.
double TakeBestUnits(std::span<const float> weights, std::span<const int32_t> sizes, int32_t uniform_size,
                     int64_t budget_entries, std::vector<int32_t>& chosen);

}  // namespace cachette::ops
