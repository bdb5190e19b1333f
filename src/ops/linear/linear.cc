#include "ops/linear/linear.h"

#include <algorithm>
#include <cstring>

#include "ops/linear/kernels.h"
#include "ops/linear/layout.h"
#include "ops/linear/linear_prefill.h"
#include "ops/linear/linear_ref.h"
#include "ops/linear/pack.h"
#include "ops/quant/dequantize.h"

namespace cachette::ops {
namespace {

#if defined(CACHETTE_X86)
constexpr const MatVecKernels* kMatVec[kNumIsas] = {nullptr, &avx2::kMatVecKernels, &avx512::kMatVecKernels,
                                                    &avx512vnni::kMatVecKernels, &avx512bf16::kMatVecKernels};
constexpr const UnpackKernels* kUnpack[kNumIsas] = {nullptr, &avx2::kUnpackKernels, &avx512::kUnpackKernels,
                                                    &avx512vnni::kUnpackKernels, &avx512bf16::kUnpackKernels};
#else
constexpr const MatVecKernels* kMatVec[kNumIsas] = {};
constexpr const UnpackKernels* kUnpack[kNumIsas] = {};
#endif

// Below this many bytes of weights a second thread costs more than it saves.
constexpr int64_t kMinParallelBytes = 32 << 10;

// x in the form the mat-vec kernels read, in scratch; shared by all outputs.
struct DecodeRows {
  QuantizedRows quantized{};
  const float* plain = nullptr;
};

DecodeRows PrepareRows(Context& cx, std::span<const LinearOutput> outputs, const float* x, int64_t num_rows,
                       const MatVecKernels& kernels) {
  const int64_t cols = outputs[0].weight->cols();
  DecodeRows rows;
  bool needs_quantized = false;
  bool needs_plain = false;
  for (const LinearOutput& out : outputs) (IsQuantized(out.weight->dtype()) ? needs_quantized : needs_plain) = true;
  if (needs_quantized) {
    const auto num_values = static_cast<size_t>(num_rows * cols);
    rows.quantized = {cx.scratch().Array<int8_t>(num_values).data(),
                      cx.scratch().Array<float>(num_values / kBlockCols).data(),
                      cx.scratch().Array<float>(num_values / kBlockCols).data(),
                      cx.scratch().Array<int32_t>(num_values / kBlockCols * 2).data()};
    kernels.quantize_rows(x, num_rows, cols, rows.quantized);
  }
  if (needs_plain) {
    rows.plain = x;
    const int64_t cols4 = (cols + 3) / 4 * 4;
    if (cols4 != cols) {
      float* padded = cx.scratch().Array<float>(static_cast<size_t>(num_rows * cols4)).data();
      std::memset(padded, 0, static_cast<size_t>(num_rows * cols4) * sizeof(float));
      for (int64_t r = 0; r < num_rows; ++r) std::copy_n(x + r * cols, cols, padded + r * cols4);
      rows.plain = padded;
    }
  }
  return rows;
}

// Cuts the panels of all outputs, laid end to end, into num_tasks runs of about equal bytes and does run task.
void RunShare(std::span<const LinearOutput> outputs, const DecodeRows& rows, int64_t num_rows,
              const MatVecKernels& kernels, int64_t task, int64_t num_tasks, int64_t total_bytes) {
  const int64_t share_begin = total_bytes * task / num_tasks;
  const int64_t share_end = total_bytes * (task + 1) / num_tasks;
  int64_t output_begin = 0;
  for (const LinearOutput& out : outputs) {
    const PackedWeight& w = *out.weight->packed();
    // A panel belongs to the share in which its first byte lies.
    const auto first_panel_from = [&](int64_t byte) {
      const int64_t inside = std::max<int64_t>(0, byte - output_begin);
      return w.panel_bytes == 0 ? 0 : std::min(w.num_panels, (inside + w.panel_bytes - 1) / w.panel_bytes);
    };
    const int64_t begin = first_panel_from(share_begin);
    const int64_t end = task + 1 == num_tasks ? w.num_panels : first_panel_from(share_end);
    output_begin += w.num_panels * w.panel_bytes;
    if (begin >= end) continue;
    kernels.mat_vec[static_cast<size_t>(w.dtype)]({w.panels(), w.panel_bytes, begin, end, w.rows, w.cols_padded,
                                                   num_rows, rows.quantized, rows.plain, out.y, out.y_stride, out.bias,
                                                   out.accumulate});
  }
}

void LinearDecode(Context& cx, std::span<const LinearOutput> outputs, const float* x, int64_t num_rows) {
  const MatVecKernels& kernels = *kMatVec[static_cast<int>(cx.isa())];
  const ScratchScope scope(cx.scratch());
  const DecodeRows rows = PrepareRows(cx, outputs, x, num_rows, kernels);
  int64_t total_bytes = 0;
  for (const LinearOutput& out : outputs) total_bytes += static_cast<int64_t>(out.weight->read_bytes());
  const int64_t num_tasks = total_bytes * num_rows < kMinParallelBytes ? 1 : cx.num_threads();
  cx.ParallelFor(num_tasks,
                 [&](int64_t task) { RunShare(outputs, rows, num_rows, kernels, task, num_tasks, total_bytes); });
}

}  // namespace

void Linear(Context& cx, std::span<const LinearOutput> outputs, const float* x, int64_t num_rows, LinearMode mode,
            GemmDtype gemm) {
  CACHETTE_CHECK(num_rows >= 0);
  if (outputs.empty() || num_rows == 0) return;
  for (const LinearOutput& out : outputs) {
    CACHETTE_CHECK(out.weight != nullptr && out.weight->cols() == outputs[0].weight->cols());
    CACHETTE_CHECK(out.y_stride >= out.weight->rows());
    CACHETTE_CHECK((out.weight->packed() == nullptr) == (cx.isa() == Isa::kRef));
  }
  if (cx.isa() == Isa::kRef) {
    LinearRef(outputs, x, num_rows);
  } else if (mode == LinearMode::kDecode || outputs[0].weight->cols() == 0) {
    LinearDecode(cx, outputs, x, num_rows);
  } else {
    LinearPrefill(cx, outputs, x, num_rows, gemm, *kUnpack[static_cast<int>(cx.isa())]);
  }
}

void WeightRow(const Weight& weight, int64_t row_idx, float* out) {
  CACHETTE_CHECK(row_idx >= 0 && row_idx < weight.rows());
  if (weight.packed() != nullptr) return UnpackRow(*weight.packed(), row_idx, out);
  const MatrixView& source = weight.source();
  const size_t row_bytes = RowBytes(source.dtype, source.cols);
  Dequantize(source.dtype, source.data + static_cast<size_t>(row_idx) * row_bytes, source.cols, out);
}

}  // namespace cachette::ops
