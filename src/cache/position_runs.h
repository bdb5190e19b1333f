#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace cachette {

// Calls body(first_position, count) for each longest run of consecutive positions, in order: what the ledger takes.
template <class Body>
void ForEachRun(std::span<const int32_t> positions, const Body& body) {
  for (size_t first = 0; first < positions.size();) {
    size_t end = first + 1;
    while (end < positions.size() && positions[end] == positions[end - 1] + 1) ++end;
    body(static_cast<int64_t>(positions[first]), static_cast<int64_t>(end - first));
    first = end;
  }
}

}  // namespace cachette
