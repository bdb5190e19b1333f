#include "methods/protects/sink_window.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace cachette {
namespace {

TEST(SinkWindow, ProtectsTheFirstAndTheLastForEveryEdge) {
  constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
  for (const int64_t sinks : {int64_t{0}, int64_t{1}, int64_t{4}, int64_t{50}, kHuge}) {
    for (const int64_t window : {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{50}, kHuge}) {
      SinkWindow part;
      part.num_sinks = sinks;
      part.recent_window = window;
      ASSERT_TRUE(part.Prepare({}).ok());
      for (int64_t num_live = 0; num_live <= 60; ++num_live) {
        std::vector<RankRange> ranges;
        part.Ranges(num_live, num_live, ranges);
        std::vector<int> times(static_cast<size_t>(num_live), 0);
        int64_t last_end = 0;
        for (const RankRange& range : ranges) {
          ASSERT_GE(range.begin, last_end);
          ASSERT_LE(range.begin, range.end);
          last_end = range.end;
          for (int64_t r = range.begin; r < range.end; ++r) ++times.at(static_cast<size_t>(r));
        }
        for (int64_t r = 0; r < num_live; ++r)
          ASSERT_EQ(times[static_cast<size_t>(r)], r < sinks || num_live - r <= window ? 1 : 0)
              << sinks << " " << window << " " << num_live << " " << r;
      }
    }
  }
}

TEST(SinkWindow, RefusesNegativeCounts) {
  SinkWindow part;
  part.num_sinks = -1;
  const auto refused = part.Prepare({});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.failure().error, Error::kInvalidArgument);
  EXPECT_THAT(refused.failure().message, ::testing::HasSubstr("protect.sinks -1"));
  part.num_sinks = 0;
  part.recent_window = -5;
  EXPECT_FALSE(part.Prepare({}).ok());
}

}  // namespace
}  // namespace cachette
