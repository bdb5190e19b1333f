#pragma once
// What gated.cc and its kernels agree on; not for other files.

#include <cstdint>

#include "tensor/isa.h"

namespace cachette::ops {

struct GatedSpan {
  const float* gate;
  const float* up;
  float* out;  // may be gate or up
  int64_t num_elements;
  bool is_gelu;
};

template <Isa>
void Gate(const GatedSpan& span);
template <>
void Gate<Isa::kRef>(const GatedSpan& span);
template <>
void Gate<Isa::kAvx2>(const GatedSpan& span);
template <>
void Gate<Isa::kAvx512>(const GatedSpan& span);
template <>
void Gate<Isa::kAvx512Vnni>(const GatedSpan& span);
template <>
void Gate<Isa::kAvx512Bf16>(const GatedSpan& span);

}  // namespace cachette::ops
