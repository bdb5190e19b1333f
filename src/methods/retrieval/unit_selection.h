#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace cachette {

// What attention reads of one KV head: units, and how many entries of the last of them (0: all).
struct UnitSelection {
  std::vector<int32_t> units;  // ascending; one that is cut comes last
  int64_t last_entries = 0;

  bool Holds(int32_t unit_idx) const {
    const auto end = units.end() - (last_entries > 0 ? 1 : 0);
    return std::binary_search(units.begin(), end, unit_idx) || (end != units.end() && *end == unit_idx);
  }
  void Remove(int32_t unit_idx) {
    const auto at = std::find(units.begin(), units.end(), unit_idx);
    if (at == units.end()) return;
    if (at + 1 == units.end()) last_entries = 0;
    units.erase(at);
  }
};

}  // namespace cachette
