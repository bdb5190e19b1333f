#include "base/half.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace cachette {
namespace {

// The value of 1 sign, exponent_bits and mantissa_bits bits, by the IEEE definition.
double Decode(uint32_t bits, int exponent_bits, int mantissa_bits) {
  const uint32_t mantissa = bits & ((1u << mantissa_bits) - 1u);
  const uint32_t exponent = (bits >> mantissa_bits) & ((1u << exponent_bits) - 1u);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = (bits >> (exponent_bits + mantissa_bits)) != 0 ? -1.0 : 1.0;
  if (exponent == (1u << exponent_bits) - 1u)
    return mantissa != 0 ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1u << mantissa_bits), static_cast<int>(exponent) - bias - mantissa_bits);
}

uint16_t BitsOf(F16 x) { return std::bit_cast<uint16_t>(x); }
F16 F16FromBits(uint32_t bits) { return std::bit_cast<F16>(static_cast<uint16_t>(bits)); }
BF16 Bf16FromBits(uint32_t bits) {
  BF16 x;
  x.bits = static_cast<uint16_t>(bits);
  return x;
}
bool IsNan16(uint32_t bits, uint32_t infinity) { return (bits & 0x7fffu) > infinity; }

TEST(Half, EveryF16PatternDecodesToItsValueAndBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto value = static_cast<float>(F16FromBits(bits));
    const double expected = Decode(bits, 5, 10);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(value)) << bits;
      ASSERT_TRUE(IsNan16(BitsOf(static_cast<F16>(value)), 0x7c00)) << bits;
      continue;
    }
    ASSERT_EQ(static_cast<double>(value), expected) << bits;
    ASSERT_EQ(std::signbit(value), (bits >> 15) != 0) << bits;
    ASSERT_EQ(BitsOf(static_cast<F16>(value)), bits);
  }
}

TEST(Half, EveryBf16PatternDecodesToItsValueAndBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto value = static_cast<float>(Bf16FromBits(bits));
    const double expected = Decode(bits, 8, 7);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(value)) << bits;
      ASSERT_TRUE(IsNan16(BF16(value).bits, 0x7f80)) << bits;
      continue;
    }
    ASSERT_EQ(static_cast<double>(value), expected) << bits;
    ASSERT_EQ(std::signbit(value), (bits >> 15) != 0) << bits;
    ASSERT_EQ(BF16(value).bits, bits);
  }
}

// Between each pair of neighbours: just above the lower, the exact middle (to the even one), just below the upper. The
// upper neighbour of the largest finite number is infinity, where rounding treats it as the next power of two.
TEST(Half, F16RoundsToNearestEven) {
  for (uint32_t low = 0; low < 0x7c00; ++low) {
    const double a = Decode(low, 5, 10);
    const double b = low + 1 == 0x7c00 ? 65536.0 : Decode(low + 1, 5, 10);
    const auto middle = static_cast<float>((a + b) / 2);  // exact: one bit more than f16, even for subnormals
    ASSERT_EQ(static_cast<double>(middle), (a + b) / 2);
    const uint32_t even = low + (low & 1u);
    for (const uint32_t sign : {0u, 0x8000u}) {
      const float s = sign != 0 ? -1.0f : 1.0f;
      ASSERT_EQ(BitsOf(static_cast<F16>(s * middle)), sign | even) << low;
      ASSERT_EQ(BitsOf(static_cast<F16>(s * std::nextafter(middle, 0.0f))), sign | low) << low;
      ASSERT_EQ(BitsOf(static_cast<F16>(s * std::nextafter(middle, 1e6f))), sign | (low + 1)) << low;
    }
  }
}

TEST(Half, Bf16RoundsToNearestEven) {
  for (uint32_t high = 0; high < 65536; ++high) {
    const bool is_special = (high & 0x7f80u) == 0x7f80u;
    for (const uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const auto value = std::bit_cast<float>(high << 16 | low);
      if (std::isnan(value)) {
        ASSERT_TRUE(IsNan16(BF16(value).bits, 0x7f80)) << high << " " << low;
        continue;
      }
      const bool is_up = low > 0x8000u || (low == 0x8000u && (high & 1u) != 0);
      ASSERT_EQ(BF16(value).bits, is_special ? high : high + (is_up ? 1u : 0u)) << high << " " << low;
    }
  }
}

}  // namespace
}  // namespace cachette
