#include "methods/scorers/pooling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace cachette {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const std::vector<float> kScores = {8.0f, 0.0f, 4.0f, 0.0f, 0.0f, 16.0f};

TEST(Pool, AnAverageDividesByItsWidthAtTheBordersToo) {
  EXPECT_THAT(Pool({{4.0f, 4.0f, 4.0f, 4.0f}}, PoolKind::kAverage, 4 + 1),
              ElementsAre(12.0f / 5, 16.0f / 5, 16.0f / 5, 12.0f / 5));
  EXPECT_THAT(Pool(kScores, PoolKind::kAverage, 3),
              ElementsAre(8.0f / 3, 4.0f, 4.0f / 3, 4.0f / 3, 16.0f / 3, 16.0f / 3));
}

TEST(Pool, AMaximumSpreadsByHalfItsWidth) {
  EXPECT_THAT(Pool(kScores, PoolKind::kMax, 3), ElementsAre(8, 8, 4, 4, 16, 16));
  EXPECT_THAT(Pool(kScores, PoolKind::kMax, 5), ElementsAre(8, 8, 8, 16, 16, 16));
}

TEST(Pool, NegativeScoresDoNotMeetAZeroBeyondTheEnds) {
  EXPECT_THAT(Pool({{-3.0f, -5.0f}}, PoolKind::kMax, 3), ElementsAre(-3, -3));
}

TEST(Pool, WidthOneAndNoneLeaveScoresAlone) {
  EXPECT_EQ(Pool(kScores, PoolKind::kAverage, 1), kScores);
  EXPECT_EQ(Pool(kScores, PoolKind::kMax, 1), kScores);
  EXPECT_EQ(Pool(kScores, PoolKind::kNone, 5), kScores);
}

TEST(Pool, ListsShorterThanTheWidth) {
  EXPECT_THAT(Pool({}, PoolKind::kAverage, 5), IsEmpty());
  EXPECT_THAT(Pool({{10.0f}}, PoolKind::kAverage, 5), ElementsAre(2.0f));
  EXPECT_THAT(Pool({{1.0f, 4.0f}}, PoolKind::kMax, 101), ElementsAre(4.0f, 4.0f));
}

TEST(Pool, NamesAreThreeWords) {
  EXPECT_EQ(*ParsePool("none"), PoolKind::kNone);
  EXPECT_EQ(*ParsePool("avg"), PoolKind::kAverage);
  EXPECT_EQ(*ParsePool("max"), PoolKind::kMax);
  EXPECT_EQ(ParsePool("mean").failure().error, Error::kInvalidArgument);
}

}  // namespace
}  // namespace cachette
