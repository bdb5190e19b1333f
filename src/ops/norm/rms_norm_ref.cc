#include <cmath>

#include "ops/norm/rms_norm_kernels.h"

namespace cachette::ops {

template <>
void NormRow<Isa::kRef>(const RmsNormRow& row) {
  double sum = 0.0;
  for (int64_t i = 0; i < row.dim; ++i) sum += static_cast<double>(row.x[i]) * static_cast<double>(row.x[i]);
  const double inverse = 1.0 / std::sqrt(sum / static_cast<double>(row.dim) + static_cast<double>(row.eps));
  for (int64_t i = 0; i < row.dim; ++i)
    row.out[i] = static_cast<float>(static_cast<double>(row.x[i]) * inverse *
                                    (static_cast<double>(row.weight[i]) + static_cast<double>(row.weight_offset)));
}

}  // namespace cachette::ops
