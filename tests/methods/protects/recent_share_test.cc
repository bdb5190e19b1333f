#include "methods/protects/recent_share.h"

#include <gtest/gtest.h>

#include <limits>

namespace cachette {
namespace {

int64_t NumProtected(double share, int64_t num_entries, int64_t num_kept) {
  RecentShare protect;
  protect.recent_share = share;
  std::vector<RankRange> ranges;
  protect.Ranges(num_entries, num_kept, ranges);
  EXPECT_EQ(ranges.size(), 1u);
  EXPECT_EQ(ranges[0].end, num_entries);
  EXPECT_GE(ranges[0].begin, 0);
  return ranges[0].end - ranges[0].begin;
}

TEST(RecentShare, IsAShareOfTheKeptPlacesRoundedDown) {
  EXPECT_EQ(NumProtected(0.5, 100, 20), 10);
  EXPECT_EQ(NumProtected(0.5, 100, 21), 10);
  EXPECT_EQ(NumProtected(0.5, 100, 1), 0);
  EXPECT_EQ(NumProtected(0.0, 100, 20), 0);
  EXPECT_EQ(NumProtected(1.0, 100, 20), 20);
}

TEST(RecentShare, PlacesBeyondTheEntriesAreNotShared) {
  EXPECT_EQ(NumProtected(0.5, 8, 20), 4);
  EXPECT_EQ(NumProtected(1.0, 8, std::numeric_limits<int64_t>::max()), 8);
  EXPECT_EQ(NumProtected(1.0, 0, 5), 0);
}

TEST(RecentShare, RefusesSharesOutsideZeroToOne) {
  for (const double share : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()}) {
    RecentShare protect;
    protect.recent_share = share;
    EXPECT_FALSE(protect.Prepare({}).ok()) << share;
  }
  EXPECT_TRUE(RecentShare().Prepare({}).ok());
}

}  // namespace
}  // namespace cachette
