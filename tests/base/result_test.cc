#include "base/result.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>

namespace cachette {
namespace {

Result<int> Half(int x) {
  if (x % 2 != 0) return Fail(Error::kInvalidArgument, std::to_string(x) + " is odd");
  return x / 2;
}

Result<int> Quarter(int x) {
  CACHETTE_TRY(const int half, Half(x));
  CACHETTE_TRY(int quarter, Half(half));
  return quarter;
}

Result<void> MustBeEven(int x, int& reached) {
  CACHETTE_TRY(Half(x));
  ++reached;
  return Ok();
}

TEST(Result, TryHandsFailuresUpAndValuesOn) {
  EXPECT_EQ(*Quarter(12), 3);
  const auto outer = Quarter(3), inner = Quarter(6);
  ASSERT_FALSE(outer.ok());
  EXPECT_EQ(outer.failure().message, "3 is odd");
  ASSERT_FALSE(inner.ok());
  EXPECT_EQ(inner.failure().message, "3 is odd");
  EXPECT_EQ(inner.failure().error, Error::kInvalidArgument);
  int reached = 0;
  EXPECT_TRUE(MustBeEven(2, reached).ok());
  EXPECT_FALSE(MustBeEven(1, reached).ok());
  EXPECT_EQ(reached, 1);
}

TEST(Result, CarriesMoveOnlyValues) {
  Result<std::unique_ptr<int>> result = std::make_unique<int>(5);
  ASSERT_TRUE(result);
  const std::unique_ptr<int> value = *std::move(result);
  EXPECT_EQ(*value, 5);
}

TEST(Result, EveryErrorHasItsOwnName) {
  std::set<std::string> names;
  for (int e = 0; e <= static_cast<int>(Error::kCancelled); ++e) names.insert(ErrorName(static_cast<Error>(e)));
  EXPECT_EQ(names.size(), static_cast<size_t>(Error::kCancelled) + 1);
  EXPECT_FALSE(names.contains("unknown"));
}

TEST(ResultDeathTest, CheckNamesExpressionAndPlace) {
  CACHETTE_CHECK(1 + 1 == 2);
  EXPECT_DEATH(CACHETTE_CHECK(1 + 1 == 3), "1 \\+ 1 == 3 does not hold .*result_test");
}

}  // namespace
}  // namespace cachette
