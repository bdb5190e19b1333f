#pragma once
// One stored element, for scalar code. Not for *_simd.cc files (see ops/simd.h).

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/dtype.h"
#include "base/half.h"

namespace cachette::ops {

// Element idx of an array of dtype (kF32, kF16 or kBF16) at base.
inline float ElementAt(Dtype dtype, const std::byte* base, int64_t idx) {
  if (dtype == Dtype::kF32) {
    float x;
    std::memcpy(&x, base + idx * 4, 4);
    return x;
  }
  if (dtype == Dtype::kF16) {
    F16 x;
    std::memcpy(&x, base + idx * 2, 2);
    return static_cast<float>(x);
  }
  BF16 x;
  std::memcpy(&x, base + idx * 2, 2);
  return static_cast<float>(x);
}

inline void SetElement(Dtype dtype, std::byte* base, int64_t idx, float value) {
  if (dtype == Dtype::kF32) {
    std::memcpy(base + idx * 4, &value, 4);
  } else if (dtype == Dtype::kF16) {
    const F16 x = static_cast<F16>(value);
    std::memcpy(base + idx * 2, &x, 2);
  } else {
    const BF16 x(value);
    std::memcpy(base + idx * 2, &x, 2);
  }
}

}  // namespace cachette::ops
