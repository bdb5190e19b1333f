#include "ops/norm/rms_norm.h"

#include <algorithm>

#include "base/result.h"
#include "ops/norm/rms_norm_kernels.h"
#include "ops/simd.h"

namespace cachette::ops {
namespace {

// Elements a task handles: about 10 us of work, several times the cost of waking a thread.
constexpr int64_t kTaskElements = 64 << 10;

}  // namespace

void RmsNorm(Context& cx, const RmsNormParams& params) {
  CACHETTE_CHECK(params.dim > 0 && params.num_rows >= 0);
  const auto norm_row = ForIsa(cx.isa(), []<Isa kIsa>() { return &NormRow<kIsa>; });
  const int64_t per_task = std::max<int64_t>(1, kTaskElements / params.dim);
  cx.ParallelFor((params.num_rows + per_task - 1) / per_task, [&](int64_t task) {
    const int64_t end = std::min(params.num_rows, (task + 1) * per_task);
    for (int64_t r = task * per_task; r < end; ++r)
      norm_row({params.x + r * params.x_stride, params.out + r * params.out_stride, params.dim, params.weight,
                params.eps, params.weight_offset});
  });
}

}  // namespace cachette::ops
