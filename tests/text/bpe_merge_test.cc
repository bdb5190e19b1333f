#include "text/bpe_merge.h"

#include <gtest/gtest.h>

#include <map>
#include <utility>

#include "base/rng.h"

namespace cachette {
namespace {

using Merges = std::map<std::pair<int32_t, int32_t>, std::pair<uint32_t, int32_t>>;  // pair -> rank, result

// The definition: join the leftmost pair of the lowest rank until none is left. O(n^2).
std::vector<int32_t> Naive(std::vector<int32_t> ids, const Merges& merges) {
  for (;;) {
    size_t best = ids.size();
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto merge = merges.find({ids[i], ids[i + 1]});
      if (merge == merges.end()) continue;
      if (best == ids.size() || merge->second.first < merges.at({ids[best], ids[best + 1]}).first) best = i;
    }
    if (best == ids.size()) return ids;
    ids[best] = merges.at({ids[best], ids[best + 1]}).second;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
}

std::vector<int32_t> Merged(const std::vector<int32_t>& ids, const Merges& merges) {
  std::vector<BpeSymbol> symbols;
  std::vector<BpeCandidate> heap;
  for (size_t i = 0; i < ids.size(); ++i)
    symbols.push_back({.id = ids[i], .begin = static_cast<uint32_t>(i), .num_bytes = 1});
  MergeSymbols(symbols, heap, [&](const BpeSymbol& a, const BpeSymbol& b) {
    const auto merge = merges.find({a.id, b.id});
    return merge == merges.end() ? BpeJoin{} : BpeJoin{true, merge->second.first, merge->second.second};
  });
  std::vector<int32_t> out;
  for (const BpeSymbol& symbol : symbols) {
    if (symbol.num_bytes != 0) out.push_back(symbol.id);
  }
  return out;
}

TEST(BpeMerge, EqualsTheDefinitionOnRandomMerges) {
  Rng rng(7);
  for (int trial = 0; trial < 300; ++trial) {
    const auto num_letters = static_cast<int32_t>(1 + rng.Below(4));
    Merges merges;
    int32_t next_id = num_letters;
    for (uint32_t rank = 0; rank < 30; ++rank) {
      const std::pair pair{static_cast<int32_t>(rng.Below(static_cast<uint64_t>(next_id))),
                           static_cast<int32_t>(rng.Below(static_cast<uint64_t>(next_id)))};
      if (merges.try_emplace(pair, rank, next_id).second) ++next_id;
    }
    std::vector<int32_t> ids(rng.Below(60));
    for (int32_t& id : ids) id = static_cast<int32_t>(rng.Below(static_cast<uint64_t>(num_letters)));
    ASSERT_EQ(Merged(ids, merges), Naive(ids, merges)) << "trial " << trial;
  }
}

TEST(BpeMerge, EqualRanksJoinFromTheLeft) {
  const Merges merges = {{{0, 0}, {0, 1}}};
  EXPECT_EQ(Merged({0, 0, 0}, merges), (std::vector<int32_t>{1, 0}));
  EXPECT_EQ(Merged({0, 0, 0, 0, 0}, merges), (std::vector<int32_t>{1, 1, 0}));
}

TEST(BpeMerge, ShortInputs) {
  const Merges merges = {{{0, 0}, {0, 1}}};
  EXPECT_TRUE(Merged({}, merges).empty());
  EXPECT_EQ(Merged({0}, merges), (std::vector<int32_t>{0}));
}

}  // namespace
}  // namespace cachette
