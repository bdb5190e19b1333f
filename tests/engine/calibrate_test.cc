#include "engine/calibrate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "base/rng.h"
#include "io/temp_folder.h"
#include "methods/number_rows.h"
#include "support/induction_model.h"
#include "support/tiny_engine.h"

namespace cachette {
namespace {

using ::testing::HasSubstr;
using Options = std::map<std::string, std::string>;

const Options kSmall = {{"budget", "32"}, {"protect.sinks", "16"}, {"protect.recent_window", "16"}};

std::unique_ptr<Engine> TinyEngine() { return test::TinyEngine(0, 2); }

std::vector<CalibrationText> RandomTexts(int num_texts, int num_prompt, int num_continued) {
  Rng rng(5);
  std::vector<CalibrationText> texts(static_cast<size_t>(num_texts));
  for (CalibrationText& text : texts) {
    for (int i = 0; i < num_prompt; ++i) text.prompt.push_back(static_cast<int32_t>(rng.Below(256)));
    for (int i = 0; i < num_continued; ++i) text.continuation.push_back(static_cast<int32_t>(rng.Below(256)));
  }
  return texts;
}

// Random tokens give every layer a spread of cosines, so that each rate can be had to within a few steps.
TEST(Calibrate, ThresholdsGiveTheWantedRate) {
  const auto engine = TinyEngine();
  const std::vector<CalibrationText> texts = RandomTexts(2, 200, 60);
  const TempFolder folder;
  const std::vector<std::string> notes = {"a note"};
  for (const char* trigger : {"prev", "last"}) {
    for (const double rate : {0.1, 0.25, 0.7}) {
      const std::string path = folder / trigger;
      const auto layers =
          Calibrate(*engine, "louis", kSmall, texts, {.trigger = trigger, .rate = rate, .rounds = 1}, path, notes);
      ASSERT_TRUE(layers.ok()) << layers.failure().message;
      EXPECT_FALSE(std::filesystem::exists(path + ".part"));
      const auto rows = ReadNumberRows("threshold file", path, -1.0, 1.0);
      ASSERT_TRUE(rows.ok()) << rows.failure().message;
      ASSERT_EQ(layers->size(), 2u);
      ASSERT_EQ(rows->size(), 2u);
      for (size_t i = 0; i < 2; ++i) {
        const LayerThreshold& layer = (*layers)[i];
        EXPECT_TRUE(layer.retrieves);
        EXPECT_NEAR(layer.expected_rate, rate, 0.05) << trigger;
        EXPECT_NEAR((*rows)[i].front(), layer.tau, 5e-7);
      }
      // Layer 0's queries do not depend on what was attended: what was simulated is what happens.
      EXPECT_NEAR(layers->front().achieved_rate, layers->front().expected_rate, 1e-9) << trigger << " " << rate;
    }
  }
}

TEST(Calibrate, LayersThatKeepEverythingHaveNoRate) {
  const auto engine = TinyEngine();
  const TempFolder folder;
  Options options = kSmall;
  options["working_set.dense_layers"] = "1";
  const auto layers =
      Calibrate(*engine, "louis", options, RandomTexts(1, 200, 30), {.trigger = "last", .rounds = 1}, folder / "x", {});
  ASSERT_TRUE(layers.ok()) << layers.failure().message;
  EXPECT_FALSE((*layers)[0].retrieves);
  // The layer before it attends to everything, so the simulation is exact here too.
  EXPECT_TRUE((*layers)[1].retrieves);
  EXPECT_NEAR((*layers)[1].achieved_rate, (*layers)[1].expected_rate, 1e-9);
}

TEST(Calibrate, FurtherRoundsAreNotWorse) {
  const auto engine = TinyEngine();
  const TempFolder folder;
  const std::vector<CalibrationText> texts = RandomTexts(1, 200, 60);
  const auto gap = [&](int64_t rounds) {
    const auto layers = Calibrate(*engine, "louis", kSmall, texts, {.rate = 0.3, .rounds = rounds}, folder / "x", {});
    EXPECT_TRUE(layers.ok());
    double sum = 0;
    for (const LayerThreshold& layer : *layers) sum += std::abs(layer.achieved_rate - 0.3);
    return sum;
  };
  EXPECT_LE(gap(3), gap(1));
}

TEST(Calibrate, RefusesWhatHasNoThreshold) {
  const auto engine = TinyEngine();
  const std::vector<CalibrationText> texts = RandomTexts(1, 40, 4);
  const TempFolder folder;
  const auto message = [&](const char* recipe, const CalibrateOptions& options) {
    const auto layers = Calibrate(*engine, recipe, {}, texts, options, folder / "x", {});
    EXPECT_FALSE(layers.ok());
    return layers.ok() ? "" : layers.failure().message;
  };
  EXPECT_THAT(message("louis", {.trigger = "coverage"}), HasSubstr("trigger 'coverage' has no thresholds"));
  EXPECT_THAT(message("louis", {.rate = 0.0}), HasSubstr("rate 0 is outside (0, 1]"));
  EXPECT_THAT(message("louis", {.rate = 1.5}), HasSubstr("rate 1.5"));
  EXPECT_THAT(message("louis", {.rounds = 0}), HasSubstr("rounds 0"));
  EXPECT_THAT(message("louis", {.prefill_chunk = 0}), HasSubstr("prefill_chunk 0"));
  EXPECT_THAT(message("full", {}), HasSubstr("recipe full retrieves nothing"));
  EXPECT_THAT(message("louis", {}), HasSubstr("no text is so long"));
  EXPECT_FALSE(std::filesystem::exists(folder / "x"));
}

TEST(Calibrate, CancelledIsEmptyAndLeavesNoFile) {
  const auto engine = TinyEngine();
  const TempFolder folder;
  const std::atomic<bool> cancel = true;
  const auto layers = Calibrate(*engine, "louis", kSmall, RandomTexts(1, 100, 4), {}, folder / "x", {},
                                {.on_text = {}, .cancel = &cancel});
  ASSERT_TRUE(layers.ok());
  EXPECT_TRUE(layers->empty());
  EXPECT_FALSE(std::filesystem::exists(folder / "x"));
}

TEST(Calibrate, ThresholdsLieBesideTheModelOfTheirAdapters) {
  EXPECT_EQ(ThresholdFileOf("a/m.gguf", {}, "prev"), "a/m.gguf.prev-taus");
  EXPECT_EQ(ThresholdFileOf("a/folder//", {}, "last"), "a/folder.last-taus");
  EXPECT_EQ(ThresholdFileOf("m.gguf", std::vector<std::string>{"x/r.lora.safetensors", "s.bin"}, "prev"),
            "m.gguf.r.lora.s.prev-taus");
  EXPECT_EQ(ThresholdFileOf("synthetic:tiny", {}, "prev"), "");
}

// Found beside the model, unless a threshold is given.
TEST(Calibrate, ARecipeTakesWhatLiesBesideTheModel) {
  const TempFolder folder;
  EngineOptions engine_options;
  engine_options.model = test::WriteInductionModel(folder / "model");
  engine_options.threads = 1;
  const auto loaded = Engine::Load(engine_options);
  ASSERT_TRUE(loaded.ok()) << loaded.failure().message;
  Engine& engine = **loaded;
  const auto taus_of = [&](const Options& options, const std::string& name) -> std::string {
    const auto recipe = engine.MakeRecipe("louis", options);
    EXPECT_TRUE(recipe.ok()) << (recipe.ok() ? "" : recipe.failure().message);
    if (!recipe.ok()) return "";
    for (const OptionInfo& option : (*recipe)->Options())
      if (option.name == name) return std::get<std::string>(option.value);
    return "none";
  };
  EXPECT_EQ(taus_of({}, "trigger.prev_taus"), "");
  const std::string beside = folder.Write("model.prev-taus", "# mine\n0.5\n0.25\n");
  EXPECT_EQ(taus_of({}, "trigger.prev_taus"), beside);
  EXPECT_EQ(taus_of({}, "trigger.last_taus"), "");
  EXPECT_EQ(taus_of({{"trigger.kind", "last"}}, "trigger.prev_taus"), "");
  EXPECT_EQ(taus_of({{"prev-tau", "0.5"}}, "trigger.prev_taus"), "");
  const std::string other = folder.Write("other", "0.1\n0.2\n");
  EXPECT_EQ(taus_of({{"trigger.prev_taus", other}}, "trigger.prev_taus"), other);
  EXPECT_TRUE(engine.MakeRecipe("full", {}).ok());
  folder.Write("model.prev-taus", "0.5\n");
  const auto wrong = engine.MakeRecipe("louis", {});
  ASSERT_FALSE(wrong.ok());
  EXPECT_THAT(wrong.failure().message, HasSubstr("model.prev-taus has 1 lines"));
}

}  // namespace
}  // namespace cachette
