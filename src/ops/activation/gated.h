#pragma once

#include <cstdint>

#include "tensor/context.h"

namespace cachette::ops {

enum class Activation : uint8_t {
  kSilu,      // x / (1 + exp(-x))
  kGeluTanh,  // tanh approximation of GELU (Gemma, "gelu_pytorch_tanh")
};

// out = activation(gate) * up, element-wise over [num_elements]; out may alias gate or up.
void GatedActivation(Context& cx, Activation activation, const float* gate, const float* up, float* out,
                     int64_t num_elements);

}  // namespace cachette::ops
