#include <cmath>
#include <numbers>

#include "ops/activation/gated_kernels.h"

namespace cachette::ops {
namespace {

double Silu(double x) { return x / (1.0 + std::exp(-x)); }

double GeluTanh(double x) {
  const double inner = std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x);
  return 0.5 * x * (1.0 + std::tanh(inner));
}

}  // namespace

template <>
void Gate<Isa::kRef>(const GatedSpan& span) {
  for (int64_t i = 0; i < span.num_elements; ++i) {
    const auto gate = static_cast<double>(span.gate[i]);
    span.out[i] = static_cast<float>((span.is_gelu ? GeluTanh(gate) : Silu(gate)) * static_cast<double>(span.up[i]));
  }
}

}  // namespace cachette::ops
