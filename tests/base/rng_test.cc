#include "base/rng.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

namespace cachette {
namespace {

// The published SplitMix64 sequence for seed 1234567: the stream must not change between machines or versions.
TEST(Rng, IsTheReferenceSequence) {
  Rng rng(1234567);
  for (const uint64_t expected : {6457827717110365317ull, 3203168211198807973ull, 9817491932198370423ull,
                                  4593380528125082431ull, 16408922859458223821ull})
    EXPECT_EQ(rng.Next(), expected);
}

TEST(Rng, StaysInRangeAndFillsIt) {
  Rng rng(1);
  std::array<int, 7> counts{};
  double sum = 0, sum_squares = 0;
  constexpr int kDraws = 70000;
  for (int i = 0; i < kDraws; ++i) {
    ++counts.at(rng.Below(7));
    const double u = rng.Uniform();
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    const double normal = rng.Normal();
    sum += normal;
    sum_squares += normal * normal;
  }
  // Six standard deviations each: binomial sqrt(n/7 * 6/7), mean 1/sqrt(n), mean square sqrt(2/n).
  for (const int count : counts) EXPECT_NEAR(count, kDraws / 7.0, 6 * std::sqrt(kDraws / 7.0 * 6 / 7));
  EXPECT_NEAR(sum / kDraws, 0.0, 6 / std::sqrt(kDraws));
  EXPECT_NEAR(sum_squares / kDraws, 1.0, 6 * std::sqrt(2.0 / kDraws));
  EXPECT_EQ(Rng(3).Below(1), 0u);
}

}  // namespace
}  // namespace cachette
