#pragma once
// Reads kLanes rows of a panel: one block (32 values of k) of each block format, two values of k of a plain one.
// The layouts are in layout.h.
// Only for *_simd.cc files, as lanes.h.

#include "ops/linear/lanes.h"
#include "ops/linear/layout.h"

namespace cachette::CACHETTE_ISA {
namespace {

constexpr int kNumGroups = ops::kBlockCols / 4;
constexpr int kHalves = ops::kPanelRows / kLanes;

// One block of one part of a panel: value(k) = scale * (u - kOffset) + min, u of k = 4g + t in byte t of group[g].
struct Block {
  Words group[kNumGroups];
  Floats scale[2];  // for k 0..15 and 16..31; [1] only where kNumSubScales is 2
  Floats min;       // only where kHasMin
};

// Bit bit_idx of each byte of plane, moved to bit 4.
template <int bit_idx>
inline Words HighBit(Words plane) {
  return And(ShiftBits<4 - bit_idx>(plane), Repeat8(0x10));
}

// Bits 2i, 2i+1 of each byte of plane, moved to bits 4, 5.
template <int i>
inline Words HighPair(Words plane) {
  return And(ShiftBits<4 - 2 * i>(plane), Repeat8(0x30));
}

template <class L>
inline void LoadScales(const uint8_t* unit, const uint8_t* block, int half, Block& out) {
  const int row = half * kLanes;
  if constexpr (!L::kIsSuper) {
    out.scale[0] = LoadHalf(block + 2 * row);
    if constexpr (L::kHasMin) out.min = LoadHalf(block + 32 + 2 * row);
  } else {
    // Products of an f16 (11 bits) and a 6- or 8-bit integer are exact in f32.
    const Floats d = LoadHalf(unit + 2 * row);
    if constexpr (L::kHasMin) {
      out.scale[0] = Mul(d, LoadU8(block + row));
      out.min = Mul(LoadHalf(unit + 32 + 2 * row), LoadU8(block + 16 + row));
    } else {
      out.scale[0] = Mul(d, LoadS8(block + row));
      out.scale[1] = Mul(d, LoadS8(block + 16 + row));
    }
  }
}

template <class L>
inline void LoadGroups(const uint8_t* block, int half, Block& out) {
  const uint8_t* high = block + L::kScaleBytes + half * 4 * kLanes;
  const uint8_t* low = high + L::kHighBytes;
  if constexpr (L::kBits == 8) {
    for (int g = 0; g < kNumGroups; ++g) out.group[g] = LoadWords(low + g * ops::kPlaneBytes);
  } else {
    const Words nibble = Repeat8(0x0f);
    for (int j = 0; j < 4; ++j) {
      const Words w = LoadWords(low + j * ops::kPlaneBytes);
      out.group[j] = And(w, nibble);
      out.group[j + 4] = And(ShiftBits<-4>(w), nibble);
    }
  }
  if constexpr (L::kBits == 5) {
    const Words h = LoadWords(high);
    out.group[0] = Or(out.group[0], HighBit<0>(h));
    out.group[1] = Or(out.group[1], HighBit<1>(h));
    out.group[2] = Or(out.group[2], HighBit<2>(h));
    out.group[3] = Or(out.group[3], HighBit<3>(h));
    out.group[4] = Or(out.group[4], HighBit<4>(h));
    out.group[5] = Or(out.group[5], HighBit<5>(h));
    out.group[6] = Or(out.group[6], HighBit<6>(h));
    out.group[7] = Or(out.group[7], HighBit<7>(h));
  }
  if constexpr (L::kBits == 6) {
    for (int s = 0; s < 2; ++s) {
      const Words h = LoadWords(high + s * ops::kPlaneBytes);
      Words* group = out.group + 4 * s;
      group[0] = Or(group[0], HighPair<0>(h));
      group[1] = Or(group[1], HighPair<1>(h));
      group[2] = Or(group[2], HighPair<2>(h));
      group[3] = Or(group[3], HighPair<3>(h));
    }
  }
}

// Block block_idx of a panel, rows half * kLanes .. + kLanes - 1.
template <class L>
inline void LoadBlock(const uint8_t* panel, int64_t block_idx, int half, Block& out) {
  const uint8_t* unit = panel + block_idx / L::kUnitBlocks * L::kUnitBytes;
  const uint8_t* block = unit + L::kHeaderBytes + block_idx % L::kUnitBlocks * L::kBlockBytes;
  LoadScales<L>(unit, block, half, out);
  LoadGroups<L>(block, half, out);
}

// The plain formats: values of k and k + 1 (k even), rows half * kLanes .. + kLanes - 1 of a panel.
struct F32Weights {
  static void Load(const uint8_t* panel, int64_t k, int half, Floats& even, Floats& odd) {
    const auto* p = reinterpret_cast<const float*>(panel) + k * ops::kPanelRows + half * kLanes;
    even = LoadFloats(p);
    odd = LoadFloats(p + ops::kPanelRows);
  }
};
struct F16Weights {
  static void Load(const uint8_t* panel, int64_t k, int half, Floats& even, Floats& odd) {
    const uint8_t* p = panel + 2 * (k * ops::kPanelRows + half * kLanes);
    even = LoadHalf(p);
    odd = LoadHalf(p + 2 * ops::kPanelRows);
  }
};
struct BF16Weights {
  static void Load(const uint8_t* panel, int64_t k, int half, Floats& even, Floats& odd) {
    const Words pairs = LoadWords(panel + 2 * (k * ops::kPanelRows + 2 * half * kLanes));
    even = LowHalves(pairs);
    odd = HighHalves(pairs);
  }
};

}  // namespace
}  // namespace cachette::CACHETTE_ISA
