#pragma once
// The merge loop of byte pair encoding: a linked list of symbols and a heap of the pairs that may join.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

namespace cachette {

// One symbol of a piece while it is being merged.
struct BpeSymbol {
  int32_t id = -1;         // token, -1: no token covers it (yet)
  uint32_t begin = 0;      // where its text starts in the piece
  uint32_t num_bytes = 0;  // 0: absorbed by its left neighbour
  int32_t prev = -1, next = -1;
};

// What joining two neighbours gives. Lower order joins first; equal orders join from the left.
struct BpeJoin {
  bool exists = false;
  uint32_t order = 0;
  int32_t id = -1;
};

// A pair that could join when it was pushed; stale once either side has changed.
struct BpeCandidate {
  uint64_t order_and_left;  // order << 32 | left symbol
  uint32_t num_bytes;       // of both sides: any change of either makes the sum grow
  int32_t id;
  bool operator>(const BpeCandidate& other) const { return order_and_left > other.order_and_left; }
};

// Joins neighbours, best pair first, until none joins. join(left, right) -> BpeJoin of two symbols.
// symbols are in text order and linked here; heap is scratch. O(n log n) for n symbols.
template <class Join>
void MergeSymbols(std::vector<BpeSymbol>& symbols, std::vector<BpeCandidate>& heap, const Join& join) {
  const auto num_symbols = static_cast<int32_t>(symbols.size());
  heap.clear();
  const auto candidate = [&](int32_t left, BpeCandidate& out) {
    const BpeSymbol& a = symbols[static_cast<size_t>(left)];
    if (a.next < 0) return false;
    const BpeSymbol& b = symbols[static_cast<size_t>(a.next)];
    const BpeJoin joined = join(a, b);
    out = {static_cast<uint64_t>(joined.order) << 32 | static_cast<uint32_t>(left), a.num_bytes + b.num_bytes,
           joined.id};
    return joined.exists;
  };
  for (int32_t i = 0; i < num_symbols; ++i) {
    symbols[static_cast<size_t>(i)].prev = i - 1;
    symbols[static_cast<size_t>(i)].next = i + 1 < num_symbols ? i + 1 : -1;
  }
  BpeCandidate next;
  for (int32_t i = 0; i < num_symbols; ++i) {
    if (candidate(i, next)) heap.push_back(next);
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  while (!heap.empty()) {
    const BpeCandidate best = heap.front();
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    heap.pop_back();
    const auto left = static_cast<int32_t>(best.order_and_left & UINT32_MAX);
    BpeSymbol& a = symbols[static_cast<size_t>(left)];
    if (a.num_bytes == 0 || a.next < 0) continue;
    BpeSymbol& b = symbols[static_cast<size_t>(a.next)];
    if (a.num_bytes + b.num_bytes != best.num_bytes) continue;
    a.id = best.id;
    a.num_bytes = best.num_bytes;
    a.next = b.next;
    b.num_bytes = 0;
    if (a.next >= 0) symbols[static_cast<size_t>(a.next)].prev = left;
    for (const int32_t again : {left, a.prev}) {
      if (again >= 0 && candidate(again, next)) {
        heap.push_back(next);
        std::push_heap(heap.begin(), heap.end(), std::greater<>());
      }
    }
  }
}

}  // namespace cachette
