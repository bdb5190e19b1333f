#pragma once

#include <span>

#include "ops/linear/kernels.h"
#include "ops/linear/linear.h"

namespace cachette::ops {

// Linear for many rows: every task unpacks one slice of a weight into memory that stays in its core's L2, and runs
// single-threaded GEMMs of row tiles over it. Bytes moved: every weight once, x and y once per slice.
void LinearPrefill(Context& cx, std::span<const LinearOutput> outputs, const float* x, int64_t num_rows, GemmDtype gemm,
                   const UnpackKernels& kernels);

}  // namespace cachette::ops
