// SmolLM2 and Gemma 3 270M over 2,000 tokens of text against logits recorded from an independent implementation.
// Needs the models (`make model`, `make model-gemma`); says so and skips where one is absent.

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <numeric>

#include "engine/engine.h"
#include "engine/find_model.h"
#include "support/reference_logits.h"

namespace cachette {
namespace {

struct Setting {
  const char* name;
  const char* reference;
  const char* compute;
  const char* kv_dtype;
  bool decodes;  // the last tokens go through the decode path, whose inputs are rounded to 8 bits
};

class RealModelLogits : public testing::TestWithParam<Setting> {};

// rms over the fixed ids of one recorded position.
double RmsAt(const nlohmann::json& position, const std::vector<int32_t>& ids, std::span<const float> logits) {
  std::vector<float> own;
  for (const int32_t id : ids) own.push_back(logits[static_cast<size_t>(id)]);
  return test::RmsDifference(own, position["fixed_logits"].get<std::vector<float>>());
}

TEST_P(RealModelLogits, StayWithinTheNoiseOfTheirArithmetic) {
  const Setting setting = GetParam();
  const nlohmann::json reference =
      nlohmann::json::parse(std::ifstream(std::string(CACHETTE_TEST_DATA "/logits/") + setting.reference + ".json"));
  std::string file = reference["model_file"];
  if (!FindModel(std::string(CACHETTE_MODELS_DIR "/") + file).ok() && !FindModel(file).ok())
    GTEST_SKIP() << file << " is not here; fetch it with make model or make model-gemma";
  EngineOptions options;
  options.model = FindModel(std::string(CACHETTE_MODELS_DIR "/") + file).ok() ? CACHETTE_MODELS_DIR "/" + file : file;
  options.compute = setting.compute;
  options.kv_dtype = setting.kv_dtype;
  auto engine = Engine::Load(options);
  ASSERT_TRUE(engine.ok()) << engine.failure().message;
  Engine& e = **engine;

  const auto ids = reference["ids"].get<std::vector<int32_t>>();
  const auto fixed_ids = reference["fixed_ids"].get<std::vector<int32_t>>();
  const auto vocab = static_cast<size_t>(reference["vocab_size"].get<int64_t>());
  ASSERT_EQ(vocab, static_cast<size_t>(e.config().vocab_size));
  const auto session = e.NewSession(*e.MakeRecipe("full", {}));

  // Roundings add as squares. The recorded noise rounds once per projection (bf16) or entry (f16), in one order of
  // summation; attention here rounds its scores' and outputs' operands as well, and 64 ids estimate an rms to a factor
  // of about 1.3: four times the recorded rms bounds them together.
  const nlohmann::json& noise = reference["noise"];
  const auto squared = [&](const char* kind, size_t i) {
    const double rms = noise[kind]["rms_per_position"][i];
    return rms * rms;
  };
  const auto tolerance = [&](size_t i, bool is_int8) {
    double sum = squared("float32", i);
    if (setting.compute == std::string("bf16")) sum += squared("bf16_linear", i);
    if (setting.kv_dtype == std::string("f16")) sum += squared("f16_kv", i);
    if (is_int8) sum += squared("int8_activations", i);
    return 4 * std::sqrt(sum) + 1e-3;
  };

  if (!setting.decodes) {
    std::vector<int64_t> rows(ids.size());
    std::iota(rows.begin(), rows.end(), int64_t{0});
    std::vector<float> logits(ids.size() * vocab);
    ASSERT_TRUE(e.PrefillLogits(*session, ids, 512, rows, logits.data()).ok());
    for (size_t i = 0; i < reference["positions"].size(); ++i) {
      const nlohmann::json& position = reference["positions"][i];
      const auto row = std::span(logits).subspan(position["position"].get<size_t>() * vocab, vocab);
      EXPECT_LT(RmsAt(position, fixed_ids, row), tolerance(i, false)) << "position " << position["position"];
    }
    double nll = 0;
    size_t agreements = 0;
    for (size_t t = 0; t < ids.size(); ++t) {
      const auto row = std::span(logits).subspan(t * vocab, vocab);
      const auto best = std::max_element(row.begin(), row.end());
      agreements += best - row.begin() == reference["argmax"][t].get<int64_t>();
      if (t + 1 == ids.size()) break;
      double sum = 0;
      for (const float logit : row) sum += std::exp(static_cast<double>(logit) - *best);
      nll += std::log(sum) + *best - row[static_cast<size_t>(ids[t + 1])];
    }
    nll /= static_cast<double>(ids.size() - 1);
    const bool is_bf16 = setting.compute == std::string("bf16");
    const double changed = 1.0 - noise[is_bf16 ? "bf16_linear" : "float32"]["top1_agreement"].get<double>();
    EXPECT_GE(static_cast<double>(agreements) / static_cast<double>(ids.size()), 1.0 - 2 * changed - 0.0015);
    // The mean over 2,000 tokens moves far less than a logit: by no more than 1 % in any of these settings.
    EXPECT_NEAR(nll, reference["mean_nll"].get<double>(), 0.01 * reference["mean_nll"].get<double>());
    return;
  }
  // Prefill up to 16 tokens before each recorded position, decode the rest.
  for (size_t i = 0; i < reference["positions"].size(); ++i) {
    const nlohmann::json& position = reference["positions"][i];
    const size_t end = position["position"].get<size_t>() + 1;
    const size_t begin = end > 16 ? end - 16 : 0;
    const auto fresh = e.NewSession(*e.MakeRecipe("full", {}));
    ASSERT_TRUE(e.Prefill(*fresh, std::span(ids).first(begin), 512, nullptr).ok());
    Session* const sessions[] = {fresh.get()};
    std::vector<float> logits(vocab);
    for (size_t t = begin; t < end; ++t)
      ASSERT_TRUE(e.DecodeStep(sessions, std::span(ids).subspan(t, 1), logits.data()).ok());
    EXPECT_LT(RmsAt(position, fixed_ids, logits), tolerance(i, true)) << "position " << position["position"];
  }
}

INSTANTIATE_TEST_SUITE_P(Settings, RealModelLogits,
                         testing::Values(Setting{"smollm2_f32", "smollm2", "f32", "f32", false},
                                         Setting{"smollm2_f32_f16", "smollm2", "f32", "f16", false},
                                         Setting{"smollm2_bf16_f16", "smollm2", "bf16", "f16", false},
                                         Setting{"smollm2_decode", "smollm2", "bf16", "f16", true},
                                         Setting{"gemma3_f32", "gemma3", "f32", "f32", false},
                                         Setting{"gemma3_bf16_f16", "gemma3", "bf16", "f16", false},
                                         Setting{"gemma3_decode", "gemma3", "bf16", "f16", true}),
                         [](const auto& param_info) { return std::string(param_info.param.name); });

}  // namespace
}  // namespace cachette
