#include "ops/norm/rms_norm.h"

#include <algorithm>
#include <array>

#include "base/result.h"
#include "ops/norm/rms_norm_kernels.h"

namespace cachette::ops {
namespace {

// Elements a task handles: about 10 us of work, several times the cost of waking a thread.
constexpr int64_t kTaskElements = 64 << 10;

using NormRowFn = void (*)(const RmsNormRow&);

NormRowFn NormRowOf(Isa isa) {
#if defined(CACHETTE_X86)
  constexpr std::array<NormRowFn, kNumIsas> kTable = {RmsNormRowRef, avx2::NormRow, avx512::NormRow,
                                                      avx512vnni::NormRow, avx512bf16::NormRow};
  return kTable[static_cast<size_t>(isa)];
#else
  (void)isa;
  return RmsNormRowRef;
#endif
}

}  // namespace

void RmsNorm(Context& cx, const RmsNormParams& params) {
  CACHETTE_CHECK(params.dim > 0 && params.num_rows >= 0);
  const NormRowFn norm_row = NormRowOf(cx.isa());
  const int64_t per_task = std::max<int64_t>(1, kTaskElements / params.dim);
  cx.ParallelFor((params.num_rows + per_task - 1) / per_task, [&](int64_t task) {
    const int64_t end = std::min(params.num_rows, (task + 1) * per_task);
    for (int64_t r = task * per_task; r < end; ++r)
      norm_row({params.x + r * params.x_stride, params.out + r * params.out_stride, params.dim, params.weight,
                params.eps, params.weight_offset});
  });
}

}  // namespace cachette::ops
