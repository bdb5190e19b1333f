#pragma once
// What rms_norm.cc and its kernels agree on; not for other files.

#include <cstdint>

#include "tensor/isa.h"

namespace cachette::ops {

struct RmsNormRow {
  const float* x;
  float* out;  // may be x
  int64_t dim;
  const float* weight;
  float eps;
  float weight_offset;
};

template <Isa>
void NormRow(const RmsNormRow& row);
template <>
void NormRow<Isa::kRef>(const RmsNormRow& row);
template <>
void NormRow<Isa::kAvx2>(const RmsNormRow& row);
template <>
void NormRow<Isa::kAvx512>(const RmsNormRow& row);
template <>
void NormRow<Isa::kAvx512Vnni>(const RmsNormRow& row);
template <>
void NormRow<Isa::kAvx512Bf16>(const RmsNormRow& row);

}  // namespace cachette::ops
