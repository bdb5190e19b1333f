#include "methods/allocators/ada_head.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <numeric>
#include <vector>

#include "base/rng.h"

namespace cachette {
namespace {

using ::testing::ElementsAre;
using Scores = std::vector<std::vector<float>>;

constexpr float kProtected = std::numeric_limits<float>::infinity();

AdaHead Made(double floor_share, bool normalise = false) {
  AdaHead ada;
  ada.floor_share = floor_share;
  ada.normalise = normalise;
  CACHETTE_CHECK(ada.Prepare({}).ok());
  return ada;
}

std::vector<int64_t> Share(const AdaHead& ada, const Scores& scores, int64_t num_places, int64_t num_window = 0) {
  std::vector<int64_t> num_kept(scores.size());
  const auto num_tokens = static_cast<int64_t>(scores[0].size());
  ada.Share({.layer = 0,
             .num_layers = 2,
             .num_places = num_places,
             .num_window = num_window,
             .num_tokens_before_window = num_tokens - num_window,
             .num_tokens = num_tokens,
             .scores = scores},
            num_kept);
  return num_kept;
}

const Scores kOneSharpHead = {{9, 8, 7, 6, 5, 4}, {1, 1, 1, 1, 1, 1}, {0, 3, 0, 0, 0, 0}};

TEST(AdaHead, TheLayersBestScoresDecide) {
  EXPECT_THAT(Share(Made(0.0), kOneSharpHead, 2), ElementsAre(6, 0, 0));
  // Half of it as floor: 1 + 3, 1 + 0, 1 + 0.
  EXPECT_THAT(Share(Made(0.5), kOneSharpHead, 2), ElementsAre(4, 1, 1));
}

TEST(AdaHead, AllFloorIsUniform) { EXPECT_THAT(Share(Made(1.0), kOneSharpHead, 2), ElementsAre(2, 2, 2)); }

TEST(AdaHead, IdenticalHeadsAreUniform) {
  const std::vector<float> scores = {5, 1, 4, 1, 3, 2};
  for (int64_t places = 0; places <= 6; ++places)
    EXPECT_THAT(Share(Made(0.2), {scores, scores, scores}, places), ElementsAre(places, places, places));
}

TEST(AdaHead, ProtectedEntriesComeOnTop) {
  const Scores scores = {{9, 8, 7, kProtected, kProtected}, {1, 2, 3, kProtected, kProtected}};
  EXPECT_THAT(Share(Made(0.0), scores, 3, 2), ElementsAre(2 + 2, 0 + 2));
  EXPECT_THAT(Share(Made(0.0), scores, 2, 2), ElementsAre(2, 2));
}

// Head 0's best two of six hold 17 of 39, head 2's all it has: its score counts in full, the others' shrink.
TEST(AdaHead, NormalisingFavoursConcentratedHeads) {
  const Scores scores = {{9, 8, 7, 6, 5, 4}, {1, 1, 1, 1, 1, 1}, {0, 3.6f, 0, 0, 0, 0}};
  // 17/39 times 9, 8, 7, 6, 5, 4 is 3.92, 3.49, 3.05, 2.62, 2.18, 1.74: 3.6 is the second best of six.
  EXPECT_THAT(Share(Made(0.0, true), scores, 2), ElementsAre(5, 0, 1));
  EXPECT_THAT(Share(Made(0.0, false), scores, 2), ElementsAre(6, 0, 0));
}

TEST(AdaHead, TheSumIsExactAndNoHeadGetsMoreThanItHas) {
  Rng rng(9);
  for (int round = 0; round < 500; ++round) {
    const auto num_heads = static_cast<size_t>(1 + rng.Below(7)), num_entries = static_cast<size_t>(1 + rng.Below(40));
    Scores scores(num_heads, std::vector<float>(num_entries));
    for (size_t head = 0; head < num_heads; ++head)
      for (float& score : scores[head]) score = static_cast<float>(rng.Uniform() * static_cast<double>(head + 1));
    const auto places = static_cast<int64_t>(rng.Below(45));
    const double floor_share = static_cast<double>(rng.Below(11)) / 10.0;
    const std::vector<int64_t> kept = Share(Made(floor_share, round % 2 == 0), scores, places);
    const auto all = static_cast<int64_t>(num_heads * num_entries);
    EXPECT_EQ(std::accumulate(kept.begin(), kept.end(), int64_t{0}),
              std::min(all, static_cast<int64_t>(num_heads) * places));
    for (const int64_t count : kept) {
      EXPECT_GE(count, 0);
      EXPECT_LE(count, static_cast<int64_t>(num_entries));
      // The floor, less what rounding takes back from one of the first heads.
      EXPECT_GE(count + 1, std::min(static_cast<int64_t>(floor_share * static_cast<double>(places)),
                                    static_cast<int64_t>(num_entries)));
    }
  }
}

TEST(AdaHead, NotANumberDoesNotTakePart) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(Share(Made(0.0), {{nan, nan, nan}, {1, 1, 1}}, 1), ElementsAre(0, 2));
}

// Layer 0 of two with beta 20: 2 * 10 - 0 = 20 places beyond the window per head instead of 10.
TEST(AdaHead, ThePyramidSetsTheAverage) {
  AdaHead ada = Made(1.0);
  ada.skeleton = "pyramid";
  std::vector<int64_t> num_kept(2);
  const Scores scores(2, std::vector<float>(100, 1.0f));
  LayerContest contest{
      .num_layers = 2, .num_places = 10, .num_tokens_before_window = 100, .num_tokens = 100, .scores = scores};
  ada.Share(contest, num_kept);
  EXPECT_THAT(num_kept, ElementsAre(20, 20));
  contest.layer = 1;
  ada.Share(contest, num_kept);
  EXPECT_THAT(num_kept, ElementsAre(0, 0));
}

TEST(AdaHead, RefusesWhatItCannotDo) {
  AdaHead ada;
  ada.floor_share = 1.5;
  EXPECT_EQ(ada.Prepare({}).failure().error, Error::kInvalidArgument);
  ada.floor_share = 0.5;
  ada.skeleton = "cone";
  EXPECT_EQ(ada.Prepare({}).failure().error, Error::kInvalidArgument);
}

}  // namespace
}  // namespace cachette
