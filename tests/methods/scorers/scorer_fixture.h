#pragma once
// One layer's entries and last queries, as a scorer is shown them.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cache/sequence_cache.h"
#include "methods/part.h"

namespace cachette {

class ScorerFixture {
 public:
  // keys [num_tokens][num_kv_heads][head_dim]. The whole prompt is one pass, still open as during AfterAttention.
  ScorerFixture(int num_kv_heads, int head_dim, const std::vector<float>& keys, bool has_scores = false)
      : cache_(tier_, {.num_layers = 1,
                       .num_kv_heads = num_kv_heads,
                       .format = {Dtype::kF32, head_dim},
                       .has_scores = has_scores}) {
    const int64_t width = static_cast<int64_t>(num_kv_heads) * head_dim;
    num_tokens_ = static_cast<int64_t>(keys.size()) / width;
    CACHETTE_CHECK(cache_.BeginPass({.num_tokens = num_tokens_, .is_last_prefill_chunk = true}).ok());
    CACHETTE_CHECK(cache_.Append(cx_, 0, keys.data(), width, keys.data(), width).ok());
  }

  // The last rows of q [num_rows][num_kv_heads * group_size][head_dim] belong to the last tokens; scale 1.
  LayerQueries Queries(const std::vector<float>& q, int group_size) const {
    const CacheShape& shape = cache_.shape();
    const int64_t stride = static_cast<int64_t>(shape.num_kv_heads) * group_size * shape.format.head_dim;
    return {.layer = 0,
            .q = q.data(),
            .q_stride = stride,
            .num_rows = static_cast<int64_t>(q.size()) / stride,
            .group_size = group_size,
            .attention_window = attention_window};
  }

  // Of every live entry from first on, by all the rows of q.
  std::vector<std::vector<float>> Score(const Scorer& scorer, const std::vector<float>& q, int group_size,
                                        int64_t first = 0) {
    std::vector<std::vector<int64_t>> slots(static_cast<size_t>(cache_.shape().num_kv_heads));
    std::vector<std::vector<float>> scores(slots.size());
    for (size_t head = 0; head < slots.size(); ++head) {
      const HeadStream& stream = cache_.stream(0, static_cast<int>(head));
      for (int64_t slot = 0; slot < stream.num_slots(); ++slot)
        if (stream.IsLive(slot) && stream.positions()[static_cast<size_t>(slot)] >= first) slots[head].push_back(slot);
      scores[head].resize(slots[head].size());
    }
    const LayerQueries queries = Queries(q, group_size);
    std::vector<int32_t> positions;
    for (int64_t i = 0; i < queries.num_rows; ++i)
      positions.push_back(static_cast<int32_t>(num_tokens_ - queries.num_rows + i));
    scorer.Score(cx_, {cache_, 0, slots, queries, positions}, scores);
    return scores;
  }

  Context& cx() { return cx_; }
  SequenceCache& cache() { return cache_; }

  int32_t attention_window = 0;  // the model's own

 private:
  Context cx_{AllBackends()[0], 1};
  Tier tier_{TierKind::kHost};
  SequenceCache cache_;
  int64_t num_tokens_ = 0;
};

// A vector of head_dim zeros but for one element.
inline std::vector<float> Axis(int head_dim, int which, float value = 1.0f) {
  std::vector<float> x(static_cast<size_t>(head_dim), 0.0f);
  x[static_cast<size_t>(which)] = value;
  return x;
}

inline std::vector<float> Join(const std::vector<std::vector<float>>& parts) {
  std::vector<float> joined;
  for (const std::vector<float>& part : parts) joined.insert(joined.end(), part.begin(), part.end());
  return joined;
}

}  // namespace cachette
