// Every family, RoPE variant, weight format and adapter naming against logits recorded from an independent
// implementation, on the reference backend and on the fast ones.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/engine.h"
#include "support/reference_logits.h"

namespace cachette {
namespace {

using test::ReferenceCase;
using test::TinyReference;

class ReferenceLogits : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Engine> Load(const TinyReference& reference, const std::string& backend, const std::string& compute,
                               const std::string& kv_dtype) {
    EngineOptions options;
    options.model = reference.model;
    if (!reference.adapter.empty()) options.loras = {reference.adapter};
    options.backend = backend;
    options.compute = compute;
    options.kv_dtype = kv_dtype;
    options.threads = 2;
    auto engine = Engine::Load(options);
    EXPECT_TRUE(engine.ok()) << (engine.ok() ? "" : engine.failure().message);
    return engine.ok() ? std::move(*engine) : nullptr;
  }

  std::unique_ptr<Session> FullSession(Engine& engine) { return engine.NewSession(*engine.MakeRecipe("full", {})); }

  std::vector<float> PrefillLogits(Engine& engine, const ReferenceCase& one, int64_t chunk) {
    std::vector<float> logits(one.logits.size());
    const auto session = FullSession(engine);
    const auto done = engine.PrefillLogits(*session, one.ids, chunk, one.positions, logits.data());
    EXPECT_TRUE(done.ok()) << (done.ok() ? "" : done.failure().message);
    return logits;
  }

  // Token by token through the decode path.
  std::vector<float> DecodeLogits(Engine& engine, const ReferenceCase& one) {
    const auto vocab = static_cast<size_t>(engine.config().vocab_size);
    std::vector<float> logits(one.logits.size()), step(vocab);
    const auto session = FullSession(engine);
    Session* const sessions[] = {session.get()};
    size_t row = 0;
    for (size_t i = 0; i < one.ids.size() && row < one.positions.size(); ++i) {
      EXPECT_TRUE(engine.DecodeStep(sessions, std::span(one.ids).subspan(i, 1), step.data()).ok());
      if (one.positions[row] == static_cast<int64_t>(i))
        std::copy(step.begin(), step.end(), logits.begin() + static_cast<int64_t>(row++ * vocab));
    }
    return logits;
  }
};

// f32 throughout. The reference was computed in f64 with some steps in f32 and differs from its own f32 run by
// noise.float32; another order of summation in a model this small moves that by a small factor.
TEST_P(ReferenceLogits, ReferenceBackendMatches) {
  const TinyReference reference = test::LoadTinyReference(CACHETTE_TEST_DATA "/models/" + GetParam());
  const auto engine = Load(reference, "ref", "f32", "f32");
  ASSERT_NE(engine, nullptr);
  // An adapter is merged in f16: half a unit in the last place of each weight, relative to the logits 2^-11 / sqrt(3).
  const double merge_noise = reference.adapter.empty() ? 0.0 : reference.logits_rms * 0x1p-11;
  const double tolerance = 8 * reference.noise.float32 + 4 * merge_noise;
  for (const ReferenceCase& one : reference.cases) {
    const std::vector<float> whole = PrefillLogits(*engine, one, 4096);
    EXPECT_LT(test::RmsDifference(whole, one.logits), tolerance) << "over " << one.ids.size() << " tokens";
    EXPECT_EQ(PrefillLogits(*engine, one, 7), whole) << "chunks of 7 must not change a bit";
    EXPECT_EQ(PrefillLogits(*engine, one, 1), whole) << "chunks of 1 must not change a bit";
  }
}

TEST_P(ReferenceLogits, FastBackendsMatchInF32) {
  const TinyReference reference = test::LoadTinyReference(CACHETTE_TEST_DATA "/models/" + GetParam());
  const double merge_noise = reference.adapter.empty() ? 0.0 : reference.logits_rms * 0x1p-11;
  for (const Backend& backend : AllBackends()) {
    if (!backend.is_supported || backend.isa == Isa::kRef) continue;
    const auto engine = Load(reference, backend.name, "f32", "f32");
    ASSERT_NE(engine, nullptr);
    for (const ReferenceCase& one : reference.cases) {
      // Prefill is f32 all the way; logits of few rows go through the mat-vec with its 8-bit activations.
      const double tolerance = 3 * reference.noise.int8_activations + 8 * reference.noise.float32 + 4 * merge_noise;
      EXPECT_LT(test::RmsDifference(PrefillLogits(*engine, one, 4096), one.logits), tolerance) << backend.name;
      EXPECT_LT(test::RmsDifference(PrefillLogits(*engine, one, 7), one.logits), tolerance) << backend.name;
      // Dynamic RoPE depends on the length of the whole prompt, which decoding token by token cannot know.
      if (engine->config().rope.scaling == ops::RopeScaling::kDynamic) continue;
      EXPECT_LT(test::RmsDifference(DecodeLogits(*engine, one), one.logits), tolerance) << backend.name;
    }
  }
}

TEST_P(ReferenceLogits, Bf16ProductsAndF16EntriesStayWithinTheirNoise) {
  const TinyReference reference = test::LoadTinyReference(CACHETTE_TEST_DATA "/models/" + GetParam());
  const auto engine = Load(reference, "auto", "bf16", "f16");
  ASSERT_NE(engine, nullptr);
  const test::ReferenceNoise& noise = reference.noise;
  const double tolerance = 3 * (noise.bf16_linear + noise.int8_activations + noise.f16_kv);
  for (const ReferenceCase& one : reference.cases)
    EXPECT_LT(test::RmsDifference(PrefillLogits(*engine, one, 4096), one.logits), tolerance);
}

INSTANTIATE_TEST_SUITE_P(TinyModels, ReferenceLogits, testing::ValuesIn(test::TinyReferenceNames()),
                         [](const auto& param_info) {
                           std::string name = param_info.param;
                           std::replace_if(
                               name.begin(), name.end(), [](char c) { return !std::isalnum(c); }, '_');
                           return name;
                         });

}  // namespace
}  // namespace cachette
