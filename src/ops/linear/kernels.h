#pragma once
// The SIMD kernels of Linear: plain argument structs and one table per instruction set (see ops/simd.h).

#include <cstdint>

#include "base/dtype.h"

namespace cachette::ops {

// Rows of x in the form the block kernels multiply: per 32 values one scale, x ~ scale * q with q in [-127, 127].
struct QuantizedRows {
  int8_t* q;          // [num_rows][cols]
  float* scale;       // [num_rows][cols / 32]
  float* scaled_sum;  // [num_rows][cols / 32], scale * sum of the block's q
  int32_t* half_sum;  // [num_rows][cols / 16], sums of q
};

// y[r][row] (=, +=) x[r] . W[row] (+ bias[row]) for the rows of panels [panel_begin, panel_end).
struct MatVecArgs {
  const uint8_t* panels;  // of the whole weight, see layout.h
  int64_t panel_bytes;
  int64_t panel_begin, panel_end;
  int64_t rows;  // of the weight; the last panel's padding rows are not written
  int64_t cols;  // multiple of 32 for block formats, of 4 for plain ones (x zero padded)
  int64_t num_rows;
  QuantizedRows xq;  // block formats
  const float* x;    // plain formats, [num_rows][cols]
  float* y;          // [num_rows][y_stride]
  int64_t y_stride;
  const float* bias;  // [rows] or null
  bool accumulate;
};

// Where a GEMM library wants element (k, n) of a [K][N] operand:
// (n / n_block) * n_stride + (k / k_block) * k_stride + ((k % k_block) / pack) * n_block * pack + (n % n_block) * pack
// + k % pack, in elements. n_block is a multiple of 16, k_block of 2; pack is 1, or 2 (pairs of bf16).
struct TileLayout {
  int64_t n_block, n_stride, k_block, k_stride;
  int pack;
};

// Writes panels [panel_begin, panel_end), transposed and de-quantised, as columns n = 0.. of out, k = 0 .. cols32 - 1
// where cols32 = cols rounded up to 32 and what lies beyond cols is 0.
struct UnpackArgs {
  const uint8_t* panels;
  int64_t panel_bytes;
  int64_t panel_begin, panel_end;
  int64_t cols;
  void* out;  // f32, or bf16 rounded to nearest even
  TileLayout tile;
};

struct MatVecKernels {
  // x [num_rows][cols] f32 to blocks of 32; cols a multiple of 32. A block of zeros has scale 0.
  void (*quantize_rows)(const float* x, int64_t num_rows, int64_t cols, const QuantizedRows& out);
  void (*mat_vec[kNumDtypes])(const MatVecArgs&);  // indexed by Dtype
};

struct UnpackKernels {
  // n f32 to bf16, round to nearest even.
  void (*to_bf16)(const float* in, int64_t n, uint16_t* out);
  // y [m][n] (row stride y_stride) = or += product [m][n] (+ bias [n]). bias may be null.
  void (*store_product)(const float* product, int64_t m, int64_t n, const float* bias, bool accumulate, float* y,
                        int64_t y_stride);
  void (*to_f32_tiles[kNumDtypes])(const UnpackArgs&);
  void (*to_bf16_tiles[kNumDtypes])(const UnpackArgs&);
};

}  // namespace cachette::ops

namespace cachette::avx2 {
extern const ops::MatVecKernels kMatVecKernels;
extern const ops::UnpackKernels kUnpackKernels;
}  // namespace cachette::avx2
namespace cachette::avx512 {
extern const ops::MatVecKernels kMatVecKernels;
extern const ops::UnpackKernels kUnpackKernels;
}  // namespace cachette::avx512
namespace cachette::avx512vnni {
extern const ops::MatVecKernels kMatVecKernels;
extern const ops::UnpackKernels kUnpackKernels;
}  // namespace cachette::avx512vnni
namespace cachette::avx512bf16 {
extern const ops::MatVecKernels kMatVecKernels;
extern const ops::UnpackKernels kUnpackKernels;
}  // namespace cachette::avx512bf16
