#include "methods/scorers/last_attention.h"

#include <gtest/gtest.h>

#include <numeric>

#include "base/rng.h"
#include "methods/scorers/scorer_fixture.h"

namespace cachette {
namespace {

TEST(LastAttention, IsTheSameForAllKvHeadsAndCoversTheNewestEntry) {
  Rng rng(4);
  std::vector<float> keys(21 * 3 * 8), q(1 * 3 * 2 * 8);
  for (float& x : keys) x = static_cast<float>(rng.Normal());
  for (float& x : q) x = static_cast<float>(rng.Normal());
  ScorerFixture fixture(3, 8, keys);
  const auto scores = fixture.Score(LastAttention(), q, 2);
  EXPECT_EQ(scores[0], scores[1]);
  EXPECT_EQ(scores[0], scores[2]);
  EXPECT_GT(scores[0].back(), 0.0f);
  // One whole for each of six query heads.
  EXPECT_NEAR(std::accumulate(scores[0].begin(), scores[0].end(), 0.0), 6.0, 1e-5);
}

// One head looks at entry 0 with all it has, the other two spread evenly.
TEST(LastAttention, EveryQueryHeadCountsAlike) {
  const auto entry = [](int axis) { return Join({Axis(8, axis), Axis(8, axis), Axis(8, axis)}); };
  ScorerFixture fixture(3, 8, Join({entry(0), entry(1), entry(2), entry(3)}));
  const auto scores = fixture.Score(LastAttention(), Join({Axis(8, 0, 30.0f), Axis(8, 7), Axis(8, 7)}), 1)[0];
  EXPECT_NEAR(scores[0], 1.5f, 1e-5f);
  EXPECT_NEAR(scores[3], 0.5f, 1e-5f);
}

TEST(LastAttention, ProtectsNothing) { EXPECT_FALSE(LastAttention().keeps_query_window()); }

}  // namespace
}  // namespace cachette
