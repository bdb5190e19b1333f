#include "methods/scorers/window_attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "methods/scorers/scorer_fixture.h"

namespace cachette {
namespace {

WindowAttention Prepared(const WindowAttention::Defaults& defaults) {
  WindowAttention scorer(defaults);
  CACHETTE_CHECK(scorer.Prepare({}).ok());
  return scorer;
}

// exp(2) of one key against exp(0) of each other.
const float kStrong = std::exp(2.0f);

// Two queries along axis 0. The second of them sees its own key, which takes a known share of its softmax, and nothing
// of the window gets a score.
TEST(WindowAttention, WindowColumnsAreInTheSupportButNotInTheRanking) {
  const auto keys = Join({Axis(8, 0), Axis(8, 1), Axis(8, 2), Axis(8, 0)});
  ScorerFixture fixture(1, 8, keys);
  const auto scorer = Prepared({.window = 2, .pool = "none"});
  const auto scores = fixture.Score(scorer, Join({Axis(8, 0, 2.0f), Axis(8, 0, 2.0f)}), 1)[0];
  const float first_sum = kStrong + 2.0f, second_sum = 2.0f * kStrong + 2.0f;
  EXPECT_NEAR(scores[0], kStrong / first_sum + kStrong / second_sum, 1e-5f);
  EXPECT_NEAR(scores[1], 1.0f / first_sum + 1.0f / second_sum, 1e-5f);
  EXPECT_EQ(scores[2], 0.0f);
  EXPECT_EQ(scores[3], 0.0f);
}

// Pooling ends where the window begins: its columns do not leak into their neighbours.
TEST(WindowAttention, PoolingSeesOnlyWhatIsRanked) {
  const auto keys = Join({Axis(8, 1), Axis(8, 1), Axis(8, 0, 9.0f)});
  ScorerFixture fixture(1, 8, keys);
  const auto scores = fixture.Score(Prepared({.window = 1, .pool = "max", .pool_width = 3}), Axis(8, 0, 2.0f), 1)[0];
  EXPECT_LT(scores[1], 1e-6f);  // the window's key takes the whole of the softmax
  const auto flat = fixture.Score(Prepared({.window = 1, .pool = "avg", .pool_width = 5}), Axis(8, 2), 1)[0];
  EXPECT_NEAR(flat[0], (1.0f / 3 + 1.0f / 3) / 5, 1e-6f);
  EXPECT_NEAR(flat[1], flat[0], 1e-6f);
}

// Only competing entries share the softmax: those before first do not count.
TEST(WindowAttention, SupportBeginsWithTheFirstCompetingEntry) {
  const auto keys = Join({Axis(8, 0, 9.0f), Axis(8, 1), Axis(8, 1), Axis(8, 1)});
  ScorerFixture fixture(1, 8, keys);
  const auto scores = fixture.Score(Prepared({.window = 1, .pool = "none"}), Axis(8, 0, 2.0f), 1, 1)[0];
  ASSERT_EQ(scores.size(), 3u);
  EXPECT_NEAR(scores[0], 1.0f / 3, 1e-6f);
}

// A query covers what its attention covered: in a sliding layer, the entries of the model's own window, dead ones not
// counted.
TEST(WindowAttention, TheModelsWindowLimitsTheSupport) {
  ScorerFixture fixture(1, 8, std::vector<float>(6 * 8, 0.0f));
  fixture.attention_window = 4;
  const auto scorer = Prepared({.window = 2, .pool = "none"});
  const std::vector<float> q(2 * 8, 1.0f);
  // Query 4 sees entries 1 to 4, query 5 sees 2 to 5.
  const auto scores = fixture.Score(scorer, q, 1)[0];
  EXPECT_EQ(scores[0], 0.0f);
  EXPECT_NEAR(scores[1], 0.25f, 1e-6f);
  EXPECT_NEAR(scores[2], 0.5f, 1e-6f);
  EXPECT_NEAR(scores[3], 0.5f, 1e-6f);
  const SlotRange second{2, 3};
  fixture.cache().Evict(0, 0, {&second, 1}, EvictTime::kAfterAttention);
  const auto after = fixture.Score(scorer, q, 1)[0];  // entries 0, 1, 3
  EXPECT_EQ(after[0], 0.0f);
  EXPECT_NEAR(after[1], 1.0f / 3, 1e-6f);
  EXPECT_NEAR(after[2], 2.0f / 3, 1e-6f);
}

class GroupOfTwo : public ::testing::Test {
 protected:
  // Head 0 of the group looks at entry 0, head 1 at entry 2; entry 1 lies between them.
  std::vector<float> Scores(const WindowAttention::Defaults& defaults) {
    return fixture_.Score(Prepared(defaults), Join({Axis(8, 0, 20.0f), Axis(8, 2, 20.0f)}), 2)[0];
  }
  ScorerFixture fixture_{1, 8, Join({Axis(8, 0), Axis(8, 1), Axis(8, 2), Axis(8, 3), Axis(8, 4)})};
};

TEST_F(GroupOfTwo, MeanAndMaxOfTheQueryHeads) {
  const auto mean = Scores({.window = 1, .pool = "none", .reduce = "mean"});
  EXPECT_NEAR(mean[0], 0.5f, 1e-6f);
  EXPECT_NEAR(mean[2], 0.5f, 1e-6f);
  const auto max = Scores({.window = 1, .pool = "none", .reduce = "max"});
  EXPECT_NEAR(max[0], 1.0f, 1e-6f);
  EXPECT_NEAR(max[1], 0.0f, 1e-6f);
}

// Mean and maximum do not commute: entry 1 is near both peaks.
TEST_F(GroupOfTwo, OrderOfPoolingAndReducingIsAnOption) {
  const auto pooled_first =
      Scores({.window = 1, .pool = "max", .pool_width = 3, .reduce = "mean", .pools_reduced = false});
  const auto reduced_first =
      Scores({.window = 1, .pool = "max", .pool_width = 3, .reduce = "mean", .pools_reduced = true});
  EXPECT_NEAR(pooled_first[1], 1.0f, 1e-6f);
  EXPECT_NEAR(reduced_first[1], 0.5f, 1e-6f);
}

TEST(WindowAttention, SharedHeadsHaveTheSumOfAll) {
  const auto keys = Join({Axis(8, 0), Axis(8, 1), Axis(8, 1), Axis(8, 0), Axis(8, 2), Axis(8, 2)});  // [3][2]
  ScorerFixture fixture(2, 8, keys);
  const auto q = Join({Axis(8, 0, 20.0f), Axis(8, 0, 20.0f)});
  const auto own = fixture.Score(Prepared({.window = 1, .pool = "none"}), q, 1);
  const auto shared = fixture.Score(Prepared({.window = 1, .pool = "none", .shares_heads = true}), q, 1);
  EXPECT_NEAR(own[0][0], 1.0f, 1e-6f);
  EXPECT_NEAR(own[1][0], 0.0f, 1e-6f);
  EXPECT_EQ(shared[0], shared[1]);
  for (size_t i = 0; i < 3; ++i) EXPECT_FLOAT_EQ(shared[0][i], own[0][i] + own[1][i]);
}

TEST(WindowAttention, RefusesWhatItCannotDo) {
  for (const auto& defaults : {WindowAttention::Defaults{.window = 0},
                               {.window = -1},
                               {.pool_width = 4},
                               {.pool_width = 0},
                               {.reduce = "sum"},
                               {.pool = "median"}}) {
    const auto prepared = WindowAttention(defaults).Prepare({});
    ASSERT_FALSE(prepared.ok());
    EXPECT_EQ(prepared.failure().error, Error::kInvalidArgument);
  }
}

}  // namespace
}  // namespace cachette
