#pragma once
// What rms_norm.cc and its kernels agree on; not for other files.

#include <cstdint>

namespace cachette::ops {

struct RmsNormRow {
  const float* x;
  float* out;  // may be x
  int64_t dim;
  const float* weight;
  float eps;
  float weight_offset;
};

void RmsNormRowRef(const RmsNormRow& row);

}  // namespace cachette::ops

namespace cachette {
namespace avx2 {
void NormRow(const ops::RmsNormRow& row);
}
namespace avx512 {
void NormRow(const ops::RmsNormRow& row);
}
namespace avx512vnni {
void NormRow(const ops::RmsNormRow& row);
}
namespace avx512bf16 {
void NormRow(const ops::RmsNormRow& row);
}
}  // namespace cachette
