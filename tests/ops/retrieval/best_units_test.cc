#include "ops/retrieval/best_units.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/rng.h"

namespace cachette::ops {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// By the definition: sort everything, take from the front.
std::vector<int32_t> Naive(const std::vector<float>& weights, const std::vector<int32_t>& sizes, int32_t uniform_size,
                           int64_t budget) {
  std::vector<int32_t> order(weights.size()), chosen;
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    const float x = weights[static_cast<size_t>(a)], y = weights[static_cast<size_t>(b)];
    if (std::isnan(x) || std::isnan(y)) return !std::isnan(x) && std::isnan(y);
    return x > y;
  });
  int64_t total = 0;
  for (const int32_t u : order) {
    if (budget <= 0) break;
    total += sizes.empty() ? uniform_size : sizes[static_cast<size_t>(u)];
    if (total > budget && !chosen.empty()) break;
    chosen.push_back(u);
  }
  return chosen;
}

void ExpectNaive(const std::vector<float>& weights, const std::vector<int32_t>& sizes, int32_t uniform_size,
                 int64_t budget) {
  std::vector<int32_t> chosen = {-7};
  const double sum = TakeBestUnits(weights, sizes, uniform_size, budget, chosen);
  ASSERT_EQ(chosen, Naive(weights, sizes, uniform_size, budget)) << weights.size() << " units, budget " << budget;
  double expected = 0.0;
  for (const int32_t u : chosen)
    if (!std::isnan(weights[static_cast<size_t>(u)])) expected += static_cast<double>(weights[static_cast<size_t>(u)]);
  if (std::isnan(expected))  // both infinities
    EXPECT_TRUE(std::isnan(sum));
  else
    EXPECT_EQ(sum, expected);
}

void SweepBudgets(const std::vector<float>& weights, const std::vector<int32_t>& sizes) {
  for (const int64_t budget : {-1, 0, 1, 15, 16, 17, 100, 512, 1000, 5000, 1 << 30}) {
    ExpectNaive(weights, {}, 16, budget);
    ExpectNaive(weights, sizes, 0, budget);
  }
}

TEST(BestUnits, EqualASortOfEverything) {
  Rng rng(5);
  for (const size_t count : {0, 1, 2, 15, 16, 17, 95, 96, 97, 500, 2053}) {
    for (int kind = 0; kind < 6; ++kind) {
      std::vector<float> weights;
      std::vector<int32_t> sizes;
      for (size_t u = 0; u < count; ++u) {
        const double x = rng.Normal();
        sizes.push_back(rng.Below(40) == 0 ? 1000000 : static_cast<int32_t>(rng.Below(32)));
        switch (kind) {
          case 0: weights.push_back(static_cast<float>(std::exp(4.0 * x))); break;  // like a softmax
          case 1: weights.push_back(static_cast<float>(x)); break;                  // like q.mu
          case 2: weights.push_back(static_cast<float>(rng.Below(3))); break;       // many ties
          case 3: weights.push_back(0.25f); break;
          case 4: weights.push_back(1.0f + static_cast<float>(rng.Below(100)) * 1.2e-7f); break;  // last bits decide
          default:
            weights.push_back(
                std::vector<float>{kNan, -kNan, 0.0f, -0.0f, kInfinity, -kInfinity, 1e-42f, -2.0f}[rng.Below(8)]);
        }
      }
      SCOPED_TRACE("kind " + std::to_string(kind));
      SweepBudgets(weights, sizes);
    }
  }
}

TEST(BestUnits, OneUnitIsTakenEvenBeyondTheBudget) {
  std::vector<int32_t> chosen;
  EXPECT_EQ(TakeBestUnits(std::vector<float>{1.0f, 3.0f, 2.0f}, std::vector<int32_t>{1, 100, 1}, 0, 5, chosen), 3.0);
  EXPECT_EQ(chosen, std::vector<int32_t>({1}));
}

TEST(BestUnits, AUnitThatDoesNotFitEndsTheChoice) {
  std::vector<int32_t> chosen;
  TakeBestUnits(std::vector<float>{9.0f, 8.0f, 7.0f}, std::vector<int32_t>{3, 3, 1}, 0, 5, chosen);
  EXPECT_EQ(chosen, std::vector<int32_t>({0}));  // unit 2 would fit, but ranks below one that does not
}

TEST(BestUnits, ASmallerBudgetTakesAFrontPart) {
  Rng rng(6);
  std::vector<float> weights;
  for (int u = 0; u < 700; ++u) weights.push_back(static_cast<float>(rng.Uniform()));
  std::vector<int32_t> all, some;
  TakeBestUnits(weights, {}, 16, 4000, all);
  TakeBestUnits(weights, {}, 16, 900, some);
  ASSERT_EQ(some.size(), 56u);
  EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin()));
}

}  // namespace
}  // namespace cachette::ops
