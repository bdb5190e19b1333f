#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ops/retrieval/kmeans_kernels.h"

namespace cachette::ops {
namespace {

void PackRef(const KeyPack& pack) {
  for (int i = 0; i < kKeyTile; ++i) {
    double squares = 0.0;
    const float* key = i < pack.num_keys ? pack.keys + static_cast<int64_t>(pack.order[i]) * pack.head_dim : nullptr;
    for (int d = 0; key != nullptr && d < pack.head_dim; ++d)
      squares += static_cast<double>(key[d]) * static_cast<double>(key[d]);
    const double inverse = squares > 0.0 ? 1.0 / std::sqrt(squares) : 0.0;
    for (int d = 0; d < pack.head_dim; ++d)
      pack.tile[d * kKeyTile + i] = key == nullptr ? 0.0f : static_cast<float>(static_cast<double>(key[d]) * inverse);
  }
}

void ScoreRef(const KeyScores& scores) {
  for (int c = 0; c < scores.num_centroids; ++c)
    for (int i = 0; i < kKeyTile; ++i) {
      double dot = 0.0;
      for (int d = 0; d < scores.head_dim; ++d)
        dot += static_cast<double>(scores.centroids[static_cast<int64_t>(c) * scores.head_dim + d]) *
               static_cast<double>(scores.tile[d * kKeyTile + i]);
      scores.scores[static_cast<int64_t>(c) * kKeyTile + i] = static_cast<float>(dot);
    }
}

void PickRef(const CentroidPick& pick) {
  for (int i = 0; i < kKeyTile; ++i) {
    float best = -std::numeric_limits<float>::infinity(), second = best;
    pick.labels[i] = 0;
    for (int c = 0; c < pick.num_centroids; ++c) {
      const float value = pick.scores[static_cast<int64_t>(c) * kKeyTile + i] - pick.prices[c];
      if (value > best) {
        second = best;
        best = value;
        pick.labels[i] = c;
      } else if (value > second) {
        second = value;
      }
    }
    pick.margins[i] = best - second;
  }
}

void AddKeysRef(const KeySums& s) {
  for (int64_t i = 0; i < s.num_keys; ++i)
    for (int d = 0; d < s.head_dim; ++d)
      s.sums[int64_t{s.labels[i]} * s.head_dim + d] += s.keys[int64_t{s.order[i]} * s.head_dim + d];
}

void NormaliseRef(const float* x, int head_dim, float* unit) {
  double squares = 0.0;
  for (int d = 0; d < head_dim; ++d) squares += static_cast<double>(x[d]) * static_cast<double>(x[d]);
  const auto inverse = static_cast<float>(squares > 0.0 ? 1.0 / std::sqrt(squares) : 0.0);
  for (int d = 0; d < head_dim; ++d) unit[d] = x[d] * inverse;
}

int32_t ExchangeRef(const KeyExchange& e) {
  float best_gain = e.least_gain;
  int32_t best = -1;
  for (int i = 0; i < e.num_tiles * kKeyTile; ++i) {
    const float own_score = e.scores[(int64_t{i / kKeyTile} * e.num_centroids + e.own) * kKeyTile + i % kKeyTile];
    const float gain = e.key_scores[e.labels[i]] - e.key_scores[e.own] + own_score - e.own_scores[i];
    if (gain > best_gain) {
      best_gain = gain;
      best = i;
    }
  }
  return best;
}

float SelectRef(const float* x, int count, int rank) {
  std::vector<float> sorted(x, x + count);
  std::sort(sorted.begin(), sorted.end());
  return sorted[static_cast<size_t>(rank)];
}

}  // namespace

template <>
KMeansKernels KMeansKernelsOf<Isa::kRef>() {
  return {PackRef, ScoreRef, PickRef, AddKeysRef, NormaliseRef, ExchangeRef, SelectRef};
}

}  // namespace cachette::ops
