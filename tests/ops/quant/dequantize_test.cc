#include "ops/quant/dequantize.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/rng.h"

namespace cachette::ops {
namespace {

// What tools/record_quant_reference.py writes.
struct Record {
  Dtype dtype;
  std::vector<std::byte> encoded;
  std::vector<float> values;  // [num_elements]
};

std::vector<Record> ReadRecords(const std::string& file_name) {
  std::ifstream stream(std::string(CACHETTE_TEST_DATA) + "/quant/" + file_name, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  std::vector<Record> records;
  for (size_t at = 0; at < text.size();) {
    uint64_t num_elements;
    std::memcpy(&num_elements, text.data() + at + 8, 8);
    const auto dtype = DtypeFromName(text.data() + at);
    if (!dtype) break;
    at += 16;
    Record r{*dtype, std::vector<std::byte>(RowBytes(*dtype, static_cast<int64_t>(num_elements))),
             std::vector<float>(num_elements)};
    std::memcpy(r.encoded.data(), text.data() + at, r.encoded.size());
    at += r.encoded.size();
    std::memcpy(r.values.data(), text.data() + at, num_elements * 4);
    at += num_elements * 4;
    records.push_back(std::move(r));
  }
  return records;
}

// Same bits, or both NaN: whether a conversion makes a signalling NaN quiet differs between machines.
bool SameValue(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

TEST(Dequantize, EqualsThePythonPackageBitForBit) {
  const auto records = ReadRecords("dequantize.bin");
  ASSERT_EQ(records.size(), static_cast<size_t>(kNumDtypes));
  for (const Record& r : records) {
    SCOPED_TRACE(InfoOf(r.dtype).name);
    std::vector<float> out(r.values.size(), -1);
    Dequantize(r.dtype, r.encoded.data(), static_cast<int64_t>(out.size()), out.data());
    int num_finite = 0;
    for (size_t i = 0; i < out.size(); ++i) {
      ASSERT_TRUE(SameValue(out[i], r.values[i])) << "element " << i << ": " << out[i] << " vs " << r.values[i];
      num_finite += std::isfinite(out[i]);
    }
    EXPECT_GT(num_finite, static_cast<int>(out.size() / 2)) << "the recorded data hardly tests anything";
  }
}

TEST(Dequantize, ReadsBlocksOfAnyAlignmentAndWritesNothingElse) {
  for (const Record& r : ReadRecords("dequantize.bin")) {
    SCOPED_TRACE(InfoOf(r.dtype).name);
    const int64_t num_elements = InfoOf(r.dtype).block_elements;
    for (const int64_t count : {int64_t{0}, num_elements, 3 * num_elements}) {
      std::vector<std::byte> shifted(RowBytes(r.dtype, count) + 1);
      std::memcpy(shifted.data() + 1, r.encoded.data(), shifted.size() - 1);
      std::vector<float> out(static_cast<size_t>(count) + 1, 42.0f);
      Dequantize(r.dtype, shifted.data() + 1, count, out.data());
      for (int64_t i = 0; i < count; ++i)
        ASSERT_TRUE(SameValue(out[static_cast<size_t>(i)], r.values[static_cast<size_t>(i)])) << i;
      EXPECT_EQ(out.back(), 42.0f);
    }
  }
}

TEST(Quantize, EqualsThePythonPackageBitForBit) {
  const auto records = ReadRecords("quantize.bin");
  ASSERT_EQ(records.size(), 8u);
  for (const Record& r : records) {
    SCOPED_TRACE(InfoOf(r.dtype).name);
    std::vector<std::byte> out(r.encoded.size() + 1, std::byte{0x5a});
    Quantize(r.dtype, r.values.data(), static_cast<int64_t>(r.values.size()), out.data());
    for (size_t i = 0; i < r.encoded.size(); ++i) ASSERT_EQ(out[i], r.encoded[i]) << "byte " << i;
    EXPECT_EQ(out.back(), std::byte{0x5a});
  }
}

// |x - decode(encode(x))| of a block: half a step for rounding, plus the f16 error of the scale (2^-11 of it) times
// the largest code, plus that of the minimum. Symmetric 4 and 5 bits clip the side opposite to the largest magnitude:
// one code is missing there, so up to a whole step.
double ErrorBound(Dtype dtype, double min, double max) {
  const double most = std::max(std::abs(min), std::abs(max)), f16 = 0x1p-11, tiny = 0x1p-24;
  switch (dtype) {
    case Dtype::kF32: return 0;
    case Dtype::kF16: return most * f16 + tiny;
    case Dtype::kBF16: return most * 0x1p-8;
    case Dtype::kQ8_0: return most / 127 * (0.5 + 127 * f16) * 1.001 + 127 * tiny;
    case Dtype::kQ4_0: return most / 8 * (1 + 8 * f16) * 1.001 + 8 * tiny;
    case Dtype::kQ5_0: return most / 16 * (1 + 16 * f16) * 1.001 + 16 * tiny;
    case Dtype::kQ4_1: return (max - min) / 15 * (0.5 + 15 * f16) * 1.001 + most * f16 + 16 * tiny;
    default: return (max - min) / 31 * (0.5 + 31 * f16) * 1.001 + most * f16 + 32 * tiny;
  }
}

TEST(Quantize, RoundTripStaysWithinHalfAStep) {
  Rng rng(7);
  for (int trial = 0; trial < 200; ++trial) {
    float x[32];
    double min = 1e30, max = -1e30;
    const double scale = std::exp2(rng.Uniform() * 12 - 6), shift = rng.Normal();
    for (float& v : x) {
      v = static_cast<float>(scale * (rng.Normal() + shift));
      min = std::min<double>(min, v);
      max = std::max<double>(max, v);
    }
    for (const Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16, Dtype::kQ8_0, Dtype::kQ4_0, Dtype::kQ4_1,
                              Dtype::kQ5_0, Dtype::kQ5_1}) {
      std::vector<std::byte> encoded(RowBytes(dtype, 32));
      float back[32];
      Quantize(dtype, x, 32, encoded.data());
      Dequantize(dtype, encoded.data(), 32, back);
      for (int i = 0; i < 32; ++i)
        ASSERT_LE(std::abs(back[i] - x[i]), ErrorBound(dtype, min, max)) << InfoOf(dtype).name << " element " << i;
    }
  }
}

TEST(Quantize, SurvivesInfinityAndNan) {  // undefined conversions would be reported by the sanitizer
  float x[32] = {};
  x[3] = std::numeric_limits<float>::infinity();
  x[5] = std::numeric_limits<float>::quiet_NaN();
  x[9] = std::numeric_limits<float>::denorm_min();
  for (const Dtype dtype : {Dtype::kQ8_0, Dtype::kQ4_0, Dtype::kQ4_1, Dtype::kQ5_0, Dtype::kQ5_1}) {
    std::vector<std::byte> encoded(RowBytes(dtype, 32));
    Quantize(dtype, x, 32, encoded.data());
    x[3] = 0;
    Quantize(dtype, x, 32, encoded.data());
  }
}

TEST(QuantizeDeathTest, RefusesFormatsItCannotWriteAndPartBlocks) {
  float x[256] = {};
  std::byte out[1024];
  EXPECT_DEATH(Quantize(Dtype::kQ4_K, x, 256, out), "internal error");
  EXPECT_DEATH(Quantize(Dtype::kQ8_0, x, 31, out), "internal error");
  EXPECT_DEATH(Dequantize(Dtype::kQ6_K, out, 32, x), "internal error");
}

}  // namespace
}  // namespace cachette::ops
