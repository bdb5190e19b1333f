#pragma once
// Numbers that kernels' callers and reference kernels share. Kernels have their own in ops/simd_vec.h.

#include <cstdint>
#include <limits>
#include <numbers>

namespace cachette::ops {

inline constexpr float kLog2e = std::numbers::log2e_v<float>;
inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

constexpr int64_t RoundUp(int64_t x, int64_t step) { return (x + step - 1) / step * step; }

}  // namespace cachette::ops
