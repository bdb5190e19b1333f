#include "ops/linear/pack.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "base/half.h"
#include "ops/linear/layout.h"

namespace cachette::ops {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;
constexpr size_t kSlabBytes = size_t{64} << 20;  // address space; pages are taken as they are written
constexpr uint32_t kNibbles = 0x0f0f0f0fu;

template <class T>
T Load(const uint8_t* p) {
  T v;
  std::memcpy(&v, p, sizeof(T));
  return v;
}

// One row's part of one block, in the units of layout.h.
struct RowBlock {
  uint16_t d = 0, m = 0;           // f16 bits; K-quants: of the header, m negated
  uint8_t scale[2] = {}, min = 0;  // K-quants
  uint32_t low[8] = {};            // 4 used below 8 bits
  uint32_t high[2] = {};           // 1 used at 5 bits
};

// Bits 0, 4, 8, .. 28 of x, gathered in the low byte.
uint32_t EveryFourthBit(uint32_t x) {
  x &= 0x11111111u;
  x = (x | x >> 3) & 0x03030303u;
  x = (x | x >> 6) & 0x000f000fu;
  return (x | x >> 12) & 0xffu;
}

// 32 high bits, bit k for value k, to the order of the 5-bit plane: bit j of byte t for k = 4j + t.
uint32_t HighPlane(uint32_t bits) {
  return EveryFourthBit(bits) | EveryFourthBit(bits >> 1) << 8 | EveryFourthBit(bits >> 2) << 16 |
         EveryFourthBit(bits >> 3) << 24;
}

// 6-bit scale and minimum of block j of a q4_K or q5_K super-block: 12 bytes hold 8 of each, the upper two bits of the
// last four apart.
void LoadScaleMin(const uint8_t* s, int j, RowBlock& out) {
  if (j < 4) {
    out.scale[0] = s[j] & 63;
    out.min = s[j + 4] & 63;
  } else {
    out.scale[0] = static_cast<uint8_t>((s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
    out.min = static_cast<uint8_t>((s[j + 4] >> 4) | (s[j] >> 6) << 4);
  }
}

// The nibbles of block j of a q4_K or q5_K super-block: 32 bytes hold blocks 2i (low) and 2i + 1 (high).
void LoadNibbles(const uint8_t* qs, int j, RowBlock& out) {
  const uint8_t* q = qs + j / 2 * 32;
  const int shift = j % 2 * 4;
  for (int i = 0; i < 4; ++i) {
    const uint32_t first = Load<uint32_t>(q + 4 * i) >> shift & kNibbles;
    const uint32_t second = Load<uint32_t>(q + 16 + 4 * i) >> shift & kNibbles;
    out.low[i] = first | second << 4;
  }
}

// Readers: block block_idx of a source row.
struct ReadQ8_0 {
  using Layout = LayoutQ8_0;
  static void Read(const uint8_t* row, int64_t block_idx, RowBlock& out) {
    const uint8_t* p = row + 34 * block_idx;
    out.d = Load<uint16_t>(p);
    for (int i = 0; i < 8; ++i) out.low[i] = Load<uint32_t>(p + 2 + 4 * i) ^ 0x80808080u;  // q + 128
  }
};
template <int kBits, bool kHasMin>
struct ReadQ45 {  // q4_0, q4_1, q5_0, q5_1: d, (m,) (32 high bits,) 16 bytes of nibbles k and k + 16
  using Layout = PackLayout<kBits, kHasMin, false>;
  static constexpr int kHeader = kHasMin ? 4 : 2;
  static constexpr int kHigh = kBits == 5 ? 4 : 0;
  static void Read(const uint8_t* row, int64_t block_idx, RowBlock& out) {
    const uint8_t* p = row + (kHeader + kHigh + 16) * block_idx;
    out.d = Load<uint16_t>(p);
    if (kHasMin) out.m = Load<uint16_t>(p + 2);
    if (kBits == 5) out.high[0] = HighPlane(Load<uint32_t>(p + kHeader));
    for (int i = 0; i < 4; ++i) out.low[i] = Load<uint32_t>(p + kHeader + kHigh + 4 * i);
  }
};
template <int kBits>
struct ReadQ45K {  // q4_K, q5_K: d, dmin, 12 bytes of scales, (32 bytes of high bits,) 128 bytes of nibbles
  using Layout = PackLayout<kBits, true, true>;
  static constexpr int kHigh = kBits == 5 ? 32 : 0;
  static void Read(const uint8_t* row, int64_t block_idx, RowBlock& out) {
    const uint8_t* p = row + (144 + kHigh) * (block_idx / kSuperBlocks);
    const int j = static_cast<int>(block_idx % kSuperBlocks);
    out.d = Load<uint16_t>(p);
    out.m = Load<uint16_t>(p + 2) ^ 0x8000u;
    LoadScaleMin(p + 4, j, out);
    LoadNibbles(p + 16 + kHigh, j, out);
    if (kBits == 5) {
      out.high[0] = 0;
      for (int g = 0; g < 8; ++g) out.high[0] |= (Load<uint32_t>(p + 16 + 4 * g) >> j & 0x01010101u) << g;
    }
  }
};
struct ReadQ6_K {  // 128 bytes of low nibbles, 64 of high pairs, 16 scales, d; in two halves of 128 values
  using Layout = LayoutQ6_K;
  static void Read(const uint8_t* row, int64_t block_idx, RowBlock& out) {
    const uint8_t* p = row + 210 * (block_idx / kSuperBlocks);
    const int j = static_cast<int>(block_idx % kSuperBlocks);
    const uint8_t* low = p + j / 4 * 64 + j % 2 * 32;
    const uint8_t* high = p + 128 + j / 4 * 32;
    const int low_shift = j % 4 / 2 * 4;
    const int high_shift = j % 4 * 2;
    out.d = Load<uint16_t>(p + 208);
    out.scale[0] = p[192 + 2 * j];
    out.scale[1] = p[192 + 2 * j + 1];
    out.high[0] = out.high[1] = 0;
    for (int i = 0; i < 4; ++i) {
      const uint32_t first = Load<uint32_t>(low + 4 * i) >> low_shift & kNibbles;
      const uint32_t second = Load<uint32_t>(low + 16 + 4 * i) >> low_shift & kNibbles;
      out.low[i] = first | second << 4;
      out.high[0] |= (Load<uint32_t>(high + 4 * i) >> high_shift & 0x03030303u) << 2 * i;
      out.high[1] |= (Load<uint32_t>(high + 16 + 4 * i) >> high_shift & 0x03030303u) << 2 * i;
    }
  }
};

template <class Reader>
void PackBlocks(const MatrixView& source, int64_t panel_idx, uint8_t* panel) {
  using L = typename Reader::Layout;
  const size_t row_bytes = RowBytes(source.dtype, source.cols);
  const int64_t first_row = panel_idx * kPanelRows;
  const int num_rows = static_cast<int>(std::min<int64_t>(kPanelRows, source.rows - first_row));
  const auto* rows = reinterpret_cast<const uint8_t*>(source.data) + static_cast<size_t>(first_row) * row_bytes;
  const int64_t num_blocks = source.cols / kBlockCols;
  for (int64_t b = 0; b < num_blocks; ++b) {
    uint8_t* unit = panel + b / L::kUnitBlocks * L::kUnitBytes;
    uint8_t* block = unit + L::kHeaderBytes + b % L::kUnitBlocks * L::kBlockBytes;
    uint8_t* high = block + L::kScaleBytes;
    uint8_t* low = high + L::kHighBytes;
    for (int r = 0; r < kPanelRows; ++r) {
      RowBlock in;
      if (r < num_rows) Reader::Read(rows + static_cast<size_t>(r) * row_bytes, b, in);
      uint8_t* floats = L::kIsSuper ? unit : block;
      std::memcpy(floats + 2 * r, &in.d, 2);
      if (L::kHasMin) std::memcpy(floats + 32 + 2 * r, &in.m, 2);
      if (L::kIsSuper) {
        block[r] = in.scale[0];
        block[16 + r] = L::kHasMin ? in.min : in.scale[1];
      }
      for (int i = 0; i < L::kHighBytes / kPlaneBytes; ++i) std::memcpy(high + i * kPlaneBytes + 4 * r, &in.high[i], 4);
      for (int i = 0; i < L::kLowBytes / kPlaneBytes; ++i) std::memcpy(low + i * kPlaneBytes + 4 * r, &in.low[i], 4);
    }
  }
}

// Element index, inside a panel, of value k of row r of a plain format.
int64_t PlainIndex(Dtype dtype, int64_t k, int64_t r) {
  return dtype == Dtype::kBF16 ? (k / 2 * kPanelRows + r) * 2 + k % 2 : k * kPanelRows + r;
}

template <class T>
void PackPlain(const MatrixView& source, int64_t panel_idx, uint8_t* panel, int64_t panel_bytes) {
  std::memset(panel, 0, static_cast<size_t>(panel_bytes));
  const int64_t first_row = panel_idx * kPanelRows;
  const int64_t num_rows = std::min<int64_t>(kPanelRows, source.rows - first_row);
  const auto* in = reinterpret_cast<const uint8_t*>(source.data);
  constexpr int64_t kTile = 64;  // columns per tile: 16 rows of it stay in L1 while they are transposed
  for (int64_t k0 = 0; k0 < source.cols; k0 += kTile)
    for (int64_t r = 0; r < num_rows; ++r) {
      const int64_t k1 = std::min(source.cols, k0 + kTile);
      const uint8_t* row = in + static_cast<size_t>((first_row + r) * source.cols) * sizeof(T);
      for (int64_t k = k0; k < k1; ++k)
        std::memcpy(panel + static_cast<size_t>(PlainIndex(source.dtype, k, r)) * sizeof(T),
                    row + static_cast<size_t>(k) * sizeof(T), sizeof(T));
    }
}

void PackPanel(const MatrixView& source, int64_t panel_idx, uint8_t* panel, int64_t panel_bytes) {
  switch (source.dtype) {
    case Dtype::kF32: return PackPlain<uint32_t>(source, panel_idx, panel, panel_bytes);
    case Dtype::kF16:
    case Dtype::kBF16: return PackPlain<uint16_t>(source, panel_idx, panel, panel_bytes);
    case Dtype::kQ8_0: return PackBlocks<ReadQ8_0>(source, panel_idx, panel);
    case Dtype::kQ4_0: return PackBlocks<ReadQ45<4, false>>(source, panel_idx, panel);
    case Dtype::kQ4_1: return PackBlocks<ReadQ45<4, true>>(source, panel_idx, panel);
    case Dtype::kQ5_0: return PackBlocks<ReadQ45<5, false>>(source, panel_idx, panel);
    case Dtype::kQ5_1: return PackBlocks<ReadQ45<5, true>>(source, panel_idx, panel);
    case Dtype::kQ4_K: return PackBlocks<ReadQ45K<4>>(source, panel_idx, panel);
    case Dtype::kQ5_K: return PackBlocks<ReadQ45K<5>>(source, panel_idx, panel);
    case Dtype::kQ6_K: return PackBlocks<ReadQ6_K>(source, panel_idx, panel);
  }
}

template <class L>
int64_t BlockPanelBytes(int64_t cols) {
  return cols / kBlockCols / L::kUnitBlocks * L::kUnitBytes;
}

int64_t PanelBytes(Dtype dtype, int64_t cols, int64_t cols_padded) {
  switch (dtype) {
    case Dtype::kF32: return cols_padded * kPanelRows * 4;
    case Dtype::kF16:
    case Dtype::kBF16: return cols_padded * kPanelRows * 2;
    case Dtype::kQ8_0: return BlockPanelBytes<LayoutQ8_0>(cols);
    case Dtype::kQ4_0: return BlockPanelBytes<LayoutQ4_0>(cols);
    case Dtype::kQ4_1: return BlockPanelBytes<LayoutQ4_1>(cols);
    case Dtype::kQ5_0: return BlockPanelBytes<LayoutQ5_0>(cols);
    case Dtype::kQ5_1: return BlockPanelBytes<LayoutQ5_1>(cols);
    case Dtype::kQ4_K: return BlockPanelBytes<LayoutQ4_K>(cols);
    case Dtype::kQ5_K: return BlockPanelBytes<LayoutQ5_K>(cols);
    case Dtype::kQ6_K: return BlockPanelBytes<LayoutQ6_K>(cols);
  }
  return 0;
}

float HalfToFloat(const uint8_t* p) { return static_cast<float>(Load<F16>(p)); }

template <class L>
void UnpackBlockRow(const PackedWeight& weight, int64_t row_idx, float* out) {
  const uint8_t* panel = weight.panels() + row_idx / kPanelRows * weight.panel_bytes;
  const int r = static_cast<int>(row_idx % kPanelRows);
  for (int64_t b = 0; b < weight.cols / kBlockCols; ++b, out += kBlockCols) {
    const uint8_t* unit = panel + b / L::kUnitBlocks * L::kUnitBytes;
    const uint8_t* block = unit + L::kHeaderBytes + b % L::kUnitBlocks * L::kBlockBytes;
    const uint8_t* high = block + L::kScaleBytes + 4 * r;
    const uint8_t* low = block + L::kScaleBytes + L::kHighBytes + 4 * r;
    const uint8_t* floats = (L::kIsSuper ? unit : block) + 2 * r;
    float scale[2], min = 0.0f;
    scale[0] = scale[1] = HalfToFloat(floats);
    if (L::kHasMin) min = HalfToFloat(floats + 32);
    if (L::kIsSuper && L::kHasMin) {
      scale[0] *= block[r];
      scale[1] = scale[0];
      min *= block[16 + r];
    } else if (L::kIsSuper) {
      scale[0] *= static_cast<float>(static_cast<int8_t>(block[r]));
      scale[1] *= static_cast<float>(static_cast<int8_t>(block[16 + r]));
    }
    for (int k = 0; k < kBlockCols; ++k) {
      const int t = k % 4;
      int u;
      if (L::kBits == 8) {
        u = low[k / 4 * kPlaneBytes + t];
      } else {
        u = low[k % 16 / 4 * kPlaneBytes + t] >> (k / 16 * 4) & 15;
      }
      if (L::kBits == 5) u |= (high[t] >> (k / 4) & 1) << 4;
      if (L::kBits == 6) u |= (high[k / 16 * kPlaneBytes + t] >> (k % 16 / 4 * 2) & 3) << 4;
      out[k] = scale[k / 16] * static_cast<float>(u - L::kOffset) + min;
    }
  }
}

template <class T>
void UnpackPlainRow(const PackedWeight& weight, int64_t row_idx, float* out) {
  const uint8_t* panel = weight.panels() + row_idx / kPanelRows * weight.panel_bytes;
  for (int64_t k = 0; k < weight.cols; ++k)
    out[k] = static_cast<float>(
        Load<T>(panel + static_cast<size_t>(PlainIndex(weight.dtype, k, row_idx % kPanelRows)) * sizeof(T)));
}

}  // namespace

std::shared_ptr<std::byte[]> WeightPool::Allocate(size_t num_bytes) {
  num_bytes = (std::max<size_t>(num_bytes, 1) + 63) / 64 * 64;
  if (slab_ == nullptr || slab_bytes_ - used_bytes_ < num_bytes) {
    const size_t slab_bytes = (std::max(num_bytes, kSlabBytes) + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
    const size_t mapped_bytes = slab_bytes + kHugePageBytes;  // room to align
    void* mapped = mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    const auto address = reinterpret_cast<uintptr_t>(mapped);
    auto* aligned = reinterpret_cast<std::byte*>((address + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes);
    madvise(aligned, slab_bytes, MADV_HUGEPAGE);  // a hint: small pages work too
    slab_ = std::shared_ptr<std::byte[]>(aligned, [mapped, mapped_bytes](std::byte*) { munmap(mapped, mapped_bytes); });
    slab_bytes_ = slab_bytes;
    used_bytes_ = 0;
  }
  std::shared_ptr<std::byte[]> part(slab_, slab_.get() + used_bytes_);
  used_bytes_ += num_bytes;
  return part;
}

std::unique_ptr<PackedWeight> Pack(Context& cx, const MatrixView& source) {
  auto packed = std::make_unique<PackedWeight>();
  packed->dtype = source.dtype;
  packed->rows = source.rows;
  packed->cols = source.cols;
  packed->cols_padded = (source.cols + 3) / 4 * 4;
  packed->num_panels = (source.rows + kPanelRows - 1) / kPanelRows;
  packed->panel_bytes = PanelBytes(source.dtype, source.cols, packed->cols_padded);
  packed->memory = cx.Cached<WeightPool>().Allocate(packed->num_bytes());
  auto* panels = reinterpret_cast<uint8_t*>(packed->memory.get());
  constexpr int64_t kPanelsPerTask = 8;
  cx.ParallelFor((packed->num_panels + kPanelsPerTask - 1) / kPanelsPerTask, [&](int64_t task) {
    const int64_t end = std::min(packed->num_panels, (task + 1) * kPanelsPerTask);
    for (int64_t p = task * kPanelsPerTask; p < end; ++p)
      PackPanel(source, p, panels + p * packed->panel_bytes, packed->panel_bytes);
  });
  return packed;
}

void UnpackRow(const PackedWeight& weight, int64_t row_idx, float* out) {
  switch (weight.dtype) {
    case Dtype::kF32: return UnpackPlainRow<float>(weight, row_idx, out);
    case Dtype::kF16: return UnpackPlainRow<F16>(weight, row_idx, out);
    case Dtype::kBF16: return UnpackPlainRow<BF16>(weight, row_idx, out);
    case Dtype::kQ8_0: return UnpackBlockRow<LayoutQ8_0>(weight, row_idx, out);
    case Dtype::kQ4_0: return UnpackBlockRow<LayoutQ4_0>(weight, row_idx, out);
    case Dtype::kQ4_1: return UnpackBlockRow<LayoutQ4_1>(weight, row_idx, out);
    case Dtype::kQ5_0: return UnpackBlockRow<LayoutQ5_0>(weight, row_idx, out);
    case Dtype::kQ5_1: return UnpackBlockRow<LayoutQ5_1>(weight, row_idx, out);
    case Dtype::kQ4_K: return UnpackBlockRow<LayoutQ4_K>(weight, row_idx, out);
    case Dtype::kQ5_K: return UnpackBlockRow<LayoutQ5_K>(weight, row_idx, out);
    case Dtype::kQ6_K: return UnpackBlockRow<LayoutQ6_K>(weight, row_idx, out);
  }
}

}  // namespace cachette::ops
