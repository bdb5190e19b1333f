#include "methods/scorers/pooling.h"

#include <fmt/format.h>

#include <algorithm>

namespace cachette {

Result<PoolKind> ParsePool(const std::string& name) {
  if (name == "none") return PoolKind::kNone;
  if (name == "avg") return PoolKind::kAverage;
  if (name == "max") return PoolKind::kMax;
  return Fail(Error::kInvalidArgument, fmt::format("option scorer.pool: '{}' is none of none, avg and max", name));
}

Result<void> CheckPoolWidth(int64_t width) {
  if (width >= 1 && width % 2 == 1) return Ok();
  return Fail(Error::kInvalidArgument, fmt::format("scorer.pool_width {} must be odd and 1 or more", width));
}

std::vector<float> Pool(std::span<const float> scores, PoolKind kind, int64_t width) {
  std::vector<float> pooled(scores.begin(), scores.end());
  if (kind == PoolKind::kNone || width == 1) return pooled;
  const auto count = static_cast<int64_t>(scores.size());
  const int64_t half = width / 2;
  for (int64_t i = 0; i < count; ++i) {
    const auto first = scores.begin() + std::max<int64_t>(0, i - half);
    const auto last = scores.begin() + std::min(count, i + half + 1);
    float sum = 0.0f;
    for (auto it = first; it != last; ++it) sum += *it;
    pooled[static_cast<size_t>(i)] =
        kind == PoolKind::kMax ? *std::max_element(first, last) : sum / static_cast<float>(width);
  }
  return pooled;
}

}  // namespace cachette
