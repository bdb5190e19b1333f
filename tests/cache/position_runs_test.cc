#include "cache/position_runs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace cachette {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

std::vector<std::pair<int64_t, int64_t>> Runs(const std::vector<int32_t>& positions) {
  std::vector<std::pair<int64_t, int64_t>> runs;
  ForEachRun(positions, [&](int64_t first_position, int64_t count) { runs.emplace_back(first_position, count); });
  return runs;
}

TEST(PositionRuns, AreAsLongAsTheyCanBe) {
  EXPECT_THAT(Runs({}), IsEmpty());
  EXPECT_THAT(Runs({7}), ElementsAre(Pair(7, 1)));
  EXPECT_THAT(Runs({0, 1, 2}), ElementsAre(Pair(0, 3)));
  EXPECT_THAT(Runs({3, 4, 6, 7, 8, 20}), ElementsAre(Pair(3, 2), Pair(6, 3), Pair(20, 1)));
  EXPECT_THAT(Runs({5, 4, 5, 5}), ElementsAre(Pair(5, 1), Pair(4, 2), Pair(5, 1))) << "only steps of one go on";
}

}  // namespace
}  // namespace cachette
