// Rehearsals of the next layer's choice, where they must be exact: in a model whose layers add nothing to the residual
// stream the next layer's queries are known a layer ahead, to the bit.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "engine/engine.h"
#include "support/idle_model.h"

namespace cachette {
namespace {

class Rehearsal : public ::testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::unique_ptr<Engine> Load(const std::string& family, const char* backend = "auto") {
    EngineOptions options;
    options.model = test::WriteIdleModel(folder_, family);
    options.threads = 2;
    options.backend = backend;
    auto engine = Engine::Load(options);
    CACHETTE_CHECK(engine.ok());
    return *std::move(engine);
  }
  const std::string folder_ = testing::TempDir() + "/cachette_rehearsal_" + std::to_string(getpid());
};

std::vector<int32_t> RandomTokens(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(rng.Below(test::kIdleVocab)));
  return tokens;
}

// Keeps the queries of a pass, rehearsed and real.
class QueryRecorder final : public LayerObserver {
 public:
  explicit QueryRecorder(bool wants) : wants_(wants) {}
  Result<void> BeforeAttention(Context&, SequenceCache&, const LayerQueries& queries) override {
    real[queries.layer] = Copy(queries);
    return Ok();
  }
  Result<void> AfterAttention(Context&, SequenceCache&, const LayerQueries&) override { return Ok(); }
  bool WantsNextQueries(const SequenceCache&, const LayerQueries& next) const override {
    EXPECT_EQ(next.q, nullptr);
    return wants_ && next.layer != 2;
  }
  Result<void> NextQueries(Context&, SequenceCache&, const LayerQueries& next) override {
    EXPECT_TRUE(real.contains(next.layer - 1)) << "after the layer's own";
    EXPECT_FALSE(real.contains(next.layer)) << "before the next one's";
    rehearsed[next.layer] = Copy(next);
    windows[next.layer] = next.attention_window;
    return Ok();
  }
  std::map<int, std::vector<float>> real, rehearsed;  // by layer
  std::map<int, int32_t> windows;

 private:
  static std::vector<float> Copy(const LayerQueries& queries) {
    return {queries.q, queries.q + queries.num_rows * queries.q_stride};
  }
  bool wants_;
};

TEST_F(Rehearsal, OfAnIdleLayerTheQueriesAreKnownToTheBit) {
  for (const char* family : {"llama", "qwen2", "qwen3", "gemma3_text"})
    for (const char* backend : {"ref", "auto"}) {
      SCOPED_TRACE(fmt::format("{} {}", family, backend));
      const auto engine = Load(family, backend);
      Tier tier(TierKind::kHost);
      std::vector<SequenceCache> caches;
      std::vector<QueryRecorder> recorders;
      for (const bool wants : {true, false, true}) {
        caches.emplace_back(tier, CacheShape{.num_layers = test::kIdleLayers,
                                             .num_kv_heads = test::kIdleKvHeads,
                                             .format = engine->kv_format()});
        recorders.emplace_back(wants);
      }
      const std::vector<int32_t> tokens = RandomTokens(60, 9);
      std::vector<SequenceInput> inputs(caches.size());
      for (size_t i = 0; i < caches.size(); ++i) {
        const auto num_tokens = static_cast<int64_t>(50 + i);  // other positions for each
        inputs[i].cache = &caches[i];
        inputs[i].tokens = std::span(tokens).first(static_cast<size_t>(num_tokens));
        inputs[i].rope_context_tokens = 64;
        inputs[i].observer = &recorders[i];
        ASSERT_TRUE(caches[i].BeginPass({.num_tokens = num_tokens, .is_last_prefill_chunk = true}).ok());
        ASSERT_TRUE(engine->model()
                        .Forward(engine->context(), {Phase::kPrefill, {&inputs[i], 1}, engine->gemm_dtype(), nullptr})
                        .ok());
        caches[i].EndPass();
        EXPECT_TRUE(recorders[i].rehearsed.empty()) << "only at decode";
        recorders[i].real.clear();
        inputs[i].first_position = num_tokens;
        inputs[i].tokens = std::span(tokens).subspan(static_cast<size_t>(num_tokens), 1);
        ASSERT_TRUE(caches[i].BeginPass({.phase = Phase::kDecode, .first_token = num_tokens, .num_tokens = 1}).ok());
      }
      ASSERT_TRUE(
          engine->model().Forward(engine->context(), {Phase::kDecode, inputs, engine->gemm_dtype(), nullptr}).ok());
      for (size_t i = 0; i < caches.size(); ++i) {
        SCOPED_TRACE(i);
        EXPECT_EQ(recorders[i].rehearsed.size(), i == 1 ? 0u : 2u) << "of the layers wanted";
        for (const auto& [layer, q] : recorders[i].rehearsed) {
          EXPECT_EQ(q, recorders[i].real[layer]) << "layer " << layer;
          EXPECT_EQ(recorders[i].windows[layer], engine->config().layers[static_cast<size_t>(layer)].attention_window);
        }
      }
      EXPECT_NE(recorders[0].real[1], recorders[0].real[3]) << "layers differ";
      EXPECT_NE(recorders[0].real[1], recorders[2].real[1]) << "sequences too";
    }
}

// There what is read ahead is what is wanted, all of it, and a rehearsal's choice is the layer's own.
TEST_F(Rehearsal, OfAnIdleLayerTheChoiceIsTheLayersOwn) {
  const auto engine = Load("llama");
  for (const char* name : {"quest", "arkvale", "clusterkv", "louis", "louis+"}) {
    std::map<std::string, std::unique_ptr<Session>> sessions;
    for (const char* ahead : {"none", "fetch", "select"}) {
      SCOPED_TRACE(fmt::format("{} {}", name, ahead));
      const auto recipe = engine->MakeRecipe(name, {{"budget", "64"},
                                                    {"recent_window", "32"},
                                                    {"dense_layers", "0"},
                                                    {"ahead", ahead},
                                                    {"units.cluster_keys", "8"},
                                                    {"prev_tau", "0.9"}});
      ASSERT_TRUE(recipe.ok()) << recipe.failure().message;
      Session& session = *(sessions[ahead] = engine->NewSession(*recipe));
      session.TraceRetrieval(true);
      ASSERT_TRUE(engine->Prefill(session, RandomTokens(400, 5), 100, nullptr).ok());
      Session* const one[] = {&session};
      std::vector<float> logits(test::kIdleVocab);
      for (const int32_t token : RandomTokens(70, 6))
        ASSERT_TRUE(engine->DecodeStep(one, {&token, 1}, logits.data()).ok());
      const RetrievalStats& stats = session.retrieval()->stats();
      const RetrievalStats& plain = sessions["none"]->retrieval()->stats();
      EXPECT_EQ(stats.entries_recalled, plain.entries_recalled) << "nothing in vain";
      EXPECT_EQ(stats.bytes_recalled, plain.bytes_recalled);
      EXPECT_EQ(stats.entries_first_filled, plain.entries_first_filled);
      EXPECT_EQ(stats.entries_reused, plain.entries_reused);
      EXPECT_EQ(stats.entries_ahead_used, stats.entries_ahead);
      if (&session != sessions["none"].get()) {
        EXPECT_GT(stats.entries_ahead, plain.entries_recalled / 3) << "of three layers in four, without guesses";
        EXPECT_LT(stats.entries_ahead, plain.entries_recalled) << "the first layer has no rehearsal";
      }
      const auto expected = sessions["none"]->retrieval()->trace(), trace = session.retrieval()->trace();
      ASSERT_EQ(trace.size(), expected.size());
      for (size_t i = 0; i < trace.size(); ++i) {
        ASSERT_EQ(trace[i].layer, expected[i].layer);
        ASSERT_EQ(trace[i].is_retrieval, expected[i].is_retrieval) << "line " << i;
        ASSERT_EQ(trace[i].recalled, expected[i].recalled) << "line " << i;
        ASSERT_EQ(trace[i].coverage, expected[i].coverage) << "line " << i;
        ASSERT_EQ(trace[i].cosine_last, expected[i].cosine_last) << "line " << i;
      }
    }
  }
}

}  // namespace
}  // namespace cachette
