#pragma once
// What rope.cc and its kernels agree on; not for other files.

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "tensor/isa.h"

namespace cachette::ops {

// One token: its heads [num_heads][head_dim] at x, the first rotary_dim elements of each rotated.
struct TokenRotation {
  float* x;
  int num_heads;
  int head_dim;
  int num_pairs;  // rotary_dim / 2
  bool is_adjacent;
  const float* cos;  // [num_pairs]
  const float* sin;
};

// The keys [head_dim][16] of one block; slot s takes row s of cos and sin [num_slots][num_pairs], num_slots <= 16.
struct BlockRotation {
  const std::byte* keys;
  std::byte* out;
  Dtype dtype;
  int num_slots;
  int head_dim;
  int num_pairs;
  bool is_adjacent;
  const float* cos;
  const float* sin;
};

struct RopeKernels {
  void (*rotate_token)(const TokenRotation&);
  void (*rotate_block)(const BlockRotation&);
};

template <Isa>
RopeKernels RopeKernelsOf();
template <>
RopeKernels RopeKernelsOf<Isa::kRef>();
template <>
RopeKernels RopeKernelsOf<Isa::kAvx2>();
template <>
RopeKernels RopeKernelsOf<Isa::kAvx512>();
template <>
RopeKernels RopeKernelsOf<Isa::kAvx512Vnni>();
template <>
RopeKernels RopeKernelsOf<Isa::kAvx512Bf16>();

}  // namespace cachette::ops
