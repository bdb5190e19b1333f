// The analytic model: what is kept is found, what is evicted is lost, however the prompt is cut and batched.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "engine/engine.h"
#include "support/induction_model.h"

namespace cachette {
namespace {

using test::InductionPrompt;
using test::MakeInductionPrompt;

class Induction : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = test::WriteInductionModel(testing::TempDir() + "/cachette_induction_" + std::to_string(getpid()));
  }
  static void TearDownTestSuite() { std::filesystem::remove_all(folder_); }

  std::unique_ptr<Engine> Load(const std::string& backend = "auto", const std::string& kv_dtype = "f16",
                               int64_t kv_bytes = 0) {
    EngineOptions options;
    options.model = folder_;
    options.backend = backend;
    options.kv_dtype = kv_dtype;
    options.fast_kv_bytes = kv_bytes;
    options.threads = 2;
    auto engine = Engine::Load(options);
    EXPECT_TRUE(engine.ok()) << (engine.ok() ? "" : engine.failure().message);
    return std::move(*engine);
  }

  static std::unique_ptr<Session> NewSession(Engine& engine, const std::string& recipe,
                                             const std::map<std::string, std::string>& options = {}) {
    auto made = engine.MakeRecipe(recipe, options);
    EXPECT_TRUE(made.ok()) << (made.ok() ? "" : made.failure().message);
    return engine.NewSession(*made);
  }

  static GenerateOptions OneToken(int64_t chunk) {
    GenerateOptions options;
    options.max_new_tokens = 1;
    options.prefill_chunk = chunk;
    options.ignore_eos = true;
    return options;
  }

  static int32_t Answer(Engine& engine, Session& session, const InductionPrompt& prompt, int64_t chunk = 64) {
    const auto result = engine.Generate(session, prompt.tokens, OneToken(chunk));
    EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.failure().message);
    const SequenceCache* const caches[] = {&session.cache()};
    EXPECT_EQ(CheckInvariants(engine.kv_tier(), caches), std::vector<std::string>());
    return result.ok() && !result->tokens.empty() ? result->tokens[0] : -1;
  }

  static std::string folder_;
};
std::string Induction::folder_;

TEST_F(Induction, EveryBackendDtypeAndChunkFindsTheAnswer) {
  for (const Backend& backend : AllBackends()) {
    if (!backend.is_supported) continue;
    for (const char* kv_dtype : {"f16", "f32", "bf16"}) {
      const auto engine = Load(backend.name, kv_dtype);
      for (const int num_filler : {0, 13, 200}) {
        const InductionPrompt prompt = MakeInductionPrompt(12, 5, num_filler, 7);
        for (const int64_t chunk : {1, 7, 512}) {
          if (chunk == 1 && num_filler > 13) continue;  // a pass per token; the shorter prompts have three blocks
          const auto session = NewSession(*engine, "full");
          EXPECT_EQ(Answer(*engine, *session, prompt, chunk), prompt.answer)
              << backend.name << " " << kv_dtype << " filler " << num_filler << " chunk " << chunk;
        }
      }
    }
  }
}

TEST_F(Induction, StreamingFindsWhatTheWindowHoldsAndLosesTheRest) {
  const auto engine = Load();
  for (const char* positions : {"original", "cache"}) {
    for (int asked = 0; asked < 20; ++asked) {
      const InductionPrompt prompt = MakeInductionPrompt(20, asked, 100, 3);
      // A last chunk of one: the last query sees sinks, the window and itself.
      const auto num_before = static_cast<int64_t>(prompt.tokens.size()) - 1;
      int64_t chunk = asked % 10 == 0 ? 1 : 32;
      while (num_before % chunk != 0) --chunk;
      const auto session =
          NewSession(*engine, "streaming", {{"sinks", "9"}, {"recent_window", "120"}, {"positions", positions}});
      const bool is_kept = prompt.answer_position < 9 || prompt.answer_position >= num_before - 120;
      const int32_t answer = Answer(*engine, *session, prompt, chunk);
      EXPECT_EQ(answer == prompt.answer, is_kept) << positions << " asked " << asked;
    }
  }
}

TEST_F(Induction, HeadsKeepTheAnswerOnlyInTheHeadThatNeedsIt) {
  const auto engine = Load();
  const InductionPrompt prompt = MakeInductionPrompt(20, 10, 100, 5);
  const auto answer_with = [&](const char* mask) {
    const std::string file = folder_ + "/mask.tsv";
    std::ofstream(file) << mask;
    const auto session = NewSession(*engine, "heads", {{"mask_file", file}, {"sinks", "4"}, {"recent_window", "32"}});
    const int32_t answer = Answer(*engine, *session, prompt, 16);
    for (int layer = 0; layer < test::kInductionLayers; ++layer)
      for (int head = 0; head < test::kInductionKvHeads; ++head) {
        const bool is_full = mask[4 * layer + 2 * head] == '1';
        // The generated token is written as well: sinks + window + 1, or everything.
        EXPECT_EQ(session->cache().stream(layer, head).num_live(),
                  is_full ? static_cast<int64_t>(prompt.tokens.size()) + 1 : 4 + 32 + 1);
      }
    return answer;
  };
  EXPECT_EQ(answer_with("0\t0\n1\t0\n"), prompt.answer);  // layer 1, KV head 0 looks the answer up
  EXPECT_NE(answer_with("1\t1\n0\t1\n"), prompt.answer);
}

TEST_F(Induction, AloneEqualsInABatch) {
  const auto engine = Load();
  std::vector<InductionPrompt> prompts;
  std::vector<std::unique_ptr<Session>> sessions;
  std::vector<BatchRequest> requests;
  const char* const recipes[] = {"full", "streaming", "full", "streaming"};
  for (int i = 0; i < 4; ++i) {
    prompts.push_back(MakeInductionPrompt(8 + 4 * i, 2 * i, 30 * i, static_cast<uint64_t>(i)));
    std::map<std::string, std::string> options;
    if (i % 2 == 1) options = {{"budget", "24"}};
    sessions.push_back(NewSession(*engine, recipes[i], options));
    GenerateOptions generate = OneToken(16);
    generate.max_new_tokens = 5 + 3 * i;
    requests.push_back({sessions.back().get(), prompts.back().tokens, generate});
  }
  const auto batch = engine->GenerateBatch(requests);
  ASSERT_TRUE(batch.ok()) << batch.failure().message;
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto session =
        engine->NewSession(std::shared_ptr<const Recipe>(std::shared_ptr<void>(), &sessions[i]->recipe()));
    const auto alone = engine->Generate(*session, requests[i].prompt, requests[i].options);
    ASSERT_TRUE(alone.ok()) << alone.failure().message;
    EXPECT_EQ(alone->tokens, (*batch)[i].tokens) << "request " << i;
    EXPECT_EQ(static_cast<int64_t>(alone->tokens.size()), requests[i].options.max_new_tokens);
    EXPECT_EQ(session->cache().ledger().Area(), sessions[i]->cache().ledger().Area());
  }
}

TEST_F(Induction, LedgerCoversPromptAndOutput) {
  const auto engine = Load();
  const InductionPrompt prompt = MakeInductionPrompt(10, 3, 50, 1);
  const auto session = NewSession(*engine, "full");
  GenerateOptions options = OneToken(32);
  options.max_new_tokens = 9;
  const auto result = engine->Generate(*session, prompt.tokens, options);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->tokens.size(), 9u);
  EXPECT_EQ(session->cache().ledger().num_tokens(), static_cast<int64_t>(prompt.tokens.size()) + 9);
  EXPECT_EQ(session->cache().ledger().Footprint(), 1.0);
  EXPECT_EQ(session->cache().ledger().Peak(), 1.0);
}

TEST_F(Induction, TooLittleKvMemoryIsOneSentenceAndLeavesTheTierEmpty) {
  const auto engine = Load("auto", "f16", 64 << 10);
  {
    const auto session = NewSession(*engine, "full");
    const auto result = engine->Generate(*session, MakeInductionPrompt(10, 3, 2000, 1).tokens, OneToken(128));
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.failure().error, Error::kOutOfMemory);
    EXPECT_NE(result.failure().message.find("--fast-kv-bytes"), std::string::npos) << result.failure().message;
  }
  EXPECT_EQ(engine->kv_tier().owned_bytes(), 0u);
}

TEST_F(Induction, ABatchThatDoesNotFitLeavesItsSessionsUsable) {
  // Room for one more block per stream of one session, not of two: both have just filled theirs.
  const auto block_bytes = static_cast<int64_t>(ops::KvFormat{Dtype::kF16, 128}.block_bytes());
  const int64_t streams = test::kInductionLayers * test::kInductionKvHeads;
  const auto engine = Load("auto", "f16", 3 * streams * block_bytes);
  std::unique_ptr<Session> sessions[] = {NewSession(*engine, "full"), NewSession(*engine, "full")};
  Session* const both[] = {sessions[0].get(), sessions[1].get()};
  const std::vector<int32_t> prompt(16, 1), next(2, 1);
  for (Session* session : both) ASSERT_TRUE(engine->Prefill(*session, prompt, 16, nullptr).ok());
  const auto step = engine->DecodeStep(both, next, nullptr);
  ASSERT_FALSE(step.ok());
  EXPECT_EQ(step.failure().error, Error::kOutOfMemory);
  const SequenceCache* const caches[] = {&both[0]->cache(), &both[1]->cache()};
  EXPECT_EQ(CheckInvariants(engine->kv_tier(), caches), std::vector<std::string>());
  EXPECT_EQ(both[0]->num_tokens(), 16);
  EXPECT_TRUE(engine->DecodeStep(std::span(both).first(1), std::span(next).first(1), nullptr).ok());
}

TEST_F(Induction, BadPromptsAreRefused) {
  const auto engine = Load();
  const auto session = NewSession(*engine, "full");
  EXPECT_EQ(engine->Generate(*session, {}, OneToken(8)).failure().error, Error::kInvalidArgument);
  const std::vector<int32_t> outside = {0, 64};
  EXPECT_NE(engine->Generate(*session, outside, OneToken(8)).failure().message.find("64"), std::string::npos);
  const std::vector<int32_t> long_prompt(20000, 1);
  const auto too_long = engine->Generate(*session, long_prompt, OneToken(8));
  ASSERT_FALSE(too_long.ok());
  EXPECT_NE(too_long.failure().message.find("--rope-scale"), std::string::npos) << too_long.failure().message;
}

}  // namespace
}  // namespace cachette
