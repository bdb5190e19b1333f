#pragma once

#include <cstdint>

#include "tensor/context.h"

namespace cachette::ops {

// out = x / sqrt(mean(x^2) + eps) * (weight + weight_offset), row by row. x, out [num_rows][dim]; weight [dim].
// x_stride, out_stride in elements between rows; out may alias x. weight_offset is 1 for checkpoints that store
// weight - 1 (Gemma safetensors), else 0. Source: arXiv:1910.07467.
struct RmsNormParams {
  const float* x;
  int64_t x_stride;
  float* out;
  int64_t out_stride;
  int64_t num_rows;
  int64_t dim;
  const float* weight;
  float eps;
  float weight_offset = 0.0f;
};
void RmsNorm(Context& cx, const RmsNormParams& params);

}  // namespace cachette::ops
