#include "methods/scorers/accumulated_attention.h"

#include "methods/scorers/query_sums.h"

namespace cachette {

void AccumulatedAttention::Accumulate(Context& cx, SequenceCache& cache, const LayerQueries& queries) const {
  const auto num_heads = static_cast<size_t>(cache.shape().num_kv_heads);
  const std::vector<int64_t> begin_slots(num_heads, 0);
  // The pass's own entries are the last of every head.
  const std::span<const int32_t> positions =
      cache.stream(queries.layer, 0).positions().last(static_cast<size_t>(queries.num_rows));
  const auto sums = QuerySums(
      cx, cache, {.layer = queries.layer, .queries = queries, .positions = positions, .begin_slots = begin_slots});
  for (size_t head = 0; head < num_heads; ++head) {
    const std::span<float> running = cache.stream(queries.layer, static_cast<int>(head)).scores();
    for (size_t i = 0; i < sums[head].size(); ++i) running[i % running.size()] += sums[head][i];
  }
}

void AccumulatedAttention::Score(Context&, const LayerView& view, std::span<std::vector<float>> scores) const {
  for (size_t head = 0; head < scores.size(); ++head) {
    const HeadStream& stream = view.cache.stream(view.layer, static_cast<int>(head));
    for (size_t i = 0; i < scores[head].size(); ++i) {
      const auto slot = static_cast<size_t>(view.slots[head][i]);
      scores[head][i] = stream.scores()[slot];
      if (normalise) scores[head][i] /= static_cast<float>(view.cache.num_tokens() - stream.positions()[slot]);
    }
  }
}

}  // namespace cachette
