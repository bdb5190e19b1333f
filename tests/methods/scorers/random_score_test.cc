#include "methods/scorers/random_score.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "methods/scorers/scorer_fixture.h"

namespace cachette {
namespace {

TEST(RandomScore, DependsOnSeedHeadAndPositionButNotOnTheSlot) {
  ScorerFixture fixture(2, 8, std::vector<float>(100 * 2 * 8, 1.0f));
  RandomScore scorer;
  const auto before = fixture.Score(scorer, {}, 1);
  EXPECT_NE(before[0], before[1]);
  const SlotRange half{0, 50};
  fixture.cache().Evict(0, 0, {&half, 1}, EvictTime::kAfterAttention);
  const auto after = fixture.Score(scorer, {}, 1);
  EXPECT_TRUE(std::equal(after[0].begin(), after[0].end(), before[0].begin() + 50));
  scorer.seed = 1;
  EXPECT_NE(fixture.Score(scorer, {}, 1)[1], before[1]);
}

// Of 2,000 scores the older half holds about half of the best 1,000: 5 standard deviations of 22.4 / 2.
TEST(RandomScore, HasNoPreferenceForAPlace) {
  constexpr int kTokens = 2000;
  ScorerFixture fixture(1, 8, std::vector<float>(kTokens * 8, 1.0f));
  const auto scores = fixture.Score(RandomScore(), {}, 1)[0];
  std::vector<float> sorted = scores;
  std::sort(sorted.begin(), sorted.end());
  const auto above = [&](float score) { return score >= sorted[kTokens / 2]; };
  EXPECT_NEAR(static_cast<double>(std::count_if(scores.begin(), scores.begin() + kTokens / 2, above)), 500.0, 56.0);
}

}  // namespace
}  // namespace cachette
