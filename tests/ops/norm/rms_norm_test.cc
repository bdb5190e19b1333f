#include "ops/norm/rms_norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "ops/attention/kv_fixture.h"

namespace cachette::ops {
namespace {

using testing::FastBackends;
using testing::Normals;

std::vector<float> Norm(const Backend& backend, const std::vector<float>& x, const std::vector<float>& weight,
                        int64_t num_rows, int64_t stride, float offset, bool is_in_place) {
  std::vector<float> out = is_in_place ? x : std::vector<float>(x.size(), -1.0f);
  Context cx(backend, 2);
  RmsNorm(cx, {is_in_place ? out.data() : x.data(), stride, out.data(), stride, num_rows,
               static_cast<int64_t>(weight.size()), weight.data(), 1e-5f, offset});
  return out;
}

TEST(RmsNorm, FollowsTheFormula) {
  const std::vector<float> x = {3.0f, -4.0f}, weight = {2.0f, 0.5f};
  const double inverse = 1.0 / std::sqrt(12.5 + 1e-5);
  for (const Backend& backend : AllBackends()) {
    if (!backend.is_supported) continue;
    const std::vector<float> out = Norm(backend, x, weight, 1, 2, 1.0f, false);
    EXPECT_NEAR(out[0], 3.0 * inverse * 3.0, 1e-6);
    EXPECT_NEAR(out[1], -4.0 * inverse * 1.5, 1e-6);
  }
}

TEST(RmsNorm, MatchesReferenceAtEveryWidth) {
  Rng rng(1);
  for (int64_t dim : {1, 8, 15, 16, 17, 31, 33, 48, 64, 576, 1021, 4096})
    for (int64_t num_rows : {0, 1, 3, 200}) {
      const int64_t stride = dim + 3;
      const std::vector<float> x = Normals(rng, static_cast<size_t>(stride * num_rows), 3.0);
      const std::vector<float> weight = Normals(rng, static_cast<size_t>(dim));
      const std::vector<float> expected = Norm(*FindBackend("ref"), x, weight, num_rows, stride, 1.0f, false);
      for (const Backend& backend : FastBackends()) {
        const std::vector<float> out = Norm(backend, x, weight, num_rows, stride, 1.0f, false);
        const std::vector<float> in_place = Norm(backend, x, weight, num_rows, stride, 1.0f, true);
        for (int64_t r = 0; r < num_rows; ++r)
          for (int64_t i = 0; i < dim; ++i) {
            const auto at = static_cast<size_t>(r * stride + i);
            // The mean errs by (dim / 32 + 20) eps (its square root by half); four more roundings; and weight + offset
            // is rounded once, relative to its own size.
            const double relative = (static_cast<double>(dim) / 64.0 + 16.0) * testing::kEps;
            ASSERT_NEAR(out[at], expected[at], relative * std::abs(static_cast<double>(expected[at])) + 1e-30)
                << backend.name << " dim " << dim;
            ASSERT_EQ(in_place[at], out[at]);
          }
        for (int64_t r = 0; r < num_rows; ++r)
          for (int64_t i = dim; i < stride; ++i) EXPECT_EQ(out[static_cast<size_t>(r * stride + i)], -1.0f);
      }
    }
}

TEST(RmsNorm, ZerosStayZero) {
  for (const Backend& backend : AllBackends())
    if (backend.is_supported) {
      for (float x : Norm(backend, std::vector<float>(32, 0.0f), std::vector<float>(32, 1.0f), 1, 32, 0.0f, false))
        EXPECT_EQ(x, 0.0f);
    }
}

}  // namespace
}  // namespace cachette::ops
