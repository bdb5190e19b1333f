#include "methods/selects/top_k.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace cachette {
namespace {

void AppendRank(std::vector<RankRange>& ranges, int64_t rank) {
  if (!ranges.empty() && ranges.back().end == rank) {
    ++ranges.back().end;
  } else {
    ranges.push_back({rank, rank + 1});
  }
}

}  // namespace

std::vector<RankRange> TopK::Losers(std::span<const float> scores, std::span<const int32_t> positions, int64_t num_kept,
                                    std::span<const RankRange> protected_ranges) const {
  const auto num_entries = static_cast<int64_t>(positions.size());
  std::vector<RankRange> open;  // unprotected, in order
  int64_t next = 0, num_open = 0;
  for (const RankRange& range : protected_ranges) {
    if (range.begin > next) open.push_back({next, range.begin});
    next = std::max(next, range.end);
  }
  if (next < num_entries) open.push_back({next, num_entries});
  for (const RankRange& range : open) num_open += range.end - range.begin;

  const int64_t kept = std::clamp<int64_t>(num_kept - (num_entries - num_open), 0, num_open);
  if (kept == num_open) return {};
  if (kept == 0) return open;

  CACHETTE_CHECK(static_cast<int64_t>(scores.size()) == num_entries);
  std::vector<int64_t> ranks;
  ranks.reserve(static_cast<size_t>(num_open));
  for (const RankRange& range : open)
    for (int64_t rank = range.begin; rank < range.end; ++rank) ranks.push_back(rank);
  const auto score_of = [&](int64_t rank) {
    const float score = scores[static_cast<size_t>(rank)];
    return std::isnan(score) ? -std::numeric_limits<float>::infinity() : score;  // NaN would break the strict order
  };
  const auto better = [&](int64_t a, int64_t b) {
    const float score_a = score_of(a), score_b = score_of(b);
    return score_a != score_b ? score_a > score_b : a > b;
  };
  std::nth_element(ranks.begin(), ranks.begin() + kept, ranks.end(), better);
  std::sort(ranks.begin() + kept, ranks.end());
  std::vector<RankRange> losers;
  for (auto it = ranks.begin() + kept; it != ranks.end(); ++it) AppendRank(losers, *it);
  return losers;
}

}  // namespace cachette
