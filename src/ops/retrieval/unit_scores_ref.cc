#include <algorithm>
#include <bit>
#include <cmath>

#include "base/half.h"
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

constexpr float kMaxF16 = 65504.0f;

F16 Nearest(float x) { return static_cast<F16>(std::clamp(x, -kMaxF16, kMaxF16)); }
F16 NextBelow(F16 x) {
  const auto bits = std::bit_cast<uint16_t>(x);
  if ((bits & 0x7fff) == 0) return std::bit_cast<F16>(uint16_t{0x8001});
  return std::bit_cast<F16>(static_cast<uint16_t>((bits & 0x8000) != 0 ? bits + 1 : bits - 1));
}
F16 RoundDown(float x) {
  const F16 nearest = Nearest(x);
  return static_cast<float>(nearest) > x && static_cast<float>(nearest) > -kMaxF16 ? NextBelow(nearest) : nearest;
}

void NarrowRef(const float* x, int count, Narrowing narrowing, uint16_t* bits) {
  for (int i = 0; i < count; ++i) {
    const F16 narrow = narrowing == Narrowing::kNearest ? Nearest(x[i])
                       : narrowing == Narrowing::kDown  ? RoundDown(x[i])
                                                        : -RoundDown(-x[i]);
    bits[i] = std::bit_cast<uint16_t>(narrow);
  }
}

}  // namespace

template <>
UnitScoreKernels UnitScoreKernelsOf<Isa::kRef>() {
  return {ScoreRef, ReduceRef, NarrowRef};
}

}  // namespace cachette::ops
