#include "ops/linear/linear.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "base/half.h"
#include "base/rng.h"
#include "ops/quant/dequantize.h"

namespace cachette::ops {
namespace {

constexpr double kEps = 0x1.0p-24;     // half an ulp of f32 at 1
constexpr double kBF16Eps = 0x1.0p-9;  // half an ulp of bf16 at 1
constexpr Dtype kAllDtypes[] = {Dtype::kF32,  Dtype::kF16,  Dtype::kBF16, Dtype::kQ8_0, Dtype::kQ4_0, Dtype::kQ4_1,
                                Dtype::kQ5_0, Dtype::kQ5_1, Dtype::kQ4_K, Dtype::kQ5_K, Dtype::kQ6_K};

std::vector<float> RandomFloats(Rng& rng, int64_t count) {
  std::vector<float> v(static_cast<size_t>(count));
  for (float& f : v) f = static_cast<float>(rng.Normal());
  return v;
}

// A matrix in a file format. Block formats get random bits everywhere but in their f16 scales, so every quant, every
// sub-scale and every sign occurs.
struct Matrix {
  Dtype dtype;
  int64_t rows, cols;
  std::vector<std::byte> bytes;
  std::vector<float> values;  // [rows][cols], as Dequantize says

  MatrixView view() const { return {bytes.data(), dtype, rows, cols}; }
  const float* row(int64_t n) const { return values.data() + n * cols; }
};

void StoreHalf(std::byte* p, double value) {
  const F16 half = static_cast<F16>(static_cast<float>(value));
  std::memcpy(p, &half, 2);
}

Matrix RandomMatrix(Dtype dtype, int64_t rows, int64_t cols, uint64_t seed) {
  Rng rng(seed);
  const DtypeInfo& info = InfoOf(dtype);
  Matrix m{dtype, rows, cols, {}, {}};
  m.bytes.resize(static_cast<size_t>(rows) * RowBytes(dtype, cols));
  if (!IsQuantized(dtype)) {
    const std::vector<float> values = RandomFloats(rng, rows * cols);
    Quantize(dtype, values.data(), rows * cols, m.bytes.data());
  } else {
    for (std::byte& b : m.bytes) b = static_cast<std::byte>(rng.Next());
    for (size_t at = 0; at < m.bytes.size(); at += static_cast<size_t>(info.block_bytes)) {
      std::byte* block = m.bytes.data() + at;
      const bool is_super = info.block_elements == 256;
      const double scale = (0.5 + rng.Uniform()) * (is_super ? 0.001 : 0.05);
      if (dtype == Dtype::kQ6_K) {
        StoreHalf(block + 208, scale);
      } else {
        StoreHalf(block, scale);
        if (dtype == Dtype::kQ4_1 || dtype == Dtype::kQ5_1) StoreHalf(block + 2, -8.0 * scale * rng.Uniform());
        if (is_super) StoreHalf(block + 2, scale * rng.Uniform() * 8.0);
      }
    }
  }
  m.values.resize(static_cast<size_t>(rows * cols));
  Dequantize(dtype, m.bytes.data(), rows * cols, m.values.data());
  return m;
}

std::vector<Backend> SupportedBackends() {
  std::vector<Backend> backends;
  for (const Backend& b : AllBackends())
    if (b.is_supported) backends.push_back(b);
  return backends;
}

Weight MustBind(Context& cx, const Matrix& m) {
  auto weight = Weight::Bind(cx, m.view());
  EXPECT_TRUE(weight.ok()) << weight.failure().message;
  return std::move(*weight);
}

std::vector<float> Multiply(Context& cx, const Weight& w, const std::vector<float>& x, int64_t num_rows,
                            LinearMode mode, GemmDtype gemm = GemmDtype::kF32) {
  std::vector<float> y(static_cast<size_t>(num_rows * w.rows()), std::nanf(""));
  const LinearOutput out{&w, y.data(), w.rows()};
  Linear(cx, {&out, 1}, x.data(), num_rows, mode, gemm);
  return y;
}

// x as the decode kernels round it: per 32 values scale = largest magnitude / 127, nearest integers.
std::vector<float> RoundedActivations(const std::vector<float>& x) {
  std::vector<float> rounded(x.size());
  for (size_t b = 0; b < x.size(); b += 32) {
    float largest = 0.0f;
    for (size_t i = b; i < b + 32; ++i) largest = std::max(largest, std::fabs(x[i]));
    const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
    for (size_t i = b; i < b + 32; ++i) rounded[i] = std::nearbyintf(x[i] * inverse) * (largest / 127.0f);
  }
  return rounded;
}

struct Expected {
  double dot = 0;        // x . w
  double magnitude = 0;  // |x| . |w|
  double rounding = 0;   // bound of what rounding x to 8 bits per block changes
};

Expected ExpectedDot(const float* x, const float* w, int64_t cols) {
  Expected e;
  float largest = 0.0f;
  for (int64_t k = 0; k < cols; ++k) {
    if (k % 32 == 0) {
      largest = 0.0f;
      for (int64_t i = k; i < std::min(cols, k + 32); ++i) largest = std::max(largest, std::fabs(x[i]));
    }
    e.dot += static_cast<double>(x[k]) * static_cast<double>(w[k]);
    e.magnitude += std::fabs(static_cast<double>(x[k]) * static_cast<double>(w[k]));
    e.rounding += static_cast<double>(largest) / 127.0 * 0.5 * std::fabs(static_cast<double>(w[k]));
  }
  return e;
}

// Rounding of the kernels' f32 sums. Block formats sum exact integers inside a block, then per block add
// scale * dot and min * sum; |min| <= 31 max |w| and |scale * u| <= |w| + |min| bound those by 63 times |w|, with four
// roundings each. Plain formats add cols / 4 products in each of 4 chains.
double SumTolerance(Dtype dtype, int64_t cols, double magnitude) {
  if (!IsQuantized(dtype)) return kEps * (static_cast<double>(cols) / 4 + 4) * magnitude + 1e-30;
  return kEps * (2.0 * static_cast<double>(cols) / 32 + 8) * 63 * magnitude + 1e-30;
}

class LinearOn : public testing::TestWithParam<std::tuple<Backend, Dtype>> {
 protected:
  Context cx_{std::get<0>(GetParam()), 2};
  Dtype dtype_ = std::get<1>(GetParam());
  bool is_ref_ = cx_.isa() == Isa::kRef;
  int64_t block_ = InfoOf(dtype_).block_elements;
};

TEST_P(LinearOn, DecodeMatchesTheDefinition) {
  Rng rng(1);
  for (const int64_t rows : {1, 15, 16, 17, 33, 192})
    for (const int64_t num_blocks : {1, 3, 5}) {
      const int64_t cols = block_ == 1 ? 29 * num_blocks : block_ * num_blocks;
      const Matrix m = RandomMatrix(dtype_, rows, cols, rng.Next());
      const Weight w = MustBind(cx_, m);
      for (const int64_t num_rows : {1, 2, 3, 7, 17}) {
        const std::vector<float> x = RandomFloats(rng, num_rows * cols);
        const std::vector<float> used = IsQuantized(dtype_) && !is_ref_ ? RoundedActivations(x) : x;
        const std::vector<float> y = Multiply(cx_, w, x, num_rows, LinearMode::kDecode);
        for (int64_t r = 0; r < num_rows; ++r)
          for (int64_t n = 0; n < rows; ++n) {
            const auto at = static_cast<size_t>(r * rows + n);
            const Expected exact = ExpectedDot(x.data() + r * cols, m.row(n), cols);
            const Expected rounded = ExpectedDot(used.data() + r * cols, m.row(n), cols);
            const double tolerance = SumTolerance(dtype_, cols, rounded.magnitude);
            ASSERT_NEAR(y[at], rounded.dot, tolerance) << rows << "x" << cols << " row " << r << " output " << n;
            if (IsQuantized(dtype_)) {
              ASSERT_NEAR(y[at], exact.dot, exact.rounding * 1.001 + tolerance);
            }
          }
      }
    }
}

TEST_P(LinearOn, PrefillMatchesTheDefinition) {
  Rng rng(2);
  for (const GemmDtype gemm : {GemmDtype::kF32, GemmDtype::kBF16})
    for (const int64_t rows : {1, 17, 96, 300}) {
      const int64_t cols = block_ == 1 ? 83 : block_ * 3;
      const Matrix m = RandomMatrix(dtype_, rows, cols, rng.Next());
      const Weight w = MustBind(cx_, m);
      for (const int64_t num_rows : {1, 31, 32, 65, 257}) {
        if (is_ref_ && num_rows > 32) continue;
        const std::vector<float> x = RandomFloats(rng, num_rows * cols);
        const std::vector<float> y = Multiply(cx_, w, x, num_rows, LinearMode::kPrefill, gemm);
        for (int64_t r = (num_rows - 1) % 8; r < num_rows; r += 8)  // every tile and the last row
          for (int64_t n = 0; n < rows; ++n) {
            const Expected exact = ExpectedDot(x.data() + r * cols, m.row(n), cols);
            // f32: one rounding per multiply-add, in any order, and two of the weight (63: see SumTolerance). bf16:
            // also one of each factor, whether or not this backend rounds.
            double tolerance = kEps * (static_cast<double>(cols) + 2 * 63) * exact.magnitude + 1e-30;
            if (gemm == GemmDtype::kBF16) tolerance += (2 * kBF16Eps + kBF16Eps * kBF16Eps) * exact.magnitude;
            ASSERT_NEAR(y[static_cast<size_t>(r * rows + n)], exact.dot, tolerance)
                << rows << "x" << cols << " row " << r << " of " << num_rows << " output " << n;
          }
      }
    }
}

TEST_P(LinearOn, RowsDoNotDependOnTheirBatchOrOnThreads) {
  Rng rng(3);
  const int64_t cols = block_ == 1 ? 61 : block_ * 3;
  const int64_t num_rows = 17;
  const Matrix m = RandomMatrix(dtype_, 100, cols, 33);
  const Weight w = MustBind(cx_, m);
  const std::vector<float> x = RandomFloats(rng, num_rows * cols);
  const std::vector<float> together = Multiply(cx_, w, x, num_rows, LinearMode::kDecode);
  Context one_thread(cx_.backend(), 1);
  EXPECT_EQ(together, Multiply(one_thread, w, x, num_rows, LinearMode::kDecode));
  for (int64_t r = 0; r < num_rows; ++r) {
    const std::vector<float> row(x.begin() + r * cols, x.begin() + (r + 1) * cols);
    const std::vector<float> alone = Multiply(cx_, w, row, 1, LinearMode::kDecode);
    ASSERT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + r * 100)) << "row " << r;
  }
}

TEST_P(LinearOn, PrefillRowsDoNotDependOnTheirChunk) {
  Rng rng(4);
  const int64_t cols = block_ == 1 ? 1536 : 1536 / block_ * block_;
  const int64_t rows = 100, num_rows = is_ref_ ? 5 : 300;
  const Matrix m = RandomMatrix(dtype_, rows, cols, 34);
  const Weight w = MustBind(cx_, m);
  const std::vector<float> x = RandomFloats(rng, num_rows * cols);
  for (const GemmDtype gemm : {GemmDtype::kF32, GemmDtype::kBF16}) {
    const std::vector<float> together = Multiply(cx_, w, x, num_rows, LinearMode::kPrefill, gemm);
    for (const int64_t chunk : {1, 7, 100}) {
      const int64_t begin = num_rows / 3;
      const int64_t count = std::min(chunk, num_rows - begin);
      const std::vector<float> part(x.begin() + begin * cols, x.begin() + (begin + count) * cols);
      const std::vector<float> alone = Multiply(cx_, w, part, count, LinearMode::kPrefill, gemm);
      ASSERT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + begin * rows)) << "chunk of " << chunk;
    }
  }
}

TEST_P(LinearOn, WeightRowIsTheDecodedSourceRow) {
  const int64_t cols = block_ == 1 ? 37 : block_ * 2;
  Matrix m = RandomMatrix(dtype_, 35, cols, 5);
  const Weight w = MustBind(cx_, m);
  EXPECT_EQ(w.read_bytes() != 0, true);
  if (!is_ref_) std::fill(m.bytes.begin(), m.bytes.end(), std::byte{0xff});  // packed weights own their bytes
  std::vector<float> out(static_cast<size_t>(cols));
  for (int64_t n = 0; n < m.rows; ++n) {
    WeightRow(w, n, out.data());
    ASSERT_TRUE(std::equal(out.begin(), out.end(), m.row(n))) << "row " << n;
  }
}

TEST_P(LinearOn, PackedBytesStayNearTheFiles) {
  const Matrix m = RandomMatrix(dtype_, 64, 512, 6);
  const Weight w = MustBind(cx_, m);
  const auto file_bytes = static_cast<double>(m.bytes.size());
  if (is_ref_) {
    EXPECT_EQ(w.owned_bytes(), 0u);
    EXPECT_EQ(w.read_bytes(), m.bytes.size());
  } else {
    EXPECT_GE(static_cast<double>(w.owned_bytes()), file_bytes);
    EXPECT_LE(static_cast<double>(w.owned_bytes()), file_bytes * 1.03);
  }
}

INSTANTIATE_TEST_SUITE_P(All, LinearOn,
                         testing::Combine(testing::ValuesIn(SupportedBackends()), testing::ValuesIn(kAllDtypes)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param).name) + "_" +
                                  InfoOf(std::get<1>(test.param)).name;
                         });

class LinearCalls : public testing::TestWithParam<Backend> {
 protected:
  Context cx_{GetParam(), 2};
};

// Weights of one call keep their own format, bias, stride and accumulation.
TEST_P(LinearCalls, FusedEqualsSeparate) {
  Rng rng(7);
  const int64_t cols = 512, num_rows = 3;
  const Matrix matrices[] = {RandomMatrix(Dtype::kQ4_1, 80, cols, 1), RandomMatrix(Dtype::kF16, 33, cols, 2),
                             RandomMatrix(Dtype::kQ6_K, 16, cols, 3), RandomMatrix(Dtype::kQ8_0, 7, cols, 4)};
  const std::vector<float> x = RandomFloats(rng, num_rows * cols);
  const std::vector<float> bias = RandomFloats(rng, 80);
  for (const LinearMode mode : {LinearMode::kDecode, LinearMode::kPrefill}) {
    std::vector<Weight> weights;
    for (const Matrix& m : matrices) weights.push_back(MustBind(cx_, m));
    std::vector<std::vector<float>> fused, separate;
    for (size_t i = 0; i < 4; ++i) fused.emplace_back(static_cast<size_t>(num_rows * 101), 0.25f);
    separate = fused;
    std::vector<LinearOutput> outputs;
    for (size_t i = 0; i < 4; ++i)
      outputs.push_back({&weights[i], fused[i].data(), 101, i % 2 == 0 ? bias.data() : nullptr, i >= 2});
    Linear(cx_, outputs, x.data(), num_rows, mode, GemmDtype::kF32);
    for (size_t i = 0; i < 4; ++i) {
      outputs[i].y = separate[i].data();
      Linear(cx_, {&outputs[i], 1}, x.data(), num_rows, mode, GemmDtype::kF32);
      EXPECT_EQ(fused[i], separate[i]) << "output " << i;
    }
  }
}

TEST_P(LinearCalls, BiasAccumulateAndStride) {
  Rng rng(8);
  const int64_t rows = 45, cols = 96, stride = 51;
  const Matrix m = RandomMatrix(Dtype::kQ4_1, rows, cols, 9);
  const Weight w = MustBind(cx_, m);
  for (const LinearMode mode : {LinearMode::kDecode, LinearMode::kPrefill})
    for (const int64_t num_rows : {1, 2, 5, 40}) {
      const std::vector<float> x = RandomFloats(rng, num_rows * cols);
      const std::vector<float> bias = RandomFloats(rng, rows);
      const std::vector<float> before = RandomFloats(rng, num_rows * stride);
      const std::vector<float> plain = Multiply(cx_, w, x, num_rows, mode);
      for (const bool accumulate : {false, true}) {
        std::vector<float> y = before;
        const LinearOutput out{&w, y.data(), stride, bias.data(), accumulate};
        Linear(cx_, {&out, 1}, x.data(), num_rows, mode, GemmDtype::kF32);
        for (int64_t r = 0; r < num_rows; ++r)
          for (int64_t n = 0; n < stride; ++n) {
            const auto at = static_cast<size_t>(r * stride + n);
            if (n >= rows) {
              ASSERT_EQ(y[at], before[at]) << "wrote between rows";
              continue;
            }
            const double product = plain[static_cast<size_t>(r * rows + n)];
            const double b = bias[static_cast<size_t>(n)];
            const double start = accumulate ? before[at] : 0.0;
            // Two additions, in whatever order.
            const double tolerance = 4 * kEps * (std::fabs(product) + std::fabs(b) + std::fabs(start));
            ASSERT_NEAR(y[at], product + b + start, tolerance);
          }
      }
    }
}

TEST_P(LinearCalls, EmptyCallsWriteNothing) {
  const Matrix m = RandomMatrix(Dtype::kQ8_0, 5, 32, 10);
  const Weight w = MustBind(cx_, m);
  float y = 3.0f;
  const LinearOutput out{&w, &y, 5};
  const float x[32] = {};
  Linear(cx_, {&out, 1}, x, 0, LinearMode::kDecode, GemmDtype::kF32);
  Linear(cx_, {&out, 1}, x, 0, LinearMode::kPrefill, GemmDtype::kF32);
  Linear(cx_, {}, x, 1, LinearMode::kDecode, GemmDtype::kF32);
  EXPECT_EQ(y, 3.0f);
}

TEST_P(LinearCalls, ZeroActivationsGiveZero) {
  const Matrix m = RandomMatrix(Dtype::kQ5_1, 20, 64, 11);
  const Weight w = MustBind(cx_, m);
  const std::vector<float> x(128, 0.0f);
  for (const LinearMode mode : {LinearMode::kDecode, LinearMode::kPrefill})
    EXPECT_THAT(Multiply(cx_, w, x, 2, mode), testing::Each(0.0f));
}

// Values at both ends: every weight at its extreme and every activation at +-127 steps, where 16-bit sums would
// saturate first.
TEST_P(LinearCalls, ExtremeValuesDoNotSaturate) {
  for (const Dtype dtype : kAllDtypes) {
    if (!IsQuantized(dtype)) continue;
    const int64_t cols = InfoOf(dtype).block_elements;
    for (const int fill : {0x00, 0xff, 0x80, 0x7f}) {
      Matrix m = RandomMatrix(dtype, 16, cols, 12);
      const Matrix scales = m;
      std::fill(m.bytes.begin(), m.bytes.end(), static_cast<std::byte>(fill));
      for (size_t at = 0; at < m.bytes.size(); at += static_cast<size_t>(InfoOf(dtype).block_bytes)) {
        const size_t d_at = dtype == Dtype::kQ6_K ? 208 : 0;
        const bool has_min =
            dtype != Dtype::kQ8_0 && dtype != Dtype::kQ4_0 && dtype != Dtype::kQ5_0 && dtype != Dtype::kQ6_K;
        std::copy_n(scales.bytes.begin() + at + d_at, has_min ? 4 : 2, m.bytes.begin() + at + d_at);
      }
      Dequantize(dtype, m.bytes.data(), 16 * cols, m.values.data());
      const Weight w = MustBind(cx_, m);
      for (const float sign : {1.0f, -1.0f}) {
        const std::vector<float> x(static_cast<size_t>(cols), sign);
        const std::vector<float> y = Multiply(cx_, w, x, 1, LinearMode::kDecode);
        for (int64_t n = 0; n < 16; ++n) {
          const Expected e = ExpectedDot(x.data(), m.row(n), cols);
          ASSERT_NEAR(y[static_cast<size_t>(n)], e.dot, SumTolerance(dtype, cols, e.magnitude))
              << InfoOf(dtype).name << " filled with " << fill;
        }
      }
    }
  }
}

TEST_P(LinearCalls, BindRefusesPartialBlocks) {
  const std::vector<std::byte> bytes(1000);
  const auto weight = Weight::Bind(cx_, {bytes.data(), Dtype::kQ4_1, 3, 33});
  ASSERT_FALSE(weight.ok());
  EXPECT_EQ(weight.failure().error, Error::kInvalidArgument);
  EXPECT_THAT(weight.failure().message, testing::HasSubstr("33"));
  const auto super = Weight::Bind(cx_, {bytes.data(), Dtype::kQ4_K, 1, 128});
  ASSERT_FALSE(super.ok());
  EXPECT_THAT(super.failure().message, testing::HasSubstr("q4_k"));
}

INSTANTIATE_TEST_SUITE_P(All, LinearCalls, testing::ValuesIn(SupportedBackends()),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace cachette::ops
