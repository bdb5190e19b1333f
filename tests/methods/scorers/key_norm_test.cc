#include "methods/scorers/key_norm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "methods/scorers/scorer_fixture.h"

namespace cachette {
namespace {

TEST(KeyNorm, IsTheNegativeLengthOfEachHeadsKey) {
  std::vector<float> long_key = Axis(8, 0, 3.0f);
  long_key[5] = -4.0f;
  ScorerFixture fixture(2, 8, Join({long_key, Axis(8, 7, 2.0f), Axis(8, 1, -6.0f), Axis(8, 0, 0.0f)}));  // [2][2]
  const auto scores = fixture.Score(KeyNorm(), {}, 1);
  EXPECT_THAT(scores[0], ::testing::ElementsAre(-5.0f, -6.0f));
  EXPECT_THAT(scores[1], ::testing::ElementsAre(-2.0f, 0.0f));
}

}  // namespace
}  // namespace cachette
