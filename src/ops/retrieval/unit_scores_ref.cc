#include <algorithm>
#include <cmath>

#include "ops/attention/element.h"
#include "ops/retrieval/unit_scores.h"
#include "ops/retrieval/unit_scores_kernels.h"

namespace cachette::ops {
namespace {

constexpr int kUnits = kIndexBlockUnits;

void ScoreRef(const UnitScoreBlocks& blocks) {
  const int num_vectors = NumIndexVectors(blocks.bound);
  for (int64_t unit = 0; unit < blocks.num_blocks * kUnits; ++unit) {
    const int64_t first = unit / kUnits * num_vectors * blocks.head_dim * kUnits + unit % kUnits;
    for (int g = 0; g < blocks.group_size; ++g) {
      double sum = 0.0;
      for (int d = 0; d < blocks.head_dim; ++d) {
        const auto q = static_cast<double>(blocks.q[g * blocks.head_dim + d]);
        double term = q * static_cast<double>(ElementAt(Dtype::kF16, blocks.index, first + d * kUnits));
        if (blocks.bound == UnitBound::kBox)
          term = std::max(term, q * static_cast<double>(
                                        ElementAt(Dtype::kF16, blocks.index, first + (blocks.head_dim + d) * kUnits)));
        sum += term;
      }
      const double score = sum * static_cast<double>(blocks.scale), cap = static_cast<double>(blocks.softcap);
      blocks.scores[g * blocks.stride + unit] = static_cast<float>(cap > 0.0 ? cap * std::tanh(score / cap) : score);
    }
  }
}

void ReduceRef(const UnitReduce& r) {
  const auto score = [&](int g, int64_t u) { return static_cast<double>(r.scores[g * r.stride + u]); };
  std::fill_n(r.weights, (r.num_units + kUnits - 1) / kUnits * kUnits, 0.0f);
  if (r.reduce == GroupReduce::kMeanSoftmax) {
    for (int g = 0; g < r.group_size; ++g) {
      const double max =
          static_cast<double>(*std::max_element(r.scores + g * r.stride, r.scores + g * r.stride + r.num_units));
      double denominator = 0.0;
      for (int64_t u = 0; u < r.num_units; ++u) denominator += std::exp(score(g, u) - max);
      for (int64_t u = 0; u < r.num_units; ++u)
        r.weights[u] += static_cast<float>(std::exp(score(g, u) - max) / denominator / r.group_size);
    }
    return;
  }
  for (int64_t u = 0; u < r.num_units; ++u) {
    double max = score(0, u), sum = 0.0;
    for (int g = 0; g < r.group_size; ++g) {
      max = std::max(max, score(g, u));
      sum += score(g, u);
    }
    r.weights[u] = static_cast<float>(r.reduce == GroupReduce::kMax ? max : sum / r.group_size);
  }
}

}  // namespace

template <>
UnitScoreKernels UnitScoreKernelsOf<Isa::kRef>() {
  return {ScoreRef, ReduceRef};
}

}  // namespace cachette::ops
