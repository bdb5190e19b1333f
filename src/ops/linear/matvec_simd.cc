// Mat-vec over packed panels, and the activation rounding that goes with it.
//
// Bytes moved: the panels once per up to kRowsPerPass rows of x (later passes over a panel hit L1/L2: a panel of
// 1536 columns is 15 KB in q4_1); x and y are noise. The roofline is the read bandwidth: a q4_1 block of 16 rows is
// 320 bytes = 5 cache lines and takes about 8 dot products, 8 unpacking operations and 6 more, some 15 cycles of a
// core that needs 60 or more to read it.
// No software prefetch: one contiguous stream per core on huge pages is what the hardware's follows best. 0.5 and 1 KB
// ahead change nothing, 4 KB ahead costs 17 % (Sapphire Rapids, 2 cores).

#include "ops/linear/decode_block.h"
#include "ops/linear/kernels.h"

namespace cachette::CACHETTE_ISA {
namespace {

#if defined(CACHETTE_HAS_AVX512)
constexpr int kRowsPerPass = 4;
#else
constexpr int kRowsPerPass = 2;  // 16 registers; each pass has two halves
#endif

void QuantizeRows(const float* x, int64_t num_rows, int64_t cols, const ops::QuantizedRows& out) {
  const int64_t num_blocks = num_rows * cols / ops::kBlockCols;  // rows are contiguous: one run of blocks
  constexpr int kParts = ops::kBlockCols / kLanes;
  for (int64_t b = 0; b < num_blocks; ++b) {
    const float* in = x + b * ops::kBlockCols;
    Floats v[kParts];
    for (int i = 0; i < kParts; ++i) v[i] = LoadFloats(in + i * kLanes);
    const float largest = LargestMagnitude(v, kParts);
    const float scale = largest / 127.0f;
    const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
    int32_t sums[2] = {0, 0};
    for (int i = 0; i < kParts; ++i) {
      const Words q = RoundToWords(Mul(v[i], Repeat(inverse)));
      StoreAsBytes(out.q + b * ops::kBlockCols + i * kLanes, q);
      sums[2 * i / kParts] += SumWords(q);
    }
    out.scale[b] = scale;
    out.scaled_sum[b] = scale * static_cast<float>(sums[0] + sums[1]);
    out.half_sum[2 * b] = sums[0];
    out.half_sum[2 * b + 1] = sums[1];
  }
}

// Adds lanes [0, valid) of sum to y (or replaces it), with the bias. The order y + (sum + bias) is part of the result.
inline void StoreLanes(const ops::MatVecArgs& a, Floats sum, int64_t row, float* y) {
  if (row + kLanes <= a.rows) {
    if (a.bias != nullptr) sum = Add(sum, LoadFloats(a.bias + row));
    if (a.accumulate) sum = Add(LoadFloats(y + row), sum);
    StoreFloats(y + row, sum);
    return;
  }
  float lanes[kLanes];
  StoreFloats(lanes, sum);
  for (int i = 0; row + i < a.rows; ++i) {
    float v = lanes[i];
    if (a.bias != nullptr) v += a.bias[row + i];
    y[row + i] = a.accumulate ? y[row + i] + v : v;
  }
}

// kNumRows rows of x, from row_idx on, times one panel. Every row has its own accumulators and sees the same
// operations in the same order whatever kNumRows is.
template <class L, int kNumRows>
void BlockPanel(const ops::MatVecArgs& a, int64_t panel_idx, int64_t row_idx) {
  const uint8_t* panel = a.panels + panel_idx * a.panel_bytes;
  const int64_t num_blocks = a.cols / ops::kBlockCols;
  Floats sums[kHalves][kNumRows];
  for (auto& half : sums)
    for (Floats& sum : half) sum = ZeroFloats();
  for (int64_t b = 0; b < num_blocks; ++b) {
    for (int half = 0; half < kHalves; ++half) {
      Block block;
      LoadBlock<L>(panel, b, half, block);
      for (int r = 0; r < kNumRows; ++r) {
        const int64_t x_block = (row_idx + r) * num_blocks + b;
        const auto* words = reinterpret_cast<const int32_t*>(a.xq.q + x_block * ops::kBlockCols);
        const int32_t* half_sum = a.xq.half_sum + 2 * x_block;
        const Floats x_scale = Repeat(a.xq.scale[x_block]);
        Floats sum = sums[half][r];
        if constexpr (L::kNumSubScales == 2) {
          const Words dot0 = DotGroups<L::kBits, 4>(block.group, words, L::kOffset * half_sum[0]);
          const Words dot1 = DotGroups<L::kBits, 4>(block.group + 4, words + 4, L::kOffset * half_sum[1]);
          const Floats dot = Fma(ToFloats(dot1), block.scale[1], Mul(ToFloats(dot0), block.scale[0]));
          sum = Fma(dot, x_scale, sum);
        } else {
          const int32_t offset_sum = L::kOffset == 0 ? 0 : L::kOffset * (half_sum[0] + half_sum[1]);
          const Words dot = DotGroups<L::kBits, 8>(block.group, words, offset_sum);
          sum = Fma(ToFloats(dot), Mul(block.scale[0], x_scale), sum);
        }
        if constexpr (L::kHasMin) sum = Fma(block.min, Repeat(a.xq.scaled_sum[x_block]), sum);
        sums[half][r] = sum;
      }
    }
  }
  for (int r = 0; r < kNumRows; ++r)
    for (int half = 0; half < kHalves; ++half)
      StoreLanes(a, sums[half][r], panel_idx * ops::kPanelRows + half * kLanes, a.y + (row_idx + r) * a.y_stride);
}

template <class L>
struct BlockKernel {
  template <int kNumRows>
  static void Panel(const ops::MatVecArgs& a, int64_t panel_idx, int64_t row_idx) {
    BlockPanel<L, kNumRows>(a, panel_idx, row_idx);
  }
};

// As BlockPanel, for plain formats: f32 multiply-adds in 4 chains (k mod 4), so that latency does not bound one row.
// bf16 is widened, not dotted natively: that would round x to 8 bits for no gain, the loop waits for memory.
template <class W, int kNumRows>
void PlainPanel(const ops::MatVecArgs& a, int64_t panel_idx, int64_t row_idx) {
  const uint8_t* panel = a.panels + panel_idx * a.panel_bytes;
  for (int half = 0; half < kHalves; ++half) {
    Floats sums[kNumRows][4];
    for (auto& row : sums)
      for (Floats& sum : row) sum = ZeroFloats();
    for (int64_t k = 0; k < a.cols; k += 4) {
      Floats w[4];
      W::Load(panel, k, half, w[0], w[1]);
      W::Load(panel, k + 2, half, w[2], w[3]);
      for (int r = 0; r < kNumRows; ++r) {
        const float* x = a.x + (row_idx + r) * a.cols + k;
        for (int i = 0; i < 4; ++i) sums[r][i] = Fma(w[i], Repeat(x[i]), sums[r][i]);
      }
    }
    for (int r = 0; r < kNumRows; ++r)
      StoreLanes(a, Add(Add(sums[r][0], sums[r][1]), Add(sums[r][2], sums[r][3])),
                 panel_idx * ops::kPanelRows + half * kLanes, a.y + (row_idx + r) * a.y_stride);
  }
}

template <class W>
struct PlainKernel {
  template <int kNumRows>
  static void Panel(const ops::MatVecArgs& a, int64_t panel_idx, int64_t row_idx) {
    PlainPanel<W, kNumRows>(a, panel_idx, row_idx);
  }
};

template <class Kernel>
void MatVec(const ops::MatVecArgs& a) {
  for (int64_t panel_idx = a.panel_begin; panel_idx < a.panel_end; ++panel_idx) {
    int64_t r = 0;
    for (; r + kRowsPerPass <= a.num_rows; r += kRowsPerPass) Kernel::template Panel<kRowsPerPass>(a, panel_idx, r);
    for (; r + 2 <= a.num_rows; r += 2) Kernel::template Panel<2>(a, panel_idx, r);
    for (; r < a.num_rows; ++r) Kernel::template Panel<1>(a, panel_idx, r);
  }
}

}  // namespace

const ops::MatVecKernels kMatVecKernels = {
    QuantizeRows,
    {MatVec<PlainKernel<F32Weights>>, MatVec<PlainKernel<F16Weights>>, MatVec<PlainKernel<BF16Weights>>,
     MatVec<BlockKernel<ops::LayoutQ8_0>>, MatVec<BlockKernel<ops::LayoutQ4_0>>, MatVec<BlockKernel<ops::LayoutQ4_1>>,
     MatVec<BlockKernel<ops::LayoutQ5_0>>, MatVec<BlockKernel<ops::LayoutQ5_1>>, MatVec<BlockKernel<ops::LayoutQ4_K>>,
     MatVec<BlockKernel<ops::LayoutQ5_K>>, MatVec<BlockKernel<ops::LayoutQ6_K>>}};

}  // namespace cachette::CACHETTE_ISA
