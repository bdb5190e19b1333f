#include "methods/scorers/accumulated_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "base/rng.h"
#include "methods/scorers/scorer_fixture.h"

namespace cachette {
namespace {

// Keys without direction: query t spreads evenly over the t + 1 entries it sees, its own included.
TEST(AccumulatedAttention, EvenAttentionGivesHarmonicSums) {
  constexpr int kTokens = 5;
  ScorerFixture fixture(1, 8, std::vector<float>(kTokens * 8, 0.0f), true);
  const std::vector<float> q(kTokens * 2 * 8, 1.0f);
  AccumulatedAttention scorer;
  scorer.Accumulate(fixture.cx(), fixture.cache(), fixture.Queries(q, 2));
  const auto scores = fixture.Score(scorer, {}, 2)[0];
  for (int j = 0; j < kTokens; ++j) {
    double expected = 0.0;
    for (int t = j; t < kTokens; ++t) expected += 2.0 / (t + 1);  // two query heads
    EXPECT_NEAR(static_cast<double>(scores[static_cast<size_t>(j)]), expected, 1e-5) << j;
  }
  scorer.normalise = true;
  const auto normalised = fixture.Score(scorer, {}, 2)[0];
  for (int j = 0; j < kTokens; ++j)
    EXPECT_FLOAT_EQ(normalised[static_cast<size_t>(j)],
                    scores[static_cast<size_t>(j)] / static_cast<float>(kTokens - j));
}

// Every query of every head hands out one whole, whatever it looks at.
TEST(AccumulatedAttention, SumsAddUpToTheNumberOfQueries) {
  Rng rng(3);
  std::vector<float> keys(40 * 2 * 8), q(40 * 2 * 3 * 8);
  for (float& x : keys) x = static_cast<float>(rng.Normal());
  for (float& x : q) x = static_cast<float>(rng.Normal());
  ScorerFixture fixture(2, 8, keys, true);
  const AccumulatedAttention scorer;
  scorer.Accumulate(fixture.cx(), fixture.cache(), fixture.Queries(q, 3));
  for (const std::vector<float>& scores : fixture.Score(scorer, {}, 3))
    EXPECT_NEAR(std::accumulate(scores.begin(), scores.end(), 0.0), 3 * 40, 1e-3);
}

}  // namespace
}  // namespace cachette
