#include "methods/allocators/pyramid.h"

#include <gtest/gtest.h>

#include <vector>

namespace cachette {
namespace {

// One KV head's number in a layer of a prompt of num_tokens.
int64_t NumKept(const Pyramid& pyramid, int layer, int num_layers, int64_t num_tokens, int64_t num_places,
                int64_t num_window) {
  std::vector<int64_t> num_kept(1);
  pyramid.Share({.layer = layer,
                 .num_layers = num_layers,
                 .num_places = num_places,
                 .num_window = num_window,
                 .num_tokens_before_window = num_tokens - num_window,
                 .num_tokens = num_tokens},
                num_kept);
  return num_kept[0];
}

// C = 192, least 9, most 375, step 11.
TEST(Pyramid, TheReferenceCapacities) {
  const Pyramid pyramid;
  for (int layer = 0; layer < 32; ++layer)
    EXPECT_EQ(NumKept(pyramid, layer, 32, 8192, 256, 64), 375 - 11 * layer + 64) << layer;
  EXPECT_EQ(NumKept(pyramid, 31, 32, 8192, 256, 64), 34 + 64);
}

TEST(Pyramid, ALayerThatWouldGetMoreThanThereIsGivesTheRestToTheLast) {
  // C = 92, least 4, most 180; with 176 tokens before the window, 176 and 8.
  EXPECT_EQ(NumKept(Pyramid(), 0, 2, 192, 100, 8), 180 + 8);
  EXPECT_EQ(NumKept(Pyramid(), 1, 2, 192, 100, 8), 4 + 8);
  EXPECT_EQ(NumKept(Pyramid(), 0, 2, 184, 100, 8), 176 + 8);
  EXPECT_EQ(NumKept(Pyramid(), 1, 2, 184, 100, 8), 8 + 8);
}

TEST(Pyramid, LittleToChooseFromIsSharedEvenly) {
  // T < 2 (B - W).
  EXPECT_EQ(NumKept(Pyramid(), 0, 2, 183, 100, 8), 100);
  EXPECT_EQ(NumKept(Pyramid(), 1, 2, 183, 100, 8), 100);
  EXPECT_EQ(NumKept(Pyramid(), 0, 1, 5000, 100, 8), 100);  // one layer
  EXPECT_EQ(NumKept(Pyramid(), 0, 4, 5000, 8, 8), 8);      // nothing beyond the window
  EXPECT_EQ(NumKept(Pyramid(), 3, 4, 5000, 0, 0), 0);
}

TEST(Pyramid, BetaOneIsFlat) {
  Pyramid pyramid;
  pyramid.beta = 1;
  for (int layer = 0; layer < 5; ++layer) EXPECT_EQ(NumKept(pyramid, layer, 5, 1000, 100, 10), 100);
}

// Floors leave less than half an entry per layer and head over for each of the layers below.
TEST(Pyramid, FallsFromLayerToLayerAroundTheAverage) {
  for (const int num_layers : {2, 3, 7, 30})
    for (const int64_t places : {9, 10, 33, 100, 255, 500})
      for (const int64_t num_tokens : {501, 777, 1000, 9000}) {
        int64_t sum = 0, last = num_tokens;
        for (int layer = 0; layer < num_layers; ++layer) {
          const int64_t kept = NumKept(Pyramid(), layer, num_layers, num_tokens, places, 8);
          EXPECT_GE(kept, 8);
          EXPECT_LE(kept, last);
          sum += last = kept;
        }
        EXPECT_GE(sum, num_layers * places);
        EXPECT_LT(2 * (sum - num_layers * places), num_layers * (num_layers - 1));
      }
}

TEST(Pyramid, RefusesBetaBelowOne) {
  Pyramid pyramid;
  pyramid.beta = 0;
  EXPECT_EQ(pyramid.Prepare({}).failure().error, Error::kInvalidArgument);
}

}  // namespace
}  // namespace cachette
