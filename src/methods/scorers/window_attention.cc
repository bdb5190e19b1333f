#include "methods/scorers/window_attention.h"

#include <fmt/format.h>

#include <algorithm>

#include "methods/scorers/query_sums.h"

namespace cachette {

void WindowAttention::VisitOptions(OptionVisitor& v) {
  v(window, "window", "last queries that score, their entries are kept");
  v(pool, "pool", "smoothing over neighbours: none, avg or max");
  v(pool_width, "pool_width", "entries that are smoothed together, odd");
  v(reduce, "reduce", "how the query heads of a KV head become one score: mean or max");
  v(pools_reduced, "pools_reduced", "smooth after the query heads are reduced instead of before");
  v(shares_heads, "shares_heads", "one score for all KV heads of a layer: their sum");
}

Result<void> WindowAttention::Prepare(const CacheShape&) {
  if (window < 1) return Fail(Error::kInvalidArgument, fmt::format("scorer.window {} must be 1 or more", window));
  CACHETTE_TRY(CheckPoolWidth(pool_width));
  if (reduce != "mean" && reduce != "max")
    return Fail(Error::kInvalidArgument, fmt::format("option scorer.reduce: '{}' is neither mean nor max", reduce));
  CACHETTE_TRY(pool_kind_, ParsePool(pool));
  return Ok();
}

// sums [group_size][num_slots] -> one score for each of slots.
std::vector<float> WindowAttention::ScoreOfGroup(std::span<const float> sums, int64_t num_slots,
                                                 std::span<const int64_t> slots) const {
  const auto group_size = static_cast<int64_t>(sums.size()) / std::max<int64_t>(num_slots, 1);
  std::vector<float> reduced(slots.size(), 0.0f);
  for (int64_t g = 0; g < group_size; ++g) {
    std::vector<float> own(slots.size());
    for (size_t i = 0; i < slots.size(); ++i) own[i] = sums[static_cast<size_t>(g * num_slots + slots[i])];
    if (!pools_reduced) own = Pool(own, pool_kind_, pool_width);
    for (size_t i = 0; i < slots.size(); ++i)
      reduced[i] =
          reduce == "max" ? std::max(reduced[i], own[i]) : reduced[i] + own[i] / static_cast<float>(group_size);
  }
  return pools_reduced ? Pool(reduced, pool_kind_, pool_width) : reduced;
}

void WindowAttention::Score(Context& cx, const LayerView& view, std::span<std::vector<float>> scores) const {
  const auto sums = QuerySums(cx, view);
  for (size_t head = 0; head < scores.size(); ++head) {
    const HeadStream& stream = view.cache.stream(view.layer, static_cast<int>(head));
    // The window's own entries are kept by rule and take no part in the smoothing.
    std::vector<int64_t> ranked = view.slots[head];
    while (!ranked.empty() && stream.positions()[static_cast<size_t>(ranked.back())] >= view.positions.front())
      ranked.pop_back();
    std::vector<float> own = ScoreOfGroup(sums[head], stream.num_slots(), ranked);
    std::copy(own.begin(), own.end(), scores[head].begin());
  }
  if (!shares_heads) return;
  for (size_t head = 1; head < scores.size(); ++head) {
    CACHETTE_CHECK(scores[head].size() == scores[0].size());
    for (size_t i = 0; i < scores[0].size(); ++i) scores[0][i] += scores[head][i];
  }
  for (size_t head = 1; head < scores.size(); ++head) scores[head] = scores[0];
}

}  // namespace cachette
