#include "ops/linear/linear_ref.h"

#include <vector>

#include "ops/quant/dequantize.h"

namespace cachette::ops {

void LinearRef(std::span<const LinearOutput> outputs, const float* x, int64_t num_rows) {
  for (const LinearOutput& out : outputs) {
    const MatrixView& w = out.weight->source();
    const size_t row_bytes = RowBytes(w.dtype, w.cols);
    std::vector<float> row(static_cast<size_t>(w.cols));
    for (int64_t n = 0; n < w.rows; ++n) {
      Dequantize(w.dtype, w.data + static_cast<size_t>(n) * row_bytes, w.cols, row.data());
      for (int64_t r = 0; r < num_rows; ++r) {
        double sum = 0.0;
        for (int64_t k = 0; k < w.cols; ++k)
          sum += static_cast<double>(x[r * w.cols + k]) * static_cast<double>(row[static_cast<size_t>(k)]);
        float value = static_cast<float>(sum);
        if (out.bias != nullptr) value += out.bias[n];
        float& y = out.y[r * out.y_stride + n];
        y = out.accumulate ? y + value : value;
      }
    }
  }
}

}  // namespace cachette::ops
