#pragma once

#include <span>

#include "ops/linear/gemm.h"
#include "ops/linear/kernels.h"
#include "ops/linear/linear.h"

namespace cachette::ops {

// The product that prefill mostly runs for weights of n rows and k columns: a full row tile by one slice of the weight.
GemmShape PrefillGemm(int64_t n, int64_t k, bool is_bf16, int num_threads);

// Linear for many rows: every task unpacks one slice of a weight into memory that stays in its core's L2, and runs
// single-threaded GEMMs of row tiles over it. Bytes moved: every weight once, x and y once per slice.
void LinearPrefill(Context& cx, std::span<const LinearOutput> outputs, const float* x, int64_t num_rows, GemmDtype gemm,
                   const UnpackKernels& kernels);

}  // namespace cachette::ops
