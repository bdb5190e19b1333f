// De-quantises packed panels into the operand layout of the GEMM library.
//
// Bytes moved: the panels (0.6 byte per value in q4_1) in, 2 or 4 bytes per value out, into a slice that stays in L2.
// Per 32 values of bf16: 4 operations to isolate bytes, 2 conversions, 2 multiply-adds, 1 rounding to bf16, 1 shuffle,
// 1 store; against 64 k-row products each of the GEMM that follows, it is a few percent from a few hundred rows on.

#include "ops/linear/decode_block.h"
#include "ops/linear/kernels.h"

namespace cachette::CACHETTE_ISA {
namespace {

// Puts the f32 values of (k, k + 1), k even, of kLanes columns starting at n into an f32 operand.
struct F32Out {
  using Element = float;
  static void Store(const ops::TileLayout& t, float* column, int64_t k, Floats even, Floats odd) {
    float* p = column + k / t.k_block * t.k_stride + k % t.k_block * t.n_block;
    StoreFloats(p, even);
    StoreFloats(p + t.n_block, odd);
  }
};

// As F32Out, rounded to bf16; with pack = 2 the two values of a column lie side by side, as dot-product units read
// them.
struct BF16Out {
  using Element = uint16_t;
  static void Store(const ops::TileLayout& t, uint16_t* column, int64_t k, Floats even, Floats odd) {
    uint16_t* p = column + k / t.k_block * t.k_stride + k % t.k_block * t.n_block;
    if (t.pack == 2) {
      StoreBF16Pairs(p, even, odd);
    } else {
      StoreBF16(p, even);
      StoreBF16(p + t.n_block, odd);
    }
  }
};

template <class Out>
inline typename Out::Element* Column(const ops::UnpackArgs& a, int64_t n) {
  const ops::TileLayout& t = a.tile;
  return static_cast<typename Out::Element*>(a.out) + n / t.n_block * t.n_stride + n % t.n_block * t.pack;
}

template <class L, class Out>
void UnpackBlocks(const ops::UnpackArgs& a) {
  const int64_t num_blocks = a.cols / ops::kBlockCols;
  for (int64_t panel_idx = a.panel_begin; panel_idx < a.panel_end; ++panel_idx) {
    const uint8_t* panel = a.panels + panel_idx * a.panel_bytes;
    for (int half = 0; half < kHalves; ++half) {
      auto* column = Column<Out>(a, (panel_idx - a.panel_begin) * ops::kPanelRows + half * kLanes);
      for (int64_t b = 0; b < num_blocks; ++b) {
        Block block;
        LoadBlock<L>(panel, b, half, block);
        if constexpr (L::kNumSubScales == 1) block.scale[1] = block.scale[0];
        Floats min[2];
        for (int s = 0; s < 2; ++s)
          min[s] = L::kHasMin ? block.min : Mul(block.scale[s], Repeat(static_cast<float>(-L::kOffset)));
        for (int g = 0; g < kNumGroups; ++g) {
          const Floats scale = block.scale[g / 4];
          const Floats shift = min[g / 4];
          const Words w = block.group[g];
          const int64_t k = b * ops::kBlockCols + 4 * g;
          Out::Store(a.tile, column, k, Fma(ByteToFloats<0>(w), scale, shift), Fma(ByteToFloats<1>(w), scale, shift));
          Out::Store(a.tile, column, k + 2, Fma(ByteToFloats<2>(w), scale, shift),
                     Fma(ByteToFloats<3>(w), scale, shift));
        }
      }
    }
  }
}

template <class W, class Out>
void UnpackPlain(const ops::UnpackArgs& a) {
  const int64_t cols4 = (a.cols + 3) / 4 * 4;
  const int64_t cols32 = (a.cols + ops::kBlockCols - 1) / ops::kBlockCols * ops::kBlockCols;
  for (int64_t panel_idx = a.panel_begin; panel_idx < a.panel_end; ++panel_idx) {
    const uint8_t* panel = a.panels + panel_idx * a.panel_bytes;
    for (int half = 0; half < kHalves; ++half) {
      auto* column = Column<Out>(a, (panel_idx - a.panel_begin) * ops::kPanelRows + half * kLanes);
      for (int64_t k = 0; k < cols4; k += 2) {
        Floats even, odd;
        W::Load(panel, k, half, even, odd);
        Out::Store(a.tile, column, k, even, odd);
      }
      for (int64_t k = cols4; k < cols32; k += 2) Out::Store(a.tile, column, k, ZeroFloats(), ZeroFloats());
    }
  }
}

void ToBF16(const float* in, int64_t n, uint16_t* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) StoreBF16(out + i, LoadFloats(in + i));
  for (; i < n; ++i) {
    float lanes[kLanes] = {in[i]};
    uint16_t rounded[kLanes];
    StoreBF16(rounded, LoadFloats(lanes));
    out[i] = rounded[0];
  }
}

void StoreProduct(const float* product, int64_t m, int64_t n, const float* bias, bool accumulate, float* y,
                  int64_t y_stride) {
  for (int64_t r = 0; r < m; ++r, product += n, y += y_stride) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      Floats v = LoadFloats(product + i);
      if (bias != nullptr) v = Add(v, LoadFloats(bias + i));
      if (accumulate) v = Add(LoadFloats(y + i), v);
      StoreFloats(y + i, v);
    }
    for (; i < n; ++i) {
      const float v = bias != nullptr ? product[i] + bias[i] : product[i];
      y[i] = accumulate ? y[i] + v : v;
    }
  }
}

}  // namespace

const ops::UnpackKernels kUnpackKernels = {
    ToBF16,
    StoreProduct,
    {UnpackPlain<F32Weights, F32Out>, UnpackPlain<F16Weights, F32Out>, UnpackPlain<BF16Weights, F32Out>,
     UnpackBlocks<ops::LayoutQ8_0, F32Out>, UnpackBlocks<ops::LayoutQ4_0, F32Out>,
     UnpackBlocks<ops::LayoutQ4_1, F32Out>, UnpackBlocks<ops::LayoutQ5_0, F32Out>,
     UnpackBlocks<ops::LayoutQ5_1, F32Out>, UnpackBlocks<ops::LayoutQ4_K, F32Out>,
     UnpackBlocks<ops::LayoutQ5_K, F32Out>, UnpackBlocks<ops::LayoutQ6_K, F32Out>},
    {UnpackPlain<F32Weights, BF16Out>, UnpackPlain<F16Weights, BF16Out>, UnpackPlain<BF16Weights, BF16Out>,
     UnpackBlocks<ops::LayoutQ8_0, BF16Out>, UnpackBlocks<ops::LayoutQ4_0, BF16Out>,
     UnpackBlocks<ops::LayoutQ4_1, BF16Out>, UnpackBlocks<ops::LayoutQ5_0, BF16Out>,
     UnpackBlocks<ops::LayoutQ5_1, BF16Out>, UnpackBlocks<ops::LayoutQ4_K, BF16Out>,
     UnpackBlocks<ops::LayoutQ5_K, BF16Out>, UnpackBlocks<ops::LayoutQ6_K, BF16Out>}};

}  // namespace cachette::CACHETTE_ISA
