#include "ops/activation/gated.h"

#include <gtest/gtest.h>

#include <cmath>

#include "ops/attention/kv_fixture.h"

namespace cachette::ops {
namespace {

using testing::FastBackends;
using testing::Normals;

constexpr Activation kBoth[] = {Activation::kSilu, Activation::kGeluTanh};

std::vector<float> Gate(const Backend& backend, Activation activation, const std::vector<float>& gate,
                        const std::vector<float>& up) {
  std::vector<float> out(gate.size());
  Context cx(backend, 2);
  GatedActivation(cx, activation, gate.data(), up.data(), out.data(), static_cast<int64_t>(gate.size()));
  return out;
}

TEST(GatedActivation, KnownValues) {
  for (const Backend& backend : AllBackends()) {
    if (!backend.is_supported) continue;
    const std::vector<float> silu = Gate(backend, Activation::kSilu, {0.0f, 1.0f, -2.0f}, {5.0f, 2.0f, 1.0f});
    EXPECT_EQ(silu[0], 0.0f);
    EXPECT_NEAR(silu[1], 1.4621171573, 1e-6);
    EXPECT_NEAR(silu[2], -0.2384058440, 1e-6);
    const std::vector<float> gelu = Gate(backend, Activation::kGeluTanh, {0.0f, 1.0f, -2.0f}, {5.0f, 1.0f, 1.0f});
    EXPECT_EQ(gelu[0], 0.0f);
    EXPECT_NEAR(gelu[1], 0.8411919906, 1e-6);
    EXPECT_NEAR(gelu[2], -0.0454023059, 1e-6);
  }
}

// The bound in gated_simd.cc: 5e-7 + 2e-7 |z|, with |z| <= |x| (SiLU) or 1.6 |x| + 0.0714 |x|^3 (GELU).
// The reference itself loses what 1 + tanh rounds away in f64: 1.2e-16 |x|.
TEST(GatedActivation, MatchesReferenceWithinItsBound) {
  std::vector<float> gate;
  for (int i = -120000; i <= 120000; ++i) gate.push_back(static_cast<float>(i) * 0x1.0p-10f);
  const std::vector<float> up(gate.size(), 1.0f);
  for (Activation activation : kBoth) {
    const std::vector<float> expected = Gate(*FindBackend("ref"), activation, gate, up);
    for (const Backend& backend : FastBackends()) {
      const std::vector<float> out = Gate(backend, activation, gate, up);
      for (size_t i = 0; i < gate.size(); ++i) {
        const double x = std::abs(static_cast<double>(gate[i]));
        const double z = activation == Activation::kSilu ? x : 1.6 * x + 0.0714 * x * x * x;
        const double relative = 5e-7 + 2e-7 * std::min(z, 87.0);
        ASSERT_NEAR(out[i], expected[i], relative * std::abs(static_cast<double>(expected[i])) + 1.2e-16 * x)
            << backend.name << " x = " << gate[i];
      }
    }
  }
}

TEST(GatedActivation, LengthsAliasesAndExtremes) {
  Rng rng(1);
  for (size_t count : {0, 1, 15, 16, 17, 31, 33, 32768, 32769, 70001}) {
    const std::vector<float> gate = Normals(rng, count, 3.0), up = Normals(rng, count);
    for (const Backend& backend : FastBackends())
      for (Activation activation : kBoth) {
        const std::vector<float> expected = Gate(backend, activation, gate, up);
        std::vector<float> a = gate, b = up;
        Context cx(backend, 2);
        GatedActivation(cx, activation, a.data(), up.data(), a.data(), static_cast<int64_t>(count));
        GatedActivation(cx, activation, gate.data(), b.data(), b.data(), static_cast<int64_t>(count));
        EXPECT_EQ(a, expected);
        EXPECT_EQ(b, expected);
      }
  }
  for (const Backend& backend : AllBackends())
    if (backend.is_supported) {
      for (Activation activation : kBoth) {
        const std::vector<float> out = Gate(backend, activation, {-1e30f, 1e10f, -200.0f}, {1.0f, 1.0f, 1.0f});
        EXPECT_NEAR(out[0], 0.0, 1e-5) << backend.name;
        EXPECT_EQ(out[1], 1e10f);
        EXPECT_NEAR(out[2], 0.0, 1e-30);
      }
    }
}

}  // namespace
}  // namespace cachette::ops
