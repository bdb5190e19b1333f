#include "methods/selects/top_chunks.h"

#include <fmt/format.h>

#include <algorithm>

namespace cachette {
namespace {

// Neighbouring unprotected ranks of one stretch of text.
struct Run {
  RankRange ranks;
  double mean_score;
};

}  // namespace

void TopChunks::VisitOptions(OptionVisitor& v) {
  v(chunk_tokens, "chunk_tokens", "neighbouring tokens that stay or go together");
  v(reuse_layers, "reuse_layers", "consecutive layers that share one choice, 1: none");
}

Result<void> TopChunks::Prepare(const CacheShape&) {
  if (chunk_tokens < 1 || reuse_layers < 1)
    return Fail(
        Error::kInvalidArgument,
        fmt::format("select.chunk_tokens {} and select.reuse_layers {} must be 1 or more", chunk_tokens, reuse_layers));
  return Ok();
}

std::vector<RankRange> TopChunks::Losers(std::span<const float> scores, std::span<const int32_t> positions,
                                         int64_t num_kept, std::span<const RankRange> protected_ranges) const {
  const auto num_entries = static_cast<int64_t>(positions.size());
  std::vector<Run> runs;
  int64_t num_protected = 0, next_protected = 0;
  const auto is_protected = [&](int64_t rank) {
    while (next_protected < static_cast<int64_t>(protected_ranges.size()) &&
           rank >= protected_ranges[static_cast<size_t>(next_protected)].end)
      ++next_protected;
    return next_protected < static_cast<int64_t>(protected_ranges.size()) &&
           rank >= protected_ranges[static_cast<size_t>(next_protected)].begin;
  };
  for (int64_t rank = 0; rank < num_entries; ++rank) {
    if (is_protected(rank)) {
      ++num_protected;
      continue;
    }
    const int64_t chunk = positions[static_cast<size_t>(rank)] / chunk_tokens;
    const bool continues = !runs.empty() && runs.back().ranks.end == rank &&
                           positions[static_cast<size_t>(rank - 1)] / chunk_tokens == chunk;
    if (!continues) runs.push_back({{rank, rank}, 0.0});
    runs.back().mean_score += static_cast<double>(scores[static_cast<size_t>(rank)]);
    ++runs.back().ranks.end;
  }
  for (Run& run : runs) run.mean_score /= static_cast<double>(run.ranks.end - run.ranks.begin);
  // Ties: the newer run stays.
  std::sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) {
    return a.mean_score != b.mean_score ? a.mean_score > b.mean_score : a.ranks.begin > b.ranks.begin;
  });
  int64_t room = num_kept - num_protected;
  std::vector<RankRange> losers;
  for (const Run& run : runs) {
    const int64_t size = run.ranks.end - run.ranks.begin;
    if (size <= room) {
      room -= size;
    } else {
      room = 0;  // no worse run slips in
      losers.push_back(run.ranks);
    }
  }
  std::sort(losers.begin(), losers.end(), [](const RankRange& a, const RankRange& b) { return a.begin < b.begin; });
  return losers;
}

}  // namespace cachette
