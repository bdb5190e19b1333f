#pragma once
// y = x W^T: the matrix products of a transformer, over weights in any supported format.

#include <cstdint>
#include <span>

#include "base/result.h"
#include "ops/linear/weight.h"
#include "tensor/context.h"

namespace cachette::ops {

// Which arithmetic a product uses. Decode and prefill differ because their rooflines do; both are fixed by the phase,
// never by the number of rows, so a request alone and in a batch gets the same bits.
enum class LinearMode : uint8_t {
  kDecode,   // few rows: own mat-vec over packed weights, memory-bound; row results do not depend on num_rows
  kPrefill,  // many rows: weights de-quantised panel-wise into scratch, multiplied by oneDNN
};

// What the prefill GEMM multiplies in: f32, or bf16 inputs with f32 accumulation.
enum class GemmDtype : uint8_t { kF32, kBF16 };

// One product of a fused call: y [num_rows][weight.rows()], row stride y_stride elements; bias [weight.rows()] or null.
struct LinearOutput {
  const Weight* weight;
  float* y;
  int64_t y_stride;
  const float* bias = nullptr;
  bool accumulate = false;  // y += instead of y = (residual connections)
};

// Multiplies the same x [num_rows][cols] f32 (row stride = cols) with one or several weights that share cols (q, k, v;
// gate, up): x is quantised or converted once. No aliasing between x and any y.
// Decode moves the sum of weight.read_bytes(). Scratch from cx. Shapes are checked with CACHETTE_CHECK.
void Linear(Context& cx, std::span<const LinearOutput> outputs, const float* x, int64_t num_rows, LinearMode mode,
            GemmDtype gemm);

// Row row_idx of the matrix as f32 into out [cols] (embedding lookup).
void WeightRow(const Weight& weight, int64_t row_idx, float* out);

}  // namespace cachette::ops
