#pragma once
// Where the bytes of a packed weight are. Shared by the packer and the kernels; constants only (see ops/simd.h).
//
// A matrix is cut into panels of 16 rows (the last one padded with zero rows); panels follow each other, and inside a
// panel time runs along k, so a mat-vec reads one contiguous stream. 16 rows = 16 f32 lanes: a dot product needs no
// horizontal sum, and 16 scales are one vector.
//
// Block formats, per 32 values of k ("block"), in this order (kIsSuper formats have a header every 8 blocks):
//   header   [16] f16 d, then [16] f16 -dmin                    (K-quants: q4_k, q5_k have both, q6_k has d)
//   scales   [16] f16 d, then [16] f16 m where the format has a minimum; K-quants: [16] u8 scale, [16] u8 min
//            (q6_k: two [16] s8 scales, for k 0..15 and 16..31)
//   high     5-bit: [16] words of 4 bytes; bit j of byte t belongs to k = 4j + t
//            6-bit: two such planes, for k 0..15 and 16..31; bits 2j, 2j+1 of byte t belong to k = 4j + t of the half
//   low      four planes of [16] words; byte t of plane j holds k = 4j + t in its low and k = 16 + 4j + t in its high
//            nibble; 8-bit: eight planes, byte t of plane j holds k = 4j + t
// Values are unsigned; signed formats are stored with kOffset added, which the kernels take back exactly, in integers.
// A word of 4 consecutive k per row is what vpdpbusd and vpmaddubsw multiply with one broadcast word of x, and 4-bit
// source words move unchanged. Bytes equal the file's, but for the 6-bit scales of q4_k and q5_k, which take 8 (+2.8 %,
// +2.3 %) and stay exact.
//
// Plain formats: f32, f16: [cols4][16]; bf16: [cols4 / 2][16][2], the pair order of bf16 dot products. cols4 = cols
// rounded up to 4, zero filled.

namespace cachette::ops {

inline constexpr int kPanelRows = 16;
inline constexpr int kBlockCols = 32;   // k values that share one activation scale
inline constexpr int kPlaneBytes = 64;  // one word of 4 bytes for each row of the panel
inline constexpr int kSuperBlocks = 8;  // blocks under one K-quant header

template <int kBitsT, bool kHasMinT, bool kIsSuperT>
struct PackLayout {
  static constexpr int kBits = kBitsT;
  static constexpr bool kHasMin = kHasMinT;
  static constexpr bool kIsSuper = kIsSuperT;
  static constexpr int kOffset = kHasMin ? 0 : 1 << (kBits - 1);
  static constexpr int kNumSubScales = kBits == 6 ? 2 : 1;  // scales per block
  static constexpr int kUnitBlocks = kIsSuper ? kSuperBlocks : 1;
  static constexpr int kHeaderBytes = kIsSuper ? (kHasMin ? 64 : 32) : 0;
  static constexpr int kScaleBytes = kIsSuper ? 32 : (kHasMin ? 64 : 32);
  static constexpr int kHighBytes = kBits == 8 ? 0 : (kBits - 4) * kPlaneBytes;
  static constexpr int kLowBytes = kBits == 8 ? 8 * kPlaneBytes : 4 * kPlaneBytes;
  static constexpr int kBlockBytes = kScaleBytes + kHighBytes + kLowBytes;
  static constexpr int kUnitBytes = kHeaderBytes + kUnitBlocks * kBlockBytes;
};

using LayoutQ8_0 = PackLayout<8, false, false>;
using LayoutQ4_0 = PackLayout<4, false, false>;
using LayoutQ4_1 = PackLayout<4, true, false>;
using LayoutQ5_0 = PackLayout<5, false, false>;
using LayoutQ5_1 = PackLayout<5, true, false>;
using LayoutQ4_K = PackLayout<4, true, true>;
using LayoutQ5_K = PackLayout<5, true, true>;
using LayoutQ6_K = PackLayout<6, false, true>;

}  // namespace cachette::ops
