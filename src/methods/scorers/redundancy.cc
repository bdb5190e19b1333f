#include "methods/scorers/redundancy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "methods/scorers/pooling.h"
#include "methods/scorers/query_sums.h"
#include "ops/attention/key_cosines.h"

namespace cachette {

void Redundancy::VisitOptions(OptionVisitor& v) {
  v(window, "window", "last queries that score, their entries are kept");
  v(pool_width, "pool_width", "entries whose importance is max-pooled together, odd");
  v(importance_share, "importance_share", "weight of attention against redundancy, in [0, 1] (lambda)");
  v(similar, "similar", "cosine above which two keys are near-duplicates");
}

Result<void> Redundancy::Prepare(const CacheShape&) {
  if (window < 1) return Fail(Error::kInvalidArgument, fmt::format("scorer.window {} must be 1 or more", window));
  CACHETTE_TRY(CheckPoolWidth(pool_width));
  if (!(importance_share >= 0.0 && importance_share <= 1.0))
    return Fail(Error::kInvalidArgument, fmt::format("scorer.importance_share {} must be in [0, 1]", importance_share));
  if (!(similar >= -1.0 && similar <= 1.0))
    return Fail(Error::kInvalidArgument, fmt::format("scorer.similar {} must be in [-1, 1]", similar));
  return Ok();
}

std::vector<float> Redundancy::RedundancyOf(Context& cx, const HeadStream& stream,
                                            std::span<const int64_t> slots) const {
  const auto count = static_cast<int64_t>(slots.size());
  std::vector<double> sums(slots.size(), 0.0);
  ops::KeyCosines(cx, stream.Row(), slots, [&](int64_t row, std::span<float> cosines) {
    cosines[static_cast<size_t>(row)] = 0.0f;
    for (int64_t j = count; j-- > 0;)
      if (cosines[static_cast<size_t>(j)] > similar) {
        cosines[static_cast<size_t>(j)] = 0.0f;
        break;
      }
    for (size_t j = 0; j < slots.size(); ++j) sums[j] += static_cast<double>(cosines[j]);
  });
  std::vector<float> redundancy(slots.size());
  double denominator = 0.0;
  for (const double sum : sums) denominator += std::exp(sum / static_cast<double>(count));
  for (size_t j = 0; j < slots.size(); ++j)
    redundancy[j] = static_cast<float>(std::exp(sums[j] / static_cast<double>(count)) / denominator);
  return redundancy;
}

void Redundancy::Score(Context& cx, const LayerView& view, std::span<std::vector<float>> scores) const {
  const auto sums = QuerySums(cx, view, true, ops::GroupLogits::kMax);
  const auto share = static_cast<float>(importance_share);
  for (size_t head = 0; head < scores.size(); ++head) {
    const HeadStream& stream = view.cache.stream(view.layer, static_cast<int>(head));
    const std::vector<int64_t>& slots = view.slots[head];
    std::vector<float> importance;
    for (const int64_t slot : slots) {
      if (stream.positions()[static_cast<size_t>(slot)] >= view.positions.front()) break;
      importance.push_back(sums[head][static_cast<size_t>(slot)] / static_cast<float>(view.positions.size()));
    }
    importance = Pool(importance, PoolKind::kMax, pool_width);
    const std::vector<float> redundancy = RedundancyOf(cx, stream, slots);
    for (size_t i = 0; i < importance.size(); ++i)
      scores[head][i] = share * importance[i] - (1.0f - share) * redundancy[i];
  }
}

}  // namespace cachette
