#include "ops/linear/linear_prefill.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "ops/linear/layout.h"
#include "ops/linear/pack.h"
#include "ops/numeric.h"

namespace cachette::ops {
namespace {

constexpr int64_t kRowStep = 32;               // two AMX tiles; the last rows of a call are padded to it
constexpr int64_t kSliceUnit = 32;             // columns; half a block of the GEMM's operand
constexpr int64_t kMaxTileBytes = 400 << 10;   // of x per GEMM
constexpr int64_t kMaxSliceBytes = 600 << 10;  // of unpacked weights per task
constexpr int64_t kMaxTileRows = 256;
constexpr int64_t kMaxSliceCols = 288;

// Rows [begin, begin + m) of x, of which num_valid exist.
struct RowTile {
  int64_t begin, m, num_valid;
};

// Few distinct m (32, 64, 128, 256), each of which costs a compiled primitive, whatever num_rows is.
std::vector<RowTile> RowTiles(int64_t num_rows, int64_t k, int64_t element_bytes) {
  int64_t m = kMaxTileRows;
  while (m > kRowStep && m * k * element_bytes > kMaxTileBytes) m /= 2;
  std::vector<RowTile> tiles;
  for (int64_t begin = 0; begin < num_rows; begin += m) {
    while (m > kRowStep && m > num_rows - begin) m /= 2;
    tiles.push_back({begin, m, std::min(m, num_rows - begin)});
  }
  return tiles;
}

// Columns per task: a multiple of kSliceUnit that fits the limits and deals out evenly over the threads.
int64_t SliceCols(int64_t rows, int64_t k, int64_t element_bytes, int num_threads) {
  const int64_t num_units = RoundUp(rows, kSliceUnit) / kSliceUnit;
  const int64_t max_cols = std::min(kMaxSliceCols, kMaxSliceBytes / (k * element_bytes));
  const int64_t max_units = std::max<int64_t>(1, max_cols / kSliceUnit);
  const int64_t fewest = RoundUp((num_units + max_units - 1) / max_units, num_threads);
  int64_t best_units = 1;
  int64_t least_work = INT64_MAX;  // of the busiest thread, in units
  for (int64_t num_slices = fewest; num_slices <= 3 * fewest; num_slices += num_threads) {
    const int64_t units = (num_units + num_slices - 1) / num_slices;
    const int64_t work = units * (num_slices / num_threads);
    if (work < least_work) {
      least_work = work;
      best_units = units;
    }
  }
  return best_units * kSliceUnit;
}

struct Slice {
  const LinearOutput* out;
  int64_t begin, cols;  // rows of the weight
  GemmOperand operand;
  std::vector<const Gemm*> gemms;  // one for each row tile
};

struct Plan {
  std::vector<RowTile> tiles;
  std::vector<Slice> slices;
  size_t operand_bytes = 0, scratch_bytes = 0, product_bytes = 0;  // per thread
};

Plan MakePlan(Context& cx, std::span<const LinearOutput> outputs, int64_t num_rows, int64_t k, bool is_bf16) {
  GemmCache& cache = cx.Cached<GemmCache>();
  const int64_t element_bytes = is_bf16 ? 2 : 4;
  Plan plan;
  plan.tiles = RowTiles(num_rows, k, element_bytes);
  for (const LinearOutput& out : outputs) {
    const int64_t rows = out.weight->rows();
    const int64_t slice_cols = SliceCols(rows, k, element_bytes, cx.num_threads());
    for (int64_t begin = 0; begin < rows; begin += slice_cols) {
      Slice slice{&out, begin, std::min(slice_cols, rows - begin), {}, {}};
      slice.operand = cache.Operand(slice.cols, k, is_bf16);
      plan.operand_bytes = std::max(plan.operand_bytes, slice.operand.num_bytes);
      for (const RowTile& tile : plan.tiles) {
        const Gemm& gemm = cache.Get({tile.m, slice.cols, k, is_bf16});
        slice.gemms.push_back(&gemm);
        plan.scratch_bytes = std::max(plan.scratch_bytes, gemm.scratch_bytes());
        plan.product_bytes = std::max(plan.product_bytes, static_cast<size_t>(tile.m * slice.cols) * sizeof(float));
      }
      plan.slices.push_back(std::move(slice));
    }
  }
  return plan;
}

// x as the GEMM reads it: [num_rows rounded up to kRowStep][k] in f32 or bf16, zero where x has nothing.
std::byte* ConvertRows(Context& cx, const float* x, int64_t num_rows, int64_t cols, int64_t k, bool is_bf16,
                       const UnpackKernels& kernels) {
  const size_t row_bytes = static_cast<size_t>(k) * (is_bf16 ? 2 : 4);
  const int64_t num_padded = RoundUp(num_rows, kRowStep);
  std::byte* converted = cx.scratch().Allocate(static_cast<size_t>(num_padded) * row_bytes);
  cx.ParallelFor(num_padded / kRowStep, [&](int64_t step) {
    for (int64_t r = step * kRowStep; r < (step + 1) * kRowStep; ++r) {
      std::byte* row = converted + static_cast<size_t>(r) * row_bytes;
      if (r >= num_rows || cols < k) std::memset(row, 0, row_bytes);
      if (r >= num_rows) continue;
      if (is_bf16) {
        kernels.to_bf16(x + r * cols, cols, reinterpret_cast<uint16_t*>(row));
      } else {
        std::memcpy(row, x + r * cols, static_cast<size_t>(cols) * 4);
      }
    }
  });
  return converted;
}

}  // namespace

GemmShape PrefillGemm(int64_t n, int64_t k, bool is_bf16, int num_threads) {
  const int64_t element_bytes = is_bf16 ? 2 : 4;
  const int64_t cols = std::min(n, SliceCols(n, k, element_bytes, num_threads));
  return {RowTiles(kMaxTileRows, k, element_bytes)[0].m, cols, k, is_bf16};
}

void LinearPrefill(Context& cx, std::span<const LinearOutput> outputs, const float* x, int64_t num_rows, GemmDtype gemm,
                   const UnpackKernels& kernels) {
  const int64_t cols = outputs[0].weight->cols();
  const int64_t k = RoundUp(cols, kBlockCols);
  const bool is_bf16 =
      gemm == GemmDtype::kBF16 && cx.isa() >= Isa::kAvx512Bf16 && cx.Cached<GemmCache>().SupportsBF16();
  const Plan plan = MakePlan(cx, outputs, num_rows, k, is_bf16);
  const ScratchScope scope(cx.scratch());
  const std::byte* x_rows = ConvertRows(cx, x, num_rows, cols, k, is_bf16, kernels);
  const size_t row_bytes = static_cast<size_t>(k) * (is_bf16 ? 2 : 4);

  const size_t operand_bytes = RoundUp(static_cast<int64_t>(plan.operand_bytes), 64);
  const size_t scratch_bytes = RoundUp(static_cast<int64_t>(plan.scratch_bytes), 64);
  const size_t thread_bytes = operand_bytes + scratch_bytes + plan.product_bytes;
  const size_t stride = RoundUp(static_cast<int64_t>(thread_bytes), 4096);
  std::byte* buffers = cx.scratch().Allocate(stride * static_cast<size_t>(cx.num_threads()));
  const int outer_level = omp_get_level();

  cx.ParallelFor(static_cast<int64_t>(plan.slices.size()), [&](int64_t task) {
    const Slice& slice = plan.slices[static_cast<size_t>(task)];
    const LinearOutput& out = *slice.out;
    const PackedWeight& weight = *out.weight->packed();
    const int thread_idx = omp_get_level() > outer_level ? omp_get_thread_num() : 0;
    std::byte* operand = buffers + stride * static_cast<size_t>(thread_idx);
    std::byte* scratch = operand + operand_bytes;
    auto* product = reinterpret_cast<float*>(scratch + scratch_bytes);

    const auto unpack = (is_bf16 ? kernels.to_bf16_tiles : kernels.to_f32_tiles)[static_cast<size_t>(weight.dtype)];
    unpack({weight.panels(), weight.panel_bytes, slice.begin / kPanelRows,
            (slice.begin + slice.cols + kPanelRows - 1) / kPanelRows, weight.cols, operand, slice.operand.tile});
    const float* bias = out.bias == nullptr ? nullptr : out.bias + slice.begin;
    for (size_t i = 0; i < plan.tiles.size(); ++i) {
      const RowTile& tile = plan.tiles[i];
      slice.gemms[i]->Run(x_rows + static_cast<size_t>(tile.begin) * row_bytes, operand, product, scratch);
      kernels.store_product(product, tile.num_valid, slice.cols, bias, out.accumulate,
                            out.y + tile.begin * out.y_stride + slice.begin, out.y_stride);
    }
  });
}

}  // namespace cachette::ops
