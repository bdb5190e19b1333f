#include "methods/scorers/redundancy.h"

#include <gtest/gtest.h>

#include <cmath>

#include "methods/scorers/scorer_fixture.h"

namespace cachette {
namespace {

constexpr int kDim = 16;

// Entries 1 and 4 are equal, the others at right angles to everything; the last is the window.
std::vector<float> KeysWithTwins() {
  std::vector<std::vector<float>> keys;
  for (const int axis : {0, 1, 2, 3, 1, 5, 6}) keys.push_back(Axis(kDim, axis));
  return Join(keys);
}

Redundancy OnlyRedundancy() {
  Redundancy scorer;
  scorer.window = 1;
  scorer.importance_share = 0.0;
  return scorer;
}

// Each of a pair is the last near-duplicate of the other, and so neither is punished.
TEST(Redundancy, APairOfEqualKeysIsSpared) {
  ScorerFixture fixture(1, kDim, KeysWithTwins());
  const auto scores = fixture.Score(OnlyRedundancy(), Axis(kDim, 9), 1)[0];
  EXPECT_FLOAT_EQ(scores[1], scores[0]);
  EXPECT_FLOAT_EQ(scores[4], scores[0]);
}

// With three of a kind every row spares its newest twin: the oldest gathers the most.
TEST(Redundancy, TheNewestOfThreeIsSpared) {
  std::vector<std::vector<float>> keys;
  for (const int axis : {0, 1, 2, 1, 3, 1, 5, 6}) keys.push_back(Axis(kDim, axis));
  ScorerFixture fixture(1, kDim, Join(keys));
  const auto scores = fixture.Score(OnlyRedundancy(), Axis(kDim, 9), 1)[0];
  // Rows 1, 3 and 5 each spare one: 1 and 3 spare entry 5, 5 spares entry 3. Left: row 3 and 5 on entry 1, row 1 on 3.
  const double n = 8.0;
  const double sum = std::exp(2.0 / n) + std::exp(1.0 / n) + 6.0;
  EXPECT_NEAR(static_cast<double>(scores[1]), -std::exp(2.0 / n) / sum, 1e-6);
  EXPECT_NEAR(static_cast<double>(scores[3]), -std::exp(1.0 / n) / sum, 1e-6);
  EXPECT_NEAR(static_cast<double>(scores[5]), -1.0 / sum, 1e-6);
  EXPECT_NEAR(static_cast<double>(scores[0]), -1.0 / sum, 1e-6);
}

// Importance: the largest logit of the group, softmax over what lies before the window.
TEST(Redundancy, ImportanceExcludesTheWindowAndTakesTheLargestLogit) {
  ScorerFixture fixture(1, kDim, Join({Axis(kDim, 0), Axis(kDim, 1), Axis(kDim, 2), Axis(kDim, 3, 50.0f)}));
  Redundancy scorer;
  scorer.window = 1;
  scorer.pool_width = 1;
  scorer.importance_share = 1.0;
  const auto q = Join({Axis(kDim, 0, 2.0f), Axis(kDim, 1, 1.0f)});
  const auto scores = fixture.Score(scorer, q, 2)[0];
  const double sum = std::exp(2.0) + std::exp(1.0) + 1.0;
  EXPECT_NEAR(static_cast<double>(scores[0]), std::exp(2.0) / sum, 1e-6);
  EXPECT_NEAR(static_cast<double>(scores[1]), std::exp(1.0) / sum, 1e-6);
  EXPECT_NEAR(static_cast<double>(scores[2]), 1.0 / sum, 1e-6);
}

TEST(Redundancy, AZeroKeyResemblesNothing) {
  ScorerFixture fixture(1, kDim, std::vector<float>(5 * kDim, 0.0f));
  const auto scores = fixture.Score(OnlyRedundancy(), Axis(kDim, 0), 1);
  for (const float score : scores[0]) EXPECT_TRUE(std::isfinite(score));
}

TEST(Redundancy, RefusesWhatItCannotDo) {
  const auto refuses = [](auto&& change) {
    Redundancy scorer;
    change(scorer);
    const auto prepared = scorer.Prepare({});
    return !prepared.ok() && prepared.failure().error == Error::kInvalidArgument;
  };
  EXPECT_TRUE(refuses([](Redundancy& s) { s.window = 0; }));
  EXPECT_TRUE(refuses([](Redundancy& s) { s.pool_width = 6; }));
  EXPECT_TRUE(refuses([](Redundancy& s) { s.importance_share = 1.5; }));
  EXPECT_TRUE(refuses([](Redundancy& s) { s.importance_share = -0.1; }));
  EXPECT_TRUE(refuses([](Redundancy& s) { s.similar = 2.0; }));
  EXPECT_FALSE(refuses([](Redundancy&) {}));
}

}  // namespace
}  // namespace cachette
