#include "model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace cachette {
namespace {

TEST(Config, DimensionsAreIntsOrRefusedByName) {
  EXPECT_EQ(*DimOf(int64_t{0}, "f", "x"), 0);
  EXPECT_EQ(*DimOf(int64_t{INT32_MAX}, "f", "x"), INT32_MAX);
  for (const int64_t value : {int64_t{-1}, int64_t{INT32_MAX} + 1, INT64_MIN}) {
    const Result<int> dim = DimOf(value, "config.json", "hidden_size");
    ASSERT_FALSE(dim.ok());
    EXPECT_EQ(dim.failure().error, Error::kCorrupt);
    EXPECT_THAT(dim.failure().message, testing::StartsWith("config.json: hidden_size is "));
  }
  EXPECT_EQ(DimOf(Fail(Error::kNotFound, "gone"), "f", "x").failure().message, "gone");
}

}  // namespace
}  // namespace cachette
