#include "ops/quant/dequantize.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "base/result.h"

// Scalar, one function per block format, in the order of the bytes in a block. Sums of a product and an offset are
// written as two roundings (the build is ISO C++, so no compiler fuses them): that is what the formats' reference does.

namespace cachette::ops {
namespace {

using Bytes = const uint8_t*;

float LoadF16(Bytes at) {
  F16 value;
  std::memcpy(&value, at, sizeof(value));
  return static_cast<float>(value);
}

uint32_t LoadU32(Bytes at) {
  uint32_t value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

// Blocks of 32: element i is in the low nibble of byte i, element i + 16 in the high nibble.
constexpr int kBlock = 32;
constexpr int kHalfBlock = kBlock / 2;

// f16 d; i8 q[32]. x = d * q.
void DecodeQ8_0(Bytes block, float* out) {
  const float d = LoadF16(block);
  for (int i = 0; i < kBlock; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(block[2 + i]));
}

// f16 d; u4 q[32]. x = d * (q - 8).
void DecodeQ4_0(Bytes block, float* out) {
  const float d = LoadF16(block);
  for (int i = 0; i < kHalfBlock; ++i) {
    out[i] = d * static_cast<float>((block[2 + i] & 15) - 8);
    out[i + kHalfBlock] = d * static_cast<float>((block[2 + i] >> 4) - 8);
  }
}

// f16 d, m; u4 q[32]. x = d * q + m.
void DecodeQ4_1(Bytes block, float* out) {
  const float d = LoadF16(block), m = LoadF16(block + 2);
  for (int i = 0; i < kHalfBlock; ++i) {
    out[i] = d * static_cast<float>(block[4 + i] & 15) + m;
    out[i + kHalfBlock] = d * static_cast<float>(block[4 + i] >> 4) + m;
  }
}

// Element i (0 to 31) of a 5-bit block: its low nibble as in the 4-bit formats, its fifth bit is bit i of high.
int Q5(Bytes nibbles, uint32_t high, int i) {
  const int low = i < kHalfBlock ? nibbles[i] & 15 : nibbles[i - kHalfBlock] >> 4;
  return low | static_cast<int>((high >> i) & 1u) << 4;
}

// f16 d; u32 fifth bits; u4 q[32]. x = d * (q - 16).
void DecodeQ5_0(Bytes block, float* out) {
  const float d = LoadF16(block);
  const uint32_t high = LoadU32(block + 2);
  for (int i = 0; i < kBlock; ++i) out[i] = d * static_cast<float>(Q5(block + 6, high, i) - 16);
}

// f16 d, m; u32 fifth bits; u4 q[32]. x = d * q + m.
void DecodeQ5_1(Bytes block, float* out) {
  const float d = LoadF16(block), m = LoadF16(block + 2);
  const uint32_t high = LoadU32(block + 4);
  for (int i = 0; i < kBlock; ++i) out[i] = d * static_cast<float>(Q5(block + 8, high, i)) + m;
}

// Super-blocks of 256. Q4_K and Q5_K: eight groups of 32, each with a 6-bit scale and a 6-bit minimum in 12 bytes:
// groups 0 to 3 in the low six bits of bytes 0-3 (scale) and 4-7 (minimum); groups 4 to 7 with their low four bits in
// the nibbles of bytes 8-11 and their upper two bits on top of the bytes of group - 4.
struct ScaleMin {
  float scale, min;
};

ScaleMin UnpackScaleMin(Bytes packed, int group) {
  if (group < 4) return {static_cast<float>(packed[group] & 63), static_cast<float>(packed[group + 4] & 63)};
  const int nibbles = packed[group + 4], scale_top = packed[group - 4] >> 6, min_top = packed[group] >> 6;
  return {static_cast<float>((nibbles & 15) | scale_top << 4), static_cast<float>((nibbles >> 4) | min_top << 4)};
}

// f16 d, dmin; u8 scales[12]; u4 q[256]. Two groups share 32 bytes: low nibbles, then high nibbles.
// x = (d * scale) * q - dmin * min.
void DecodeQ4_K(Bytes block, float* out) {
  const float d = LoadF16(block), dmin = LoadF16(block + 2);
  for (int group = 0; group < 8; ++group) {
    const ScaleMin s = UnpackScaleMin(block + 4, group);
    const float scale = d * s.scale, min = dmin * s.min;
    const Bytes q = block + 16 + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i) out[group * 32 + i] = scale * static_cast<float>((q[i] >> shift) & 15) - min;
  }
}

// As Q4_K with fifth bits u8 high[32] before the nibbles: bit `group` of high[i] belongs to element i of the group.
void DecodeQ5_K(Bytes block, float* out) {
  const float d = LoadF16(block), dmin = LoadF16(block + 2);
  const Bytes high = block + 16;
  for (int group = 0; group < 8; ++group) {
    const ScaleMin s = UnpackScaleMin(block + 4, group);
    const float scale = d * s.scale, min = dmin * s.min;
    const Bytes q = block + 48 + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      const int value = ((q[i] >> shift) & 15) | ((high[i] >> group) & 1) << 4;
      out[group * 32 + i] = scale * static_cast<float>(value) - min;
    }
  }
}

// u4 low[128]; u2 high[256]; i8 scales[16]; f16 d. Halves of 128 elements take 64 bytes of low and 32 of high; quarter
// k of a half (32 elements) has its low nibbles in bytes (k % 2) * 32 + i, high nibbles of them for k >= 2, and its
// upper bits at 2k of high[i]. x = (d * scale of 16 elements) * (q - 32).
void DecodeQ6_K(Bytes block, float* out) {
  const float d = LoadF16(block + 208);
  for (int quarter = 0; quarter < 8; ++quarter) {
    const int half = quarter / 4, k = quarter % 4;
    const Bytes low = block + half * 64 + k % 2 * 32;
    const Bytes high = block + 128 + half * 32;
    const Bytes scales = block + 192 + quarter * 2;
    for (int i = 0; i < 32; ++i) {
      const int value = ((low[i] >> (k / 2 * 4)) & 15) | ((high[i] >> (2 * k)) & 3) << 4;
      const float scale = d * static_cast<float>(static_cast<int8_t>(scales[i / 16]));
      out[quarter * 32 + i] = scale * static_cast<float>(value - 32);
    }
  }
}

void DecodeF32(Bytes at, float* out) { std::memcpy(out, at, sizeof(float)); }
void DecodeF16(Bytes at, float* out) { *out = LoadF16(at); }
void DecodeBF16(Bytes at, float* out) {
  *out = std::bit_cast<float>(static_cast<uint32_t>(at[0]) << 16 | static_cast<uint32_t>(at[1]) << 24);
}

using DecodeBlock = void (*)(Bytes block, float* out);
constexpr std::array<DecodeBlock, kNumDtypes> kDecoders = {DecodeF32,  DecodeF16,  DecodeBF16, DecodeQ8_0,
                                                           DecodeQ4_0, DecodeQ4_1, DecodeQ5_0, DecodeQ5_1,
                                                           DecodeQ4_K, DecodeQ5_K, DecodeQ6_K};

void StoreF16(float value, uint8_t* at) {
  const F16 half = static_cast<F16>(value);
  std::memcpy(at, &half, sizeof(half));
}

// The integer below x in [0, most]; 0 for a NaN, whose conversion would be undefined.
uint32_t FloorTo(float x, float most) { return x > 0 ? static_cast<uint32_t>(x < most ? x : most) : 0; }

float Inverse(float d) { return d == 0 ? 0 : 1 / d; }

// The element of the largest magnitude, the first of several, with its sign.
float SignedMaximum(const float* in) {
  float best = 0;
  for (int i = 0; i < kBlock; ++i)
    if (std::abs(in[i]) > std::abs(best)) best = in[i];
  return best;
}

void EncodeQ8_0(const float* in, uint8_t* block) {
  const float d = std::abs(SignedMaximum(in)) / 127;
  StoreF16(d, block);
  const float inverse = Inverse(d);
  for (int i = 0; i < kBlock; ++i) {
    const float x = in[i] * inverse;  // |x| <= 127 up to rounding
    const auto magnitude = static_cast<int>(FloorTo(std::abs(x) + 0.5f, 127));
    block[2 + i] = static_cast<uint8_t>(x < 0 ? -magnitude : magnitude);
  }
}

// q = round((x - offset) / d) for 4- and 5-bit blocks; nibbles are pairs i, i + 16, high receives the fifth bits.
uint32_t PackNibbles(const std::array<uint32_t, kBlock>& q, uint8_t* nibbles) {
  uint32_t high = 0;
  for (int i = 0; i < kHalfBlock; ++i) {
    const uint32_t a = q[static_cast<size_t>(i)], b = q[static_cast<size_t>(i + kHalfBlock)];
    nibbles[i] = static_cast<uint8_t>((a & 15) | (b & 15) << 4);
    high |= (a >> 4 & 1) << i | (b >> 4 & 1) << (i + kHalfBlock);
  }
  return high;
}

// levels: 16 for q4_0, 32 for q5_0. The largest magnitude maps to code 0, that is to -levels / 2.
std::array<uint32_t, kBlock> SymmetricCodes(const float* in, int levels, uint8_t* d_at) {
  const float half = static_cast<float>(levels / 2), d = SignedMaximum(in) / -half, inverse = Inverse(d);
  StoreF16(d, d_at);
  std::array<uint32_t, kBlock> q;
  for (int i = 0; i < kBlock; ++i)
    q[static_cast<size_t>(i)] = FloorTo(in[i] * inverse + (half + 0.5f), static_cast<float>(levels - 1));
  return q;
}

// levels: 16 for q4_1, 32 for q5_1. The minimum maps to code 0, the maximum to levels - 1.
std::array<uint32_t, kBlock> MinMaxCodes(const float* in, int levels, uint8_t* d_at, uint8_t* min_at) {
  float min = in[0], max = in[0];
  for (int i = 1; i < kBlock; ++i) {
    min = in[i] < min ? in[i] : min;
    max = in[i] > max ? in[i] : max;
  }
  const float d = (max - min) / static_cast<float>(levels - 1), inverse = Inverse(d);
  StoreF16(d, d_at);
  StoreF16(min, min_at);
  std::array<uint32_t, kBlock> q;
  for (int i = 0; i < kBlock; ++i)
    q[static_cast<size_t>(i)] = FloorTo((in[i] - min) * inverse + 0.5f, static_cast<float>(levels - 1));
  return q;
}

void EncodeQ4_0(const float* in, uint8_t* block) { PackNibbles(SymmetricCodes(in, 16, block), block + 2); }
void EncodeQ4_1(const float* in, uint8_t* block) { PackNibbles(MinMaxCodes(in, 16, block, block + 2), block + 4); }
void EncodeQ5_0(const float* in, uint8_t* block) {
  const uint32_t high = PackNibbles(SymmetricCodes(in, 32, block), block + 6);
  std::memcpy(block + 2, &high, sizeof(high));
}
void EncodeQ5_1(const float* in, uint8_t* block) {
  const uint32_t high = PackNibbles(MinMaxCodes(in, 32, block, block + 2), block + 8);
  std::memcpy(block + 4, &high, sizeof(high));
}
void EncodeF32(const float* in, uint8_t* at) { std::memcpy(at, in, sizeof(float)); }
void EncodeF16(const float* in, uint8_t* at) { StoreF16(*in, at); }
void EncodeBF16(const float* in, uint8_t* at) {
  const uint16_t bits = BF16::FromFloat(*in);
  std::memcpy(at, &bits, sizeof(bits));
}

using EncodeBlock = void (*)(const float* in, uint8_t* block);
constexpr std::array<EncodeBlock, kNumDtypes> kEncoders = {EncodeF32,  EncodeF16,  EncodeBF16, EncodeQ8_0,
                                                           EncodeQ4_0, EncodeQ4_1, EncodeQ5_0, EncodeQ5_1,
                                                           nullptr,    nullptr,    nullptr};

}  // namespace

void Dequantize(Dtype dtype, const std::byte* data, int64_t num_elements, float* out) {
  const DtypeInfo& info = InfoOf(dtype);
  CACHETTE_CHECK(num_elements >= 0 && num_elements % info.block_elements == 0);
  const DecodeBlock decode = kDecoders[static_cast<size_t>(dtype)];
  const auto* block = reinterpret_cast<Bytes>(data);
  for (int64_t i = 0; i < num_elements; i += info.block_elements, block += info.block_bytes) decode(block, out + i);
}

void Quantize(Dtype dtype, const float* in, int64_t num_elements, std::byte* out) {
  const DtypeInfo& info = InfoOf(dtype);
  const EncodeBlock encode = kEncoders[static_cast<size_t>(dtype)];
  CACHETTE_CHECK(encode != nullptr && num_elements >= 0 && num_elements % info.block_elements == 0);
  auto* block = reinterpret_cast<uint8_t*>(out);
  for (int64_t i = 0; i < num_elements; i += info.block_elements, block += info.block_bytes) encode(in + i, block);
}

}  // namespace cachette::ops
