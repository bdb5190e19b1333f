#pragma once

#include <span>

#include "ops/linear/linear.h"

namespace cachette::ops {

// The definition of Linear: rows of W decoded by Dequantize, products summed in f64 in the order of k, rounded to f32,
// then + bias, then += where asked. Both modes and GEMM types are the same here.
void LinearRef(std::span<const LinearOutput> outputs, const float* x, int64_t num_rows);

}  // namespace cachette::ops
