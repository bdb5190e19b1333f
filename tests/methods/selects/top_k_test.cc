#include "methods/selects/top_k.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "base/rng.h"

namespace cachette {
namespace {

using Ranges = std::vector<std::pair<int64_t, int64_t>>;

std::vector<RankRange> TopKLosers(std::span<const float> scores, int64_t num_entries, int64_t num_kept,
                                  std::span<const RankRange> protected_ranges) {
  const std::vector<int32_t> positions(static_cast<size_t>(num_entries));
  return TopK().Losers(scores, positions, num_kept, protected_ranges);
}

Ranges Losers(const std::vector<float>& scores, int64_t num_live, int64_t budget,
              const std::vector<RankRange>& protected_ranges) {
  Ranges losers;
  for (const RankRange& range : TopKLosers(scores, num_live, budget, protected_ranges))
    losers.emplace_back(range.begin, range.end);
  return losers;
}

// By the sentence in the header: sort all unprotected ranks, best first, and take what the budget leaves.
std::vector<bool> SlowKept(const std::vector<float>& scores, int64_t num_live, int64_t budget,
                           const std::vector<RankRange>& protected_ranges) {
  std::vector<bool> is_kept(static_cast<size_t>(num_live), false);
  for (const RankRange& range : protected_ranges)
    for (int64_t r = range.begin; r < range.end; ++r) is_kept[static_cast<size_t>(r)] = true;
  int64_t room = budget - std::count(is_kept.begin(), is_kept.end(), true);
  std::vector<int64_t> open;
  for (int64_t r = num_live - 1; r >= 0; --r)
    if (!is_kept[static_cast<size_t>(r)]) open.push_back(r);  // newest first, so a stable sort lets the newer win
  std::stable_sort(open.begin(), open.end(), [&](int64_t a, int64_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  for (const int64_t r : open)
    if (room-- > 0) is_kept[static_cast<size_t>(r)] = true;
  return is_kept;
}

TEST(TopKLosers, AgreesWithBruteForce) {
  Rng rng(7);
  for (int round = 0; round < 3000; ++round) {
    const auto num_live = static_cast<int64_t>(rng.Below(40));
    std::vector<float> scores(static_cast<size_t>(num_live));
    for (float& score : scores) score = static_cast<float>(rng.Below(5)) - 2.0f;  // many ties
    std::vector<RankRange> protected_ranges;
    int64_t num_protected = 0;
    for (auto at = static_cast<int64_t>(rng.Below(6)); at <= num_live; at += static_cast<int64_t>(1 + rng.Below(12))) {
      const int64_t end = std::min<int64_t>(num_live, at + static_cast<int64_t>(rng.Below(6)));  // empty ones included
      protected_ranges.push_back({at, end});
      num_protected += end - at;
      at = end;
    }
    const auto budget = static_cast<int64_t>(rng.Below(static_cast<uint64_t>(num_live) + 5));
    std::vector<bool> is_kept(static_cast<size_t>(num_live), true);
    int64_t last_end = -1;
    for (const RankRange& range : TopKLosers(scores, num_live, budget, protected_ranges)) {
      ASSERT_LT(range.begin, range.end);
      ASSERT_GE(range.begin, last_end) << "sorted and disjoint";
      last_end = range.end;
      for (int64_t r = range.begin; r < range.end; ++r) is_kept[static_cast<size_t>(r)] = false;
    }
    ASSERT_EQ(is_kept, SlowKept(scores, num_live, budget, protected_ranges)) << round;
    ASSERT_EQ(std::count(is_kept.begin(), is_kept.end(), true), std::min(num_live, std::max(budget, num_protected)));
  }
}

TEST(TopKLosers, TiesGoToTheNewer) {
  EXPECT_EQ(Losers({1, 1, 1, 1}, 4, 2, {}), (Ranges{{0, 2}}));
  EXPECT_EQ(Losers({1, 2, 1, 2, 1}, 5, 3, {}), (Ranges{{0, 1}, {2, 3}}));
}

TEST(TopKLosers, ProtectedEntriesStayWhateverTheirScore) {
  EXPECT_EQ(Losers({-9, 5, 4, 3, -9}, 5, 3, {{0, 1}, {4, 5}}), (Ranges{{2, 4}}));
  EXPECT_EQ(Losers({-9, 5, 4, 3, -9}, 5, 1, {{0, 1}, {4, 5}}), (Ranges{{1, 4}}));  // protected alone pass the budget
  EXPECT_EQ(Losers({1, 1, 1}, 3, 0, {{0, 3}}), Ranges{});
}

TEST(TopKLosers, NeedsNoScoresWhenOnlyTheProtectedStay) {
  EXPECT_EQ(Losers({}, 10, 0, {{0, 2}, {7, 10}}), (Ranges{{2, 7}}));
  EXPECT_EQ(Losers({}, 10, 5, {{0, 2}, {7, 10}}), (Ranges{{2, 7}}));
  EXPECT_EQ(Losers({}, 0, 0, {}), Ranges{});
  EXPECT_EQ(Losers({}, 3, 0, {}), (Ranges{{0, 3}}));
  EXPECT_EQ(Losers({}, 3, Allocator::kUnlimited, {}), Ranges{});
}

TEST(TopKLosers, NaNLosesAndInfinitiesAreOrdered) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(Losers({nan, 1, inf, nan, -1}, 5, 3, {}), (Ranges{{0, 1}, {3, 4}}));
  std::vector<float> all_nan(1000, nan);
  EXPECT_EQ(Losers(all_nan, 1000, 10, {}), (Ranges{{0, 990}}));
}

}  // namespace
}  // namespace cachette
