#include "base/dtype.h"

#include <gtest/gtest.h>

namespace cachette {
namespace {

TEST(Dtype, NamesRoundTripAndAreUnique) {
  for (int i = 0; i < kNumDtypes; ++i) {
    const auto dtype = static_cast<Dtype>(i);
    EXPECT_EQ(DtypeFromName(InfoOf(dtype).name), dtype);
  }
  EXPECT_EQ(DtypeFromName("F16"), std::nullopt);
  EXPECT_EQ(DtypeFromName(""), std::nullopt);
  EXPECT_EQ(DtypeFromName("q4_2"), std::nullopt);
}

// Bytes of a block = scales (f16) and minima + packed bits, as each format is defined.
TEST(Dtype, RowBytesCountScalesAndPackedBits) {
  EXPECT_EQ(RowBytes(Dtype::kF32, 7), 28u);
  EXPECT_EQ(RowBytes(Dtype::kF16, 7), 14u);
  EXPECT_EQ(RowBytes(Dtype::kBF16, 0), 0u);
  EXPECT_EQ(RowBytes(Dtype::kQ8_0, 64), 2u * (2 + 32));
  EXPECT_EQ(RowBytes(Dtype::kQ4_0, 32), 2u + 16);
  EXPECT_EQ(RowBytes(Dtype::kQ4_1, 32), 4u + 16);
  EXPECT_EQ(RowBytes(Dtype::kQ5_0, 32), 2u + 4 + 16);
  EXPECT_EQ(RowBytes(Dtype::kQ5_1, 32), 4u + 4 + 16);
  EXPECT_EQ(RowBytes(Dtype::kQ4_K, 256), 4u + 12 + 128);
  EXPECT_EQ(RowBytes(Dtype::kQ5_K, 256), 4u + 12 + 32 + 128);
  EXPECT_EQ(RowBytes(Dtype::kQ6_K, 512), 2u * (128 + 64 + 16 + 2));
  EXPECT_FALSE(IsQuantized(Dtype::kBF16));
  EXPECT_TRUE(IsQuantized(Dtype::kQ8_0));
}

}  // namespace
}  // namespace cachette
