#include "ops/retrieval/unit_scores.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/half.h"
#include "base/rng.h"
#include "ops/retrieval/unit_scores_kernels.h"
#include "ops/simd.h"

namespace cachette::ops {
namespace {

constexpr double kEps = 0x1p-24;  // half an ulp of f32 at 1
constexpr int64_t kUnits = kIndexBlockUnits;

struct Shape {
  UnitBound bound = UnitBound::kDot;
  GroupReduce reduce = GroupReduce::kMeanSoftmax;
  int group_size = 3;
  int head_dim = 64;
  float softcap = 0.0f;
};

struct Row {
  int64_t num_units = 0;
  std::vector<float> first, second;  // [num_units][head_dim], exact in f16
  std::vector<float> q;              // [group_size][head_dim]
  std::vector<std::byte> index;
};

float ExactInHalf(double x) { return static_cast<float>(static_cast<F16>(static_cast<float>(x))); }

Row MakeRow(Rng& rng, const Shape& s, int64_t num_units) {
  Row row{.num_units = num_units, .first = {}, .second = {}, .q = {}, .index = {}};
  row.index.resize(static_cast<size_t>(UnitIndexBytes(s.bound, num_units, s.head_dim)));
  for (int64_t i = 0; i < num_units * s.head_dim; ++i) {
    const float a = ExactInHalf(rng.Normal()), b = ExactInHalf(rng.Normal());
    row.first.push_back(s.bound == UnitBound::kBox ? std::min(a, b) : a);
    row.second.push_back(std::max(a, b));
  }
  for (int64_t u = 0; u < num_units; ++u)
    StoreUnitVectors(s.bound, s.head_dim, row.index.data(), u, row.first.data() + u * s.head_dim,
                     s.bound == UnitBound::kBox ? row.second.data() + u * s.head_dim : nullptr);
  for (int i = 0; i < s.group_size * s.head_dim; ++i) row.q.push_back(static_cast<float>(rng.Normal()));
  return row;
}

float ScaleOf(const Shape& s) { return 1.0f / std::sqrt(static_cast<float>(s.head_dim)); }

std::vector<std::vector<float>> WeightsOf(const Shape& s, const std::vector<Row>& rows, const Backend& backend,
                                          int num_threads = 1) {
  std::vector<std::vector<float>> weights;
  std::vector<UnitScoreRow> params;
  for (const Row& row : rows)
    weights.emplace_back(static_cast<size_t>((row.num_units + kUnits - 1) / kUnits * kUnits),
                         std::numeric_limits<float>::quiet_NaN());
  for (size_t r = 0; r < rows.size(); ++r)
    params.push_back({rows[r].index.data(), rows[r].num_units, rows[r].q.data(), weights[r].data()});
  Context cx(backend, num_threads);
  ScoreUnits(cx, {.rows = params,
                  .bound = s.bound,
                  .reduce = s.reduce,
                  .group_size = s.group_size,
                  .head_dim = s.head_dim,
                  .scale = ScaleOf(s),
                  .softcap = s.softcap});
  return weights;
}

// By the definition, in double; and the largest error of a score: head_dim roundings of sums of its terms' sizes (twice
// as many products with kBox), 6e-7 of the cap.
struct Expected {
  std::vector<double> weights;  // [num_units]
  double score_error = 0.0;
};

Expected Slow(const Shape& s, const Row& row) {
  Expected expected;
  const auto num_units = static_cast<size_t>(row.num_units);
  std::vector<std::vector<double>> scores;
  for (int g = 0; g < s.group_size; ++g) {
    std::vector<double>& own = scores.emplace_back();
    for (size_t u = 0; u < num_units; ++u) {
      double sum = 0.0, size = 0.0;
      for (int d = 0; d < s.head_dim; ++d) {
        const auto q = static_cast<double>(row.q[static_cast<size_t>(g * s.head_dim + d)]);
        const size_t at = u * static_cast<size_t>(s.head_dim) + static_cast<size_t>(d);
        double term = q * static_cast<double>(row.first[at]);
        if (s.bound == UnitBound::kBox) term = std::max(term, q * static_cast<double>(row.second[at]));
        sum += term;
        size += std::abs(term);
      }
      const double scale = static_cast<double>(ScaleOf(s)), cap = static_cast<double>(s.softcap);
      own.push_back(cap > 0.0 ? cap * std::tanh(sum * scale / cap) : sum * scale);
      expected.score_error = std::max(expected.score_error, size * scale * (2 * s.head_dim + 4) * kEps + 6e-7 * cap);
    }
  }
  expected.weights.assign(num_units, 0.0);
  for (int g = 0; g < s.group_size && s.reduce == GroupReduce::kMeanSoftmax; ++g) {
    double denominator = 0.0;
    for (const double score : scores[static_cast<size_t>(g)]) denominator += std::exp(score);
    for (size_t u = 0; u < num_units; ++u)
      expected.weights[u] += std::exp(scores[static_cast<size_t>(g)][u]) / denominator / s.group_size;
  }
  for (size_t u = 0; u < num_units && s.reduce != GroupReduce::kMeanSoftmax; ++u) {
    double max = scores[0][u], sum = 0.0;
    for (const std::vector<double>& own : scores) {
      max = std::max(max, own[u]);
      sum += own[u];
    }
    expected.weights[u] = s.reduce == GroupReduce::kMax ? max : sum / s.group_size;
  }
  return expected;
}

const std::vector<Shape>& Shapes() {
  static const std::vector<Shape> shapes = {
      {},
      {.group_size = 1, .head_dim = 8},
      {.reduce = GroupReduce::kMean, .group_size = 9, .head_dim = 72},
      {.reduce = GroupReduce::kMax, .group_size = 16, .head_dim = 256},
      {.bound = UnitBound::kBox, .reduce = GroupReduce::kMax, .group_size = 4},
      {.bound = UnitBound::kBox, .reduce = GroupReduce::kMean, .group_size = 7, .head_dim = 24},
      {.bound = UnitBound::kBox, .group_size = 2, .head_dim = 128, .softcap = 3.0f},
      {.group_size = 5, .head_dim = 40, .softcap = 2.0f}};
  return shapes;
}

TEST(UnitScores, AgreeWithTheDefinitionOnEveryBackend) {
  for (const Shape& s : Shapes()) {
    Rng rng(3);
    std::vector<Row> rows;
    for (const int64_t num_units : {0, 1, 15, 16, 17, 64, 67, 0, 513, 0}) rows.push_back(MakeRow(rng, s, num_units));
    for (const Backend& backend : AllBackends()) {
      if (!backend.is_supported) continue;
      const auto weights = WeightsOf(s, rows, backend);
      for (size_t r = 0; r < rows.size(); ++r) {
        const Expected expected = Slow(s, rows[r]);
        // A softmax weight is at most 1 and off by twice its score's error and that of its exponential and its sum.
        const double tolerance = s.reduce == GroupReduce::kMeanSoftmax
                                     ? 2.0 * expected.score_error + 4e-7 + static_cast<double>(rows[r].num_units) * kEps
                                     : expected.score_error + s.group_size * kEps;
        for (size_t u = 0; u < weights[r].size(); ++u) {
          if (u < expected.weights.size())
            ASSERT_NEAR(static_cast<double>(weights[r][u]), expected.weights[u], tolerance)
                << backend.name << " head_dim " << s.head_dim << " units " << rows[r].num_units << " unit " << u;
          else
            ASSERT_EQ(weights[r][u], 0.0f) << backend.name << " lane past the end";
        }
      }
    }
  }
}

TEST(UnitScores, DoNotDependOnThreadsOrOtherRows) {
  for (const Shape& s : Shapes()) {
    Rng rng(4);
    std::vector<Row> rows;
    for (const int64_t num_units : {1200, 40, 2049}) rows.push_back(MakeRow(rng, s, num_units));
    for (const Backend& backend : AllBackends()) {
      if (!backend.is_supported || backend.isa == Isa::kRef) continue;
      const auto together = WeightsOf(s, rows, backend, 4);
      EXPECT_EQ(together, WeightsOf(s, rows, backend, 1)) << backend.name;
      EXPECT_EQ(together[1], WeightsOf(s, {rows[1]}, backend, 1)[0]) << backend.name;
    }
  }
}

TEST(UnitScores, SoftmaxSurvivesScoresOfAnySize) {
  Rng rng(8);
  const Shape s{.group_size = 2};
  Row row = MakeRow(rng, s, 33);
  for (float& q : row.q) q *= 1e4f;
  for (const Backend& backend : AllBackends()) {
    if (!backend.is_supported) continue;
    double sum = 0.0;
    const auto weights = WeightsOf(s, {row}, backend);
    for (const float weight : weights[0]) sum += static_cast<double>(weight);
    EXPECT_NEAR(sum, 1.0, 1e-5) << backend.name;
  }
}

TEST(UnitScores, AllBackendsNarrowAlike) {
  const std::vector<float> x = {0.0f, -0.0f, 1e-9f,      -1e-9f,     0.1f,        -0.1f,    65504.0f, 65519.0f,
                                7e4f, -7e4f, 1.0004883f, 1.0009766f, -1.0004883f, 5.96e-8f, 2.98e-8f, -3e-6f};
  const auto count = static_cast<int>(x.size());
  for (const Narrowing narrowing : {Narrowing::kNearest, Narrowing::kDown, Narrowing::kUp}) {
    std::vector<uint16_t> expected(x.size()), bits(x.size());
    UnitScoreKernelsOf<Isa::kRef>().narrow(x.data(), count, narrowing, expected.data());
    for (const Backend& backend : AllBackends()) {
      if (!backend.is_supported) continue;
      ForIsa(backend.isa, []<Isa kIsa>() {
        return UnitScoreKernelsOf<kIsa>();
      }).narrow(x.data(), count, narrowing, bits.data());
      EXPECT_EQ(bits, expected) << backend.name;
    }
  }
}

// What one unit's vectors became: by scoring with unit vectors, which picks a channel.
TEST(UnitScores, ABoxOnlyGrowsWhenItIsStored) {
  const int head_dim = 8;
  const std::vector<float> lo = {0.1f, -0.1f, 0.0f, 1e-9f, -1e-9f, -70000.0f, 65519.0f, 2049.0f};
  const std::vector<float> hi = {0.1f, -0.1f, 0.0f, 1e-9f, -1e-9f, 70000.0f, 65530.0f, 2049.0f};
  std::vector<std::byte> index(static_cast<size_t>(UnitIndexBytes(UnitBound::kBox, 16, head_dim)));
  StoreUnitVectors(UnitBound::kBox, head_dim, index.data(), 5, lo.data(), hi.data());
  const auto bound_of = [&](int channel, float q_value) {
    std::vector<float> q(static_cast<size_t>(head_dim)), weights(16);
    q[static_cast<size_t>(channel)] = q_value;
    const UnitScoreRow row{index.data(), 6, q.data(), weights.data()};
    Context cx(*FindBackend("ref"), 1);
    ScoreUnits(cx, {.rows = std::span(&row, 1),
                    .bound = UnitBound::kBox,
                    .reduce = GroupReduce::kMax,
                    .group_size = 1,
                    .head_dim = head_dim});
    return weights[5];
  };
  for (int d = 0; d < head_dim; ++d) {
    const float top = bound_of(d, 1.0f), bottom = -bound_of(d, -1.0f);
    const auto i = static_cast<size_t>(d);
    EXPECT_LE(bottom, lo[i] < -65504.0f ? -65504.0f : lo[i]) << d;
    EXPECT_GE(top, hi[i] > 65504.0f ? 65504.0f : hi[i]) << d;
    // By less than one step of f16: 2^-10 of the number, 2^-24 near zero.
    if (std::abs(lo[i]) < 65000.0f) {
      EXPECT_LE(top - bottom, 2.0f * (std::abs(lo[i]) * 0x1p-10f + 0x1p-24f)) << d;
    }
  }
  EXPECT_EQ(bound_of(2, 1.0f), 0.0f);
  EXPECT_EQ(bound_of(5, 1.0f), 65504.0f);
}

}  // namespace
}  // namespace cachette::ops
