#include "ops/rope/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "ops/attention/kv_fixture.h"

namespace cachette::ops {
namespace {

using testing::Normals;
using testing::TestRow;

constexpr double kPi = std::numbers::pi;

std::vector<Backend> SupportedBackends() {
  std::vector<Backend> backends = {*FindBackend("ref")};
  for (const Backend& backend : testing::FastBackends()) backends.push_back(backend);
  return backends;
}

double PlainFreq(double base, int pair_idx, int dim) { return 1.0 / std::pow(base, 2.0 * pair_idx / dim); }

void ExpectFreqs(const RopeTable& table, const std::vector<double>& expected) {
  ASSERT_EQ(table.inv_freq.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(table.inv_freq[i] / expected[i], 1.0, 2.0 * testing::kEps) << "pair " << i;  // rounded once to f32
}

TEST(RopeTable, NoneAndLinear) {
  std::vector<double> plain, scaled;
  for (int i = 0; i < 32; ++i) {
    plain.push_back(PlainFreq(100000.0, i, 64));
    scaled.push_back(plain.back() / 8.0);
  }
  ExpectFreqs(MakeRopeTable({.rotary_dim = 64, .base = 100000.0f}, 1), plain);
  ExpectFreqs(MakeRopeTable({.rotary_dim = 64, .base = 100000.0f, .scaling = RopeScaling::kLinear, .factor = 8.0f}, 1),
              scaled);
}

// Llama 3.1: wavelengths up to 2048 tokens stay, from 8192 on they are stretched by 8.
TEST(RopeTable, Llama3) {
  std::vector<double> expected;
  int num_kept = 0, num_blended = 0, num_stretched = 0;
  for (int i = 0; i < 64; ++i) {
    const double freq = PlainFreq(500000.0, i, 128), wavelength = 2.0 * kPi / freq;
    if (wavelength < 8192.0 / 4.0) {
      expected.push_back(freq);
      ++num_kept;
    } else if (wavelength > 8192.0 / 1.0) {
      expected.push_back(freq / 8.0);
      ++num_stretched;
    } else {
      const double smooth = (8192.0 / wavelength - 1.0) / (4.0 - 1.0);
      expected.push_back((1.0 - smooth) * freq / 8.0 + smooth * freq);
      ++num_blended;
    }
  }
  EXPECT_GT(num_kept * num_blended * num_stretched, 0);
  ExpectFreqs(MakeRopeTable({.rotary_dim = 128,
                             .base = 500000.0f,
                             .scaling = RopeScaling::kLlama3,
                             .factor = 8.0f,
                             .original_context_tokens = 8192},
                            1),
              expected);
}

// Hand-computed: dim 64, base 10000, trained on 2048 tokens; beta 32 is pair 8.05, beta 1 is pair 20.09.
TEST(RopeTable, Yarn) {
  const auto pair_of = [](double rotations) {
    return 64.0 * std::log(2048.0 / (rotations * 2.0 * kPi)) / (2.0 * std::log(10000.0));
  };
  for (bool truncate : {true, false}) {
    const double low = truncate ? 8.0 : pair_of(32.0), high = truncate ? 21.0 : pair_of(1.0);
    ASSERT_EQ(std::floor(pair_of(32.0)), 8.0);
    ASSERT_EQ(std::ceil(pair_of(1.0)), 21.0);
    std::vector<double> expected;
    for (int i = 0; i < 32; ++i) {
      const double stretched = std::min(1.0, std::max(0.0, (i - low) / (high - low)));
      const double freq = PlainFreq(10000.0, i, 64);
      expected.push_back(freq / 4.0 * stretched + freq * (1.0 - stretched));
    }
    RopeConfig config{.rotary_dim = 64, .scaling = RopeScaling::kYarn, .factor = 4.0f, .original_context_tokens = 2048};
    config.truncate_yarn_range = truncate;
    ExpectFreqs(MakeRopeTable(config, 1), expected);
    EXPECT_NEAR(MakeRopeTable(config, 1).magnitude, 0.1 * std::log(4.0) + 1.0, 2e-7);
    config.attention_factor = 0.75f;
    EXPECT_EQ(MakeRopeTable(config, 1).magnitude, 0.75f);
  }
}

TEST(RopeTable, DynamicStretchesTheBaseBeyondTheTrainedContext) {
  const RopeConfig config{
      .rotary_dim = 64, .scaling = RopeScaling::kDynamic, .factor = 2.0f, .original_context_tokens = 1024};
  std::vector<double> short_context, long_context;
  const double base = 10000.0 * std::pow(2.0 * 3000.0 / 1024.0 - 1.0, 64.0 / 62.0);
  for (int i = 0; i < 32; ++i) {
    short_context.push_back(PlainFreq(10000.0, i, 64));
    long_context.push_back(PlainFreq(base, i, 64));
  }
  ExpectFreqs(MakeRopeTable(config, 10), short_context);
  ExpectFreqs(MakeRopeTable(config, 1024), short_context);
  ExpectFreqs(MakeRopeTable(config, 3000), long_context);
}

TEST(RopeTable, FreqFactorsDivide) {
  const RopeTable table = MakeRopeTable({.rotary_dim = 4, .freq_factors = {1.0f, 8.0f}}, 1);
  ExpectFreqs(table, {1.0, 0.01 / 8.0});
}

TEST(ApplyRope, RotatesEveryPairByItsAngle) {
  Rng rng(1);
  for (RopePairing pairing : {RopePairing::kHalves, RopePairing::kAdjacent})
    for (int rotary_dim : {2, 8, 24, 64, 72}) {
      constexpr int kHeadDim = 72, kNumHeads = 3;
      const std::vector<int32_t> positions = {0, 1, 17, 131071, 1000000, -5};
      const int64_t stride = kNumHeads * kHeadDim + 5;
      RopeTable table = MakeRopeTable({.rotary_dim = rotary_dim, .pairing = pairing}, 1);
      table.magnitude = 1.25f;
      const std::vector<float> before = Normals(rng, positions.size() * static_cast<size_t>(stride));
      for (const Backend& backend : SupportedBackends()) {
        Context cx(backend, 2);
        std::vector<float> x = before;
        ApplyRope(cx, table, x.data(), stride, kNumHeads, kHeadDim, positions);
        std::vector<float> expected = before;
        for (size_t t = 0; t < positions.size(); ++t)
          for (int h = 0; h < kNumHeads; ++h)
            for (int i = 0; i < rotary_dim / 2; ++i) {
              const bool is_adjacent = pairing == RopePairing::kAdjacent;
              const size_t head = t * static_cast<size_t>(stride) + static_cast<size_t>(h * kHeadDim);
              const size_t a = head + static_cast<size_t>(is_adjacent ? 2 * i : i);
              const size_t b = head + static_cast<size_t>(is_adjacent ? 2 * i + 1 : i + rotary_dim / 2);
              const double theta =
                  static_cast<double>(positions[t]) * static_cast<double>(table.inv_freq[static_cast<size_t>(i)]);
              const double va = static_cast<double>(before[a]), vb = static_cast<double>(before[b]);
              expected[a] = static_cast<float>(1.25 * (va * std::cos(theta) - vb * std::sin(theta)));
              expected[b] = static_cast<float>(1.25 * (vb * std::cos(theta) + va * std::sin(theta)));
            }
        // Two products of numbers below 1.25 * max|x|, each factor rounded once: 4 roundings of each.
        const double tolerance = 2.0 * 4.0 * testing::kEps * 1.25 * testing::MaxAbs(before);
        for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(x[i], expected[i], tolerance) << backend.name;
      }
    }
}

TEST(ApplyRope, NoTokens) {
  Context cx(*FindBackend("auto"), 2);
  ApplyRope(cx, MakeRopeTable({.rotary_dim = 8}, 1), nullptr, 8, 1, 8, {});
}

TEST(RotateBlockKeys, EqualsRotatingTokens) {
  for (RopePairing pairing : {RopePairing::kHalves, RopePairing::kAdjacent})
    for (Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16})
      for (int64_t num_slots : {0, 1, 15, 16, 17, 100}) {
        constexpr int kHeadDim = 72, kRotaryDim = 48;
        Rng rng(2);
        TestRow in(rng, dtype, kHeadDim, num_slots), out(rng, dtype, kHeadDim, num_slots);
        std::vector<int32_t> positions;
        for (int64_t i = 0; i < num_slots; ++i) positions.push_back(static_cast<int32_t>(rng.Below(5000)));
        for (const Backend& backend : SupportedBackends()) {
          Context cx(backend, 2);
          RopeAngles angles;
          ComputeRopeAngles(cx, MakeRopeTable({.rotary_dim = kRotaryDim, .pairing = pairing}, 1), positions, angles);
          RotateBlockKeys(cx, angles, in.View(), out.blocks());
          // One rounding to the format, of numbers below 2 max|k| < 12, besides the f32 arithmetic.
          const double step = dtype == Dtype::kF32 ? 0.0 : dtype == Dtype::kF16 ? 0x1.0p-11 : 0x1.0p-8;
          const double tolerance = 12.0 * (step + 8.0 * testing::kEps);
          for (int64_t i = 0; i < num_slots; ++i) {
            std::vector<float> key(kHeadDim), value(kHeadDim), rotated(kHeadDim), copied(kHeadDim);
            LoadEntry(in.format(), in.blocks(), i, key.data(), value.data());
            LoadEntry(out.format(), out.blocks(), i, rotated.data(), copied.data());
            RopeAngles one = angles;
            one.num_tokens = 1;
            one.cos.assign(angles.cos.begin() + i * 24, angles.cos.begin() + i * 24 + 24);
            one.sin.assign(angles.sin.begin() + i * 24, angles.sin.begin() + i * 24 + 24);
            ApplyRope(cx, one, key.data(), kHeadDim, 1, kHeadDim);
            for (size_t d = 0; d < kHeadDim; ++d) ASSERT_NEAR(rotated[d], key[d], tolerance) << backend.name;
            EXPECT_EQ(copied, value);
          }
        }
      }
}

// Rotating by p and then by delta is rotating by p + delta: what moves stored keys to new cache positions.
TEST(RotateBlockKeys, ConstantShiftComposes) {
  Rng rng(3);
  constexpr int kHeadDim = 64;
  TestRow in(rng, Dtype::kF32, kHeadDim, 20), at_p(rng, Dtype::kF32, kHeadDim, 20),
      shifted(rng, Dtype::kF32, kHeadDim, 20), direct(rng, Dtype::kF32, kHeadDim, 20);
  const RopeTable table = MakeRopeTable({.rotary_dim = kHeadDim}, 1);
  for (const Backend& backend : SupportedBackends()) {
    Context cx(backend, 1);
    RopeAngles angles;
    const auto rotate = [&](int32_t start, int32_t step, const TestRow& from, const TestRow& to) {
      std::vector<int32_t> positions;
      for (int32_t i = 0; i < 20; ++i) positions.push_back(start + i * step);
      ComputeRopeAngles(cx, table, positions, angles);
      RotateBlockKeys(cx, angles, from.View(), to.blocks());
    };
    rotate(900, 1, in, at_p);
    rotate(-700, 0, at_p, shifted);
    rotate(200, 1, in, direct);
    for (int64_t i = 0; i < 20; ++i) {
      std::vector<float> a(kHeadDim), b(kHeadDim);
      LoadEntry(shifted.format(), shifted.blocks(), i, a.data(), nullptr);
      LoadEntry(direct.format(), direct.blocks(), i, b.data(), nullptr);
      for (size_t d = 0; d < kHeadDim; ++d) ASSERT_NEAR(a[d], b[d], 3.0 * 12.0 * 8.0 * testing::kEps) << backend.name;
    }
  }
}

}  // namespace
}  // namespace cachette::ops
