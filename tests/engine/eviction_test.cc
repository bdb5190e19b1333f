// Eviction during prefill on the analytic model: the answer's entry is kept by whoever sees the question in time.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "engine/engine.h"
#include "support/induction_model.h"

namespace cachette {
namespace {

using test::InductionPrompt;
using test::MakeInductionPrompt;
using ::testing::HasSubstr;
using Options = std::map<std::string, std::string>;

class Eviction : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = test::WriteInductionModel(testing::TempDir() + "/cachette_eviction_" + std::to_string(getpid()));
    EngineOptions options;
    options.model = folder_;
    options.threads = 2;
    auto engine = Engine::Load(options);
    ASSERT_TRUE(engine.ok()) << engine.failure().message;
    engine_ = std::move(*engine);
  }
  static void TearDownTestSuite() {
    engine_.reset();
    std::filesystem::remove_all(folder_);
  }

  static std::unique_ptr<Session> NewSession(const std::string& recipe, const Options& options) {
    const auto made = engine_->MakeRecipe(recipe, options);
    EXPECT_TRUE(made.ok()) << (made.ok() ? "" : made.failure().message);
    return engine_->NewSession(*made);
  }

  // The token after the prompt, prefilled in chunks of 64.
  static int32_t Answer(const std::string& recipe, const Options& options, const InductionPrompt& prompt) {
    const auto session = NewSession(recipe, options);
    GenerateOptions one_token;
    one_token.max_new_tokens = 1;
    one_token.prefill_chunk = 64;
    one_token.ignore_eos = true;
    const auto result = engine_->Generate(*session, prompt.tokens, one_token);
    EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.failure().message);
    const SequenceCache* const caches[] = {&session->cache()};
    EXPECT_EQ(CheckInvariants(engine_->kv_tier(), caches), std::vector<std::string>());
    return result.ok() && !result->tokens.empty() ? result->tokens[0] : -1;
  }

  // Pairs in the first chunk, the question in the fourth.
  static std::vector<InductionPrompt> Prompts() {
    return {MakeInductionPrompt(12, 5, 200, 7), MakeInductionPrompt(20, 0, 190, 8),
            MakeInductionPrompt(20, 19, 170, 9)};
  }

  static std::string folder_;
  static std::unique_ptr<Engine> engine_;
};
std::string Eviction::folder_;
std::unique_ptr<Engine> Eviction::engine_;

const std::vector<std::pair<const char*, Options>> kAttentionScored = {
    {"snapkv", {{"scorer.window", "2"}}},
    {"pyramidkv", {{"scorer.window", "2"}, {"beta", "2"}, {"pool", "none"}}},
    {"adakv", {{"scorer.window", "2"}}},
    {"chunkkv", {{"scorer.window", "2"}, {"chunk_tokens", "2"}, {"reuse_layers", "1"}}},
    {"tova", {}}};

TEST_F(Eviction, APatchKeepsWhatTheQuestionAsksFor) {
  for (const InductionPrompt& prompt : Prompts())
    for (const auto& [recipe, parts] : kAttentionScored) {
      Options options = parts;
      options["keep_fraction"] = "0.2";
      options["trigger.prefill"] = "chunked";
      EXPECT_NE(Answer(recipe, options, prompt), prompt.answer) << recipe << " without a patch";
      options["trigger.patch"] = "2";
      EXPECT_EQ(Answer(recipe, options, prompt), prompt.answer) << recipe << " with a patch";
    }
}

TEST_F(Eviction, KeepingAllAnswersLikeTheFullCache) {
  for (const InductionPrompt& prompt : Prompts())
    for (const char* recipe : {"h2o", "tova", "snapkv", "pyramidkv", "adakv", "chunkkv", "rkv", "knorm", "random"})
      for (const char* patch : {"0", "5"})
        EXPECT_EQ(
            Answer(recipe, {{"keep_fraction", "1"}, {"trigger.prefill", "chunked"}, {"trigger.patch", patch}}, prompt),
            prompt.answer)
            << recipe;
}

// A patch leaves no trace: after each chunk the list grows by what is kept of it, and the next chunk goes on at the
// position where this one ended.
TEST_F(Eviction, PatchedChunksGrowByWhatIsKeptAndStayContiguous) {
  const InductionPrompt prompt = MakeInductionPrompt(20, 3, 160, 3);
  const auto num_tokens = static_cast<int64_t>(prompt.tokens.size());
  const auto session = NewSession(
      "snapkv",
      {{"scorer.window", "4"}, {"keep_fraction", "0.25"}, {"trigger.prefill", "chunked"}, {"trigger.patch", "4"}});
  int64_t expected = 0, last = 0;
  const auto after_chunk = [&](int64_t num_done, int64_t) {
    expected += static_cast<int64_t>(std::nearbyint(0.25 * static_cast<double>(num_done - last)));
    last = num_done;
    EXPECT_EQ(session->num_tokens(), num_done);
    for (int layer = 0; layer < test::kInductionLayers; ++layer)
      for (int head = 0; head < test::kInductionKvHeads; ++head) {
        const HeadStream& stream = session->cache().stream(layer, head);
        EXPECT_EQ(stream.num_live(), expected);
        EXPECT_LT(stream.positions().back(), num_done);
      }
  };
  GenerateCallbacks callbacks;
  callbacks.on_prefill = after_chunk;
  ASSERT_TRUE(engine_->Prefill(*session, prompt.tokens, 33, nullptr, callbacks).ok());
  EXPECT_EQ(last, num_tokens);
  // The last chunk has no patch: its own last tokens are its window.
  const auto positions = session->cache().stream(1, 0).positions();
  for (int64_t i = 1; i <= 4; ++i) EXPECT_EQ(positions[positions.size() - static_cast<size_t>(i)], num_tokens - i);
}

TEST_F(Eviction, APatchLongerThanTheChunkIsRefused) {
  const InductionPrompt prompt = MakeInductionPrompt(12, 5, 100, 7);
  const Options options = {{"trigger.prefill", "chunked"}, {"trigger.patch", "17"}};
  const auto session = NewSession("snapkv", options);
  const auto refused = engine_->Prefill(*session, prompt.tokens, 16, nullptr);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.failure().error, Error::kInvalidArgument);
  EXPECT_THAT(refused.failure().message, HasSubstr("trigger.patch 17 tokens is longer than a prefill chunk of 16"));
  EXPECT_EQ(session->num_tokens(), 0);
  EXPECT_TRUE(engine_->Prefill(*session, prompt.tokens, 17, nullptr).ok());
}

// A prompt shorter than the patch lends what it has.
TEST_F(Eviction, APatchMayBeLongerThanThePrompt) {
  const InductionPrompt prompt = MakeInductionPrompt(2, 1, 0, 7);
  const auto session = NewSession("tova", {{"trigger.prefill", "chunked"}, {"trigger.patch", "32"}});
  ASSERT_LT(prompt.tokens.size(), 32u);
  EXPECT_TRUE(engine_->Prefill(*session, prompt.tokens, 32, nullptr).ok());
  EXPECT_EQ(session->num_tokens(), static_cast<int64_t>(prompt.tokens.size()));
}

}  // namespace
}  // namespace cachette
