#pragma once
// 16-bit floating point as storage: bit-exact conversions, round to nearest even.

#include <bit>
#include <cstdint>

namespace cachette {

using F16 = _Float16;  // IEEE binary16; g++ converts with F16C where the unit allows it, in software elsewhere

// bfloat16: the upper half of an f32.
struct BF16 {
  uint16_t bits = 0;

  BF16() = default;
  explicit BF16(float f) : bits(FromFloat(f)) {}
  explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

  static uint16_t FromFloat(float f) {
    const uint32_t u = std::bit_cast<uint32_t>(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40u);  // keep NaN a NaN
    return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
};
static_assert(sizeof(F16) == 2 && sizeof(BF16) == 2);

}  // namespace cachette
