#pragma once
// The GEMM library behind prefill: compiled primitives, kept by shape.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "ops/linear/kernels.h"

namespace cachette::ops {

// y [m][n] f32 = x [m][k] . w [k][n]; x and w in f32 or bf16, all dense. Dense because oneDNN 2.6 falls back to its
// reference loops, 100 times slower, for a strided y; and the pass that moves y to its place adds bias and residual.
struct GemmShape {
  int64_t m, n, k;
  bool is_bf16;
  bool operator==(const GemmShape&) const = default;
};

// How w has to lie in memory, for any m.
struct GemmOperand {
  TileLayout tile;
  size_t num_bytes;
};

// One compiled product. Run uses the calling thread alone and may run on several threads at once.
class Gemm {
 public:
  virtual ~Gemm() = default;
  virtual size_t scratch_bytes() const = 0;
  virtual void Run(const void* x, const void* w, float* y, std::byte* scratch) const = 0;
};

// Compiled products by shape. Making one takes 0.3 to 1 ms, so callers keep the number of distinct m small.
class GemmCache {
 public:
  GemmCache();
  ~GemmCache();
  bool SupportsBF16() const;
  GemmOperand Operand(int64_t n, int64_t k, bool is_bf16);
  const Gemm& Get(const GemmShape& shape);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace cachette::ops
