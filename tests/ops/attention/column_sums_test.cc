#include "ops/attention/column_sums.h"

#include <gtest/gtest.h>

#include <limits>

#include "ops/attention/kv_fixture.h"

namespace cachette::ops {
namespace {

using testing::BoundOf;
using testing::kEps;
using testing::Normals;
using testing::TestRow;

struct Shape {
  Dtype dtype = Dtype::kF16;
  int head_dim = 64;
  int group_size = 3;
  float softcap = 0.0f;
  bool has_holes = false;
  GroupLogits group_logits = GroupLogits::kSeparate;
};

struct Problem {
  Shape shape;
  int64_t num_queries = 0;
  std::vector<TestRow> rows;
  std::vector<std::vector<int64_t>> begins, ends;  // [rows][num_queries]
  std::vector<float> q;                            // [num_queries][rows][group_size][head_dim]
};

Problem MakeProblem(const Shape& shape, const std::vector<int64_t>& lengths, int64_t num_queries) {
  Rng rng(11);
  Problem p{shape, num_queries, {}, {}, {}, {}};
  for (const int64_t length : lengths) {
    p.rows.emplace_back(rng, shape.dtype, shape.head_dim, length);
    if (shape.has_holes) p.rows.back().PunchHoles(rng, length);
    std::vector<int64_t>& begins = p.begins.emplace_back();
    std::vector<int64_t>& ends = p.ends.emplace_back();
    for (int64_t i = 0; i < num_queries; ++i) {  // causal from some slot on; now and then nothing at all
      ends.push_back(std::max<int64_t>(0, length - num_queries + 1 + i));
      begins.push_back(rng.Below(8) == 0 ? ends.back()
                                         : static_cast<int64_t>(rng.Below(static_cast<uint64_t>(ends.back()) + 1)));
    }
  }
  p.q = Normals(
      rng, static_cast<size_t>(num_queries) * lengths.size() * static_cast<size_t>(shape.group_size * shape.head_dim));
  return p;
}

int NumOut(const Shape& shape) { return shape.group_logits == GroupLogits::kMax ? 1 : shape.group_size; }
float ScaleOf(const Shape& shape) { return 1.0f / std::sqrt(static_cast<float>(shape.head_dim)); }

std::vector<std::vector<float>> SumsOf(const Problem& p, const Backend& backend, int num_threads = 1) {
  const Shape& s = p.shape;
  std::vector<std::vector<float>> sums;
  std::vector<ColumnSumRow> rows;
  for (size_t r = 0; r < p.rows.size(); ++r)
    sums.emplace_back(static_cast<size_t>(NumOut(s) * p.rows[r].View().num_slots),
                      std::numeric_limits<float>::quiet_NaN());
  for (size_t r = 0; r < p.rows.size(); ++r)
    rows.push_back({p.rows[r].View(), p.q.data() + static_cast<int64_t>(r) * s.group_size * s.head_dim,
                    p.begins[r].data(), p.ends[r].data(), sums[r].data()});
  Context cx(backend, num_threads);
  ColumnSums(cx, {.rows = rows,
                  .num_queries = p.num_queries,
                  .q_stride = static_cast<int64_t>(p.rows.size()) * s.group_size * s.head_dim,
                  .group_size = s.group_size,
                  .head_dim = s.head_dim,
                  .scale = ScaleOf(s),
                  .softcap = s.softcap,
                  .group_logits = s.group_logits});
  return sums;
}

// By the definition, in double.
std::vector<std::vector<double>> Slow(const Problem& p) {
  const Shape& s = p.shape;
  std::vector<std::vector<double>> sums;
  std::vector<float> key(static_cast<size_t>(s.head_dim));
  for (size_t r = 0; r < p.rows.size(); ++r) {
    const KvRow kv = p.rows[r].View();
    std::vector<double>& own = sums.emplace_back(static_cast<size_t>(NumOut(s) * kv.num_slots), 0.0);
    for (int64_t i = 0; i < p.num_queries; ++i) {
      std::vector<std::vector<double>> logits(static_cast<size_t>(s.group_size));
      std::vector<int64_t> slots;
      for (int64_t slot = p.begins[r][static_cast<size_t>(i)]; slot < p.ends[r][static_cast<size_t>(i)]; ++slot) {
        if (kv.live_masks != nullptr && ((kv.live_masks[slot / kBlockTokens] >> (slot % kBlockTokens)) & 1) == 0)
          continue;
        slots.push_back(slot);
        LoadEntry(kv.format, kv.blocks, slot, key.data(), nullptr);
        for (int g = 0; g < s.group_size; ++g) {
          const float* q =
              p.q.data() +
              ((i * static_cast<int64_t>(p.rows.size()) + static_cast<int64_t>(r)) * s.group_size + g) * s.head_dim;
          double dot = 0.0;
          for (int d = 0; d < s.head_dim; ++d)
            dot += static_cast<double>(q[d]) * static_cast<double>(key[static_cast<size_t>(d)]);
          dot *= static_cast<double>(ScaleOf(s));
          const double cap = static_cast<double>(s.softcap);
          logits[static_cast<size_t>(g)].push_back(cap > 0 ? cap * std::tanh(dot / cap) : dot);
        }
      }
      if (s.group_logits == GroupLogits::kMax)
        for (size_t j = 0; j < slots.size(); ++j)
          for (size_t g = 1; g < logits.size(); ++g) logits[0][j] = std::max(logits[0][j], logits[g][j]);
      for (int g = 0; g < NumOut(s); ++g) {
        double denominator = 0.0;
        for (const double logit : logits[static_cast<size_t>(g)]) denominator += std::exp(logit);
        for (size_t j = 0; j < slots.size(); ++j)
          own[static_cast<size_t>(g * kv.num_slots + slots[j])] +=
              std::exp(logits[static_cast<size_t>(g)][j]) / denominator;
      }
    }
  }
  return sums;
}

// A logit is off by at most head_dim roundings of its terms (and 6e-7 of the cap), a weight relatively by twice that
// plus its exponential's 1.7e-7; a sum of num_queries weights of at most 1 by as much each.
double ToleranceOf(const Problem& p) {
  const double logit = BoundOf(p.q, p.shape.head_dim, ScaleOf(p.shape)).logit;
  const double product = logit * (p.shape.head_dim + 4) * kEps + 6e-7 * static_cast<double>(p.shape.softcap);
  return static_cast<double>(p.num_queries) * (2.0 * product + 2e-7) + static_cast<double>(p.num_queries) * kEps;
}

void ExpectNear(const Problem& p, const std::vector<std::vector<float>>& sums,
                const std::vector<std::vector<double>>& slow) {
  for (size_t r = 0; r < sums.size(); ++r)
    for (size_t j = 0; j < sums[r].size(); ++j)
      ASSERT_NEAR(static_cast<double>(sums[r][j]), slow[r][j], ToleranceOf(p)) << "row " << r << " value " << j;
}

TEST(ColumnSums, AgreeWithTheDefinitionOnEveryBackend) {
  const std::vector<Shape> shapes = {
      {},
      {.dtype = Dtype::kF32, .head_dim = 8, .group_size = 1},
      {.dtype = Dtype::kBF16, .head_dim = 72, .group_size = 9},
      {.head_dim = 256, .group_size = 2, .softcap = 3.0f},
      {.has_holes = true},
      {.group_logits = GroupLogits::kMax},
      {.group_size = 4, .softcap = 2.0f, .has_holes = true, .group_logits = GroupLogits::kMax}};
  for (const Shape& shape : shapes)
    for (const int64_t num_queries : {1, 13, 70}) {
      const Problem p = MakeProblem(shape, {1, 15, 17, 64, 65, 131}, num_queries);
      const auto slow = Slow(p);
      for (const Backend& backend : AllBackends()) {
        if (!backend.is_supported) continue;
        SCOPED_TRACE(std::string(backend.name) + " head_dim " + std::to_string(shape.head_dim) + " queries " +
                     std::to_string(num_queries));
        ExpectNear(p, SumsOf(p, backend), slow);
      }
    }
}

TEST(ColumnSums, DoNotDependOnTheNumberOfThreads) {
  const Problem p = MakeProblem({}, {500, 90, 256}, 100);
  for (const Backend& backend : AllBackends())
    if (backend.is_supported) {
      EXPECT_EQ(SumsOf(p, backend, 1), SumsOf(p, backend, 4)) << backend.name;
    }
}

TEST(ColumnSums, EveryQueryThatSeesSomethingHandsOutOneWhole) {
  const Problem p = MakeProblem({.group_size = 2}, {200}, 33);
  int64_t num_seeing = 0;
  for (size_t i = 0; i < 33; ++i) num_seeing += p.begins[0][i] < p.ends[0][i];
  ASSERT_GT(num_seeing, 0);
  ASSERT_LT(num_seeing, 33);
  const auto sums = SumsOf(p, AllBackends()[0]);
  double total = 0.0;
  for (const float sum : sums[0]) total += static_cast<double>(sum);
  EXPECT_NEAR(total, 2.0 * static_cast<double>(num_seeing), 1e-4);
}

TEST(ColumnSums, NoQueriesGiveZeros) {
  const Problem p = MakeProblem({}, {20}, 0);
  const auto sums = SumsOf(p, AllBackends()[0]);
  for (const float sum : sums[0]) EXPECT_EQ(sum, 0.0f);
}

}  // namespace
}  // namespace cachette::ops
