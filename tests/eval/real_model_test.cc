// With the recall adapter, SmolLM2 with its full cache knows the answers: what a recipe then loses is the recipe's
// loss. Needs the model (`make model`); says so and skips where it is absent.

#include <gtest/gtest.h>

#include <filesystem>

#include "engine/find_model.h"
#include "eval/harness.h"

namespace cachette {
namespace {

class EvalRealModel : public testing::TestWithParam<const char*> {};

TEST_P(EvalRealModel, FullCacheLooksUpKeys) {
  EngineOptions engine_options;
  engine_options.model = CACHETTE_MODELS_DIR "/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(engine_options.model)) GTEST_SKIP() << "the model is not here; fetch it with make model";
  engine_options.loras = {CACHETTE_MODELS_DIR "/../data/adapters/smollm2-135m-recall-8k.lora.safetensors"};
  auto engine = Engine::Load(engine_options);
  ASSERT_TRUE(engine.ok()) << engine.failure().message;
  const auto recipe = (*engine)->MakeRecipe("full", {});
  ASSERT_TRUE(recipe.ok());
  EvalOptions options;
  options.tasks = {"kv"};
  options.lengths = {1024};
  options.samples = 4;
  options.questions = 4;
  options.protocol = GetParam();
  const auto result = RunEval(**engine, *recipe, options);
  ASSERT_TRUE(result.ok()) << result.failure().message;
  ASSERT_EQ(result->records.size(), 16u);
  double num_exact = 0;
  for (const AnswerRecord& record : result->records) {
    num_exact += record.exact;
    EXPECT_GT(record.prompt_tokens, 1024 - 40) << record.id;  // a line is about 25 tokens
    EXPECT_LE(record.prompt_tokens, 1024) << record.id;
    EXPECT_EQ(record.footprint, 1.0);
  }
  EXPECT_GE(num_exact / 16, 0.95);
}

INSTANTIATE_TEST_SUITE_P(Protocols, EvalRealModel, testing::Values("in-prompt", "as-decode"));

}  // namespace
}  // namespace cachette
