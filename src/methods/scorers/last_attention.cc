#include "methods/scorers/last_attention.h"

#include <algorithm>

#include "methods/scorers/query_sums.h"

namespace cachette {

void LastAttention::Score(Context& cx, const LayerView& view, std::span<std::vector<float>> scores) const {
  const auto sums = QuerySums(cx, view);
  std::vector<float> total(scores[0].size(), 0.0f);
  for (size_t head = 0; head < scores.size(); ++head) {
    CACHETTE_CHECK(scores[head].size() == total.size());
    const auto num_slots = static_cast<size_t>(view.cache.stream(view.layer, static_cast<int>(head)).num_slots());
    for (size_t g = 0; g * num_slots < sums[head].size(); ++g)
      for (size_t i = 0; i < total.size(); ++i)
        total[i] += sums[head][g * num_slots + static_cast<size_t>(view.slots[head][i])];
  }
  for (std::vector<float>& own : scores) own = total;
}

}  // namespace cachette
