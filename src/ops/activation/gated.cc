#include "ops/activation/gated.h"

#include <algorithm>

#include "base/result.h"
#include "ops/activation/gated_kernels.h"
#include "ops/simd.h"

namespace cachette::ops {
namespace {

// A multiple of 16, so that only the last task has a tail; about 10 us of work.
constexpr int64_t kTaskElements = 32 << 10;

}  // namespace

void GatedActivation(Context& cx, Activation activation, const float* gate, const float* up, float* out,
                     int64_t num_elements) {
  CACHETTE_CHECK(num_elements >= 0);
  const auto gate_span = ForIsa(cx.isa(), []<Isa kIsa>() { return &Gate<kIsa>; });
  cx.ParallelFor((num_elements + kTaskElements - 1) / kTaskElements, [&](int64_t task) {
    const int64_t begin = task * kTaskElements;
    gate_span({gate + begin, up + begin, out + begin, std::min(kTaskElements, num_elements - begin),
               activation == Activation::kGeluTanh});
  });
}

}  // namespace cachette::ops
