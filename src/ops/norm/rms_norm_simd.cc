#include "ops/norm/rms_norm_kernels.h"
#include "ops/simd_vec.h"

namespace cachette::ops {

using namespace CACHETTE_ISA;

// Lane sums bound the error of the mean by (dim / 32 + 5) eps: two accumulators of 16 lanes.
template <>
void NormRow<kIsa>(const RmsNormRow& row) {
  const int64_t whole = row.dim / 16 * 16;
  F32x16 a = Set1(0.0f), b = a;
  int64_t i = 0;
  for (; i + 32 <= whole; i += 32) {
    const F32x16 x = Load(row.x + i), y = Load(row.x + i + 16);
    a = Fma(x, x, a);
    b = Fma(y, y, b);
  }
  if (i < whole) {
    const F32x16 x = Load(row.x + i);
    a = Fma(x, x, a);
  }
  float sum = ReduceSum(a + b);
  for (i = whole; i < row.dim; ++i) sum += row.x[i] * row.x[i];
  const float inverse = 1.0f / __builtin_sqrtf(sum / static_cast<float>(row.dim) + row.eps);
  for (i = 0; i < whole; i += 16)
    Store(row.out + i, Load(row.x + i) * Set1(inverse) * (Load(row.weight + i) + Set1(row.weight_offset)));
  for (; i < row.dim; ++i) row.out[i] = row.x[i] * inverse * (row.weight[i] + row.weight_offset);
}

}  // namespace cachette::ops
