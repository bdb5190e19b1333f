// Recipes that retrieve, in the engine: on the analytic model evicting must lose what retrieving must find; with a
// budget for everything they are the full cache; in little fast memory they go on for as long as the output does.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "engine/engine.h"
#include "engine/fast_need.h"
#include "support/idle_model.h"
#include "support/induction_model.h"

namespace cachette {
namespace {

using ::testing::HasSubstr;
using Options = std::map<std::string, std::string>;

struct Variant {
  const char* recipe;
  Options options;
};

Options With(Options options, const Options& more) {
  for (const auto& [name, value] : more) options[name] = value;
  return options;
}

// The published recipes and crosses of them. Every layer retrieves, from a short context too.
std::vector<Variant> Variants() {
  // Three of the analytic model's four query heads are idle and never turn: thresholds are high. Its keys are unit
  // vectors, of which a mean key shows 1 / size: coverage is flat, and a pool beyond the budget would hide what lacks.
  const Options small = {
      {"recent_window", "32"}, {"dense_layers", "0"},   {"budget", "64"},           {"prev_tau", "0.95"},
      {"last_tau", "0.95"},    {"least_coverage", "1"}, {"units.cluster_cap", "2"}, {"output_units.cluster_cap", "2"}};
  return {
      {"quest", small},
      {"arkvale", small},
      {"clusterkv",
       With(small,
            {{"units.cluster_keys", "8"}, {"output_units.cluster_keys", "8"}, {"output_units.close_every", "48"}})},
      {"louis", With(small, {{"units.cluster_keys", "8"}})},
      {"louis+", With(small, {{"units.cluster_keys", "4"}, {"pool", "1"}, {"until", "1"}})},
      {"louis", With(small, {{"units.kind", "pages"}, {"trigger.kind", "last"}})},
      {"quest", With(small, {{"output_units.kind", "segments"}, {"output_units.segment_entries", "33"}})},
      {"clusterkv", With(small, {{"units.cluster_keys", "8"},
                                 {"trigger.kind", "prev"},
                                 {"output_units.kind", "pages"},
                                 {"next_keys", "2"}})},
      {"louis+", With(small, {{"units.kind", "pages"},
                              {"attend", "all"},
                              {"trigger.kind", "every"},
                              {"output_units.kind", "segments"},
                              {"pool", "1"},
                              {"until", "1"}})},
      {"quest", With(small, {{"ahead", "fetch"}})},
      {"arkvale", With(small, {{"ahead", "select"}})},
      {"louis", With(small, {{"units.cluster_keys", "8"}, {"ahead", "select"}})},
      {"louis+", With(small, {{"units.cluster_keys", "4"}, {"pool", "1"}, {"until", "1"}, {"ahead", "fetch"}})},
  };
}

std::string Describe(const Variant& v) {
  std::string text = v.recipe;
  for (const auto& [name, value] : v.options) text += fmt::format(" {}={}", name, value);
  return text;
}

std::unique_ptr<Engine> Load(const std::string& model, const std::function<void(EngineOptions&)>& change = {}) {
  EngineOptions options;
  options.model = model;
  options.threads = 2;
  if (change) change(options);
  auto engine = Engine::Load(options);
  CACHETTE_CHECK(engine.ok());
  return *std::move(engine);
}

std::unique_ptr<Session> NewSession(Engine& engine, const Variant& v) {
  auto made = engine.MakeRecipe(v.recipe, v.options);
  EXPECT_TRUE(made.ok()) << Describe(v) << ": " << (made.ok() ? "" : made.failure().message);
  return engine.NewSession(*made);
}

GenerateOptions NewTokens(int64_t count, int64_t chunk = 64) {
  GenerateOptions options;
  options.max_new_tokens = count;
  options.prefill_chunk = chunk;
  options.ignore_eos = true;
  return options;
}

std::vector<int32_t> RandomTokens(int64_t count, int32_t vocab, uint64_t seed) {
  Rng rng(seed);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(rng.Below(static_cast<uint64_t>(vocab))));
  return tokens;
}

std::vector<int32_t> Tokens(Engine& engine, Session& session, const std::vector<int32_t>& prompt,
                            const GenerateOptions& options, const Session* beside = nullptr) {
  const auto result = engine.Generate(session, prompt, options);
  EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.failure().message);
  std::vector<const SequenceCache*> caches = {&session.cache()};
  if (beside != nullptr) caches.push_back(&beside->cache());
  EXPECT_THAT(CheckInvariants(engine.kv_tier(), caches), ::testing::IsEmpty());
  return result.ok() ? result->tokens : std::vector<int32_t>();
}

// ---- The analytic model ----

class RetrievalInduction : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = test::WriteInductionModel(testing::TempDir() + "/cachette_retrieval_" + std::to_string(getpid()));
    engine_ = Load(folder_);
  }
  static void TearDownTestSuite() {
    engine_.reset();
    std::filesystem::remove_all(folder_);
  }

  // Pairs (k, k + 20) for k = 1..20 in the order of shuffled keys, 25 tokens apart among filler.
  static std::vector<int32_t> Context(std::vector<int32_t>& keys) {
    Rng rng(11);
    keys.clear();
    for (int32_t k = 1; k <= 20; ++k) keys.push_back(k);
    for (size_t i = keys.size(); i > 1; --i) std::swap(keys[i - 1], keys[rng.Below(i)]);
    std::vector<int32_t> tokens = {test::kInductionBos};
    for (const int32_t key : keys) {
      for (int i = 0; i < 23; ++i) tokens.push_back(static_cast<int32_t>(41 + rng.Below(23)));
      tokens.push_back(key);
      tokens.push_back(key + 20);
    }
    for (int i = 0; i < 9; ++i) tokens.push_back(static_cast<int32_t>(41 + rng.Below(23)));
    return tokens;
  }

  // What follows key at a decode step.
  static int32_t Ask(Session& session, int32_t key) {
    std::vector<float> logits(test::kInductionVocab);
    Session* const sessions[] = {&session};
    const auto step = engine_->DecodeStep(sessions, {&key, 1}, logits.data());
    EXPECT_TRUE(step.ok()) << (step.ok() ? "" : step.failure().message);
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }

  static std::string folder_;
  static std::unique_ptr<Engine> engine_;
};
std::string RetrievalInduction::folder_;
std::unique_ptr<Engine> RetrievalInduction::engine_;

TEST_F(RetrievalInduction, FindsTheAnswerAnywhereWhereEvictingLosesIt) {
  std::vector<int32_t> keys;
  const std::vector<int32_t> context = Context(keys);
  for (const Variant& v : Variants()) {
    SCOPED_TRACE(Describe(v));
    const auto session = NewSession(*engine_, v);
    ASSERT_TRUE(engine_->Prefill(*session, context, 48, nullptr).ok());
    for (size_t i = 0; i < keys.size(); i += 3) {
      const int32_t key = keys[i];
      const auto fork = engine_->Fork(*session);
      ASSERT_TRUE(fork.ok());
      EXPECT_EQ(Ask(**fork, key), key + 20)
          << "position " << std::find(context.begin(), context.end(), key) - context.begin();
    }
  }
  // As many entries as the others have in the fast tier: sinks, window and budget.
  const auto evicting = NewSession(*engine_, {"streaming", {{"sinks", "16"}, {"recent_window", "96"}}});
  ASSERT_TRUE(engine_->Prefill(*evicting, context, 48, nullptr).ok());
  int num_found = 0;
  for (const int32_t key : keys) num_found += Ask(**engine_->Fork(*evicting), key) == key + 20 ? 1 : 0;
  EXPECT_LE(num_found, 4);
}

// One question after the other: triggers have to notice.
TEST_F(RetrievalInduction, EveryNewQuestionIsAnsweredInOneSession) {
  std::vector<int32_t> keys;
  const std::vector<int32_t> context = Context(keys);
  for (const Variant& v : Variants()) {
    SCOPED_TRACE(Describe(v));
    const auto session = NewSession(*engine_, v);
    ASSERT_TRUE(engine_->Prefill(*session, context, 100, nullptr).ok());
    for (const int32_t key : keys) EXPECT_EQ(Ask(*session, key), key + 20);
  }
}

// What was generated leaves the recent window and is found again as a page, a segment or a cluster.
TEST_F(RetrievalInduction, FindsItsOwnOutput) {
  for (const Variant& v : Variants()) {
    SCOPED_TRACE(Describe(v));
    const auto session = NewSession(*engine_, v);
    const std::vector<int32_t> prompt(60, 50);
    ASSERT_TRUE(engine_->Prefill(*session, prompt, 16, nullptr).ok());
    Ask(*session, 7);
    Ask(*session, 33);
    Rng rng(5);
    for (int i = 0; i < 200; ++i) Ask(*session, static_cast<int32_t>(51 + rng.Below(10)));
    EXPECT_LT(session->cache().stream(1, 0).num_live(), 160);
    EXPECT_EQ(Ask(*session, 7), 33);
  }
}

TEST_F(RetrievalInduction, ASecondPromptSeesTheFirstAndItsOutput) {
  std::vector<int32_t> keys;
  const std::vector<int32_t> context = Context(keys);
  for (const Variant& v : Variants()) {
    SCOPED_TRACE(Describe(v));
    const auto session = NewSession(*engine_, v);
    ASSERT_TRUE(engine_->Prefill(*session, context, 64, nullptr).ok());
    Ask(*session, keys[3]);
    for (int i = 0; i < 90; ++i) Ask(*session, 60);
    std::vector<int32_t> second(70, 61);
    second.push_back(keys[5]);
    const auto result = engine_->Generate(*session, second, NewTokens(1, 33));
    ASSERT_TRUE(result.ok());
    EXPECT_EQ(result->tokens, std::vector<int32_t>{keys[5] + 20});
    for (const size_t i : {0u, 7u, 12u, 19u}) EXPECT_EQ(Ask(*session, keys[i]), keys[i] + 20);
    const SequenceCache* const caches[] = {&session->cache()};
    EXPECT_THAT(CheckInvariants(engine_->kv_tier(), caches), ::testing::IsEmpty());
  }
}

// ---- Random weights ----

TEST(Retrieval, ABudgetForEverythingGivesTheTokensOfTheFullCache) {
  const auto engine = Load("synthetic:tiny", [](EngineOptions& o) { o.kv_dtype = "f32"; });
  const std::vector<int32_t> first = RandomTokens(173, 512, 1), second = RandomTokens(61, 512, 2);
  const auto full = NewSession(*engine, {"full", {}});
  const std::vector<int32_t> expected = Tokens(*engine, *full, first, NewTokens(90));
  const std::vector<int32_t> expected_again = Tokens(*engine, *full, second, NewTokens(50));
  for (Variant v : Variants()) {
    SCOPED_TRACE(Describe(v));
    v.options["budget"] = "1000";
    const auto session = NewSession(*engine, v);
    EXPECT_EQ(Tokens(*engine, *session, first, NewTokens(90), full.get()), expected);
    EXPECT_EQ(Tokens(*engine, *session, second, NewTokens(50), full.get()), expected_again);
    EXPECT_GT(session->cache().units(1, 1).num_units(), 2);
  }
}

// Pages come back in their blocks and in their order: not a bit differs.
TEST(Retrieval, PagesThatAllFitGiveTheLogitsOfTheFullCache) {
  for (const char* backend : {"ref", "auto"}) {
    const auto engine = Load("synthetic:tiny", [&](EngineOptions& o) {
      o.backend = backend;
      o.kv_dtype = "f32";
    });
    for (const Variant& v :
         {Variant{"quest", {{"budget", "1000"}, {"recent_window", "37"}, {"dense_layers", "0"}}},
          Variant{"arkvale", {{"budget", "2000"}, {"recent_window", "16"}, {"dense_layers", "1"}}},
          Variant{"louis+", {{"units.kind", "pages"}, {"budget", "1000"}, {"recent_window", "0"}}}}) {
      SCOPED_TRACE(Describe(v) + " on " + backend);
      const auto full = NewSession(*engine, {"full", {}});
      const auto session = NewSession(*engine, v);
      const std::vector<int32_t> tokens = RandomTokens(300, 512, 3);
      const std::span<const int32_t> prompt = std::span(tokens).first(150);
      std::vector<float> expected(512), logits(512);
      ASSERT_TRUE(engine->Prefill(*full, prompt, 29, expected.data()).ok());
      ASSERT_TRUE(engine->Prefill(*session, prompt, 29, logits.data()).ok());
      EXPECT_EQ(logits, expected);
      for (size_t i = 150; i < tokens.size(); ++i) {
        Session* const one[] = {full.get()};
        Session* const other[] = {session.get()};
        ASSERT_TRUE(engine->DecodeStep(one, {&tokens[i], 1}, expected.data()).ok());
        ASSERT_TRUE(engine->DecodeStep(other, {&tokens[i], 1}, logits.data()).ok());
        ASSERT_EQ(logits, expected) << "token " << i;
      }
      EXPECT_GT(session->cache().units(1, 0).num_units(), 7);
    }
  }
}

// With fetch a rehearsal only moves reads: the same logits to the bit, the same retrievals, and every copy more than
// without is one that was read ahead in vain.
TEST(Retrieval, ReadingAheadChangesNothingButWhenIsRead) {
  int64_t num_ahead = 0, num_used = 0;
  for (const std::string slow : {"ram", "disk"}) {
    const auto engine = Load("synthetic:tiny,layers=4", [&](EngineOptions& o) {
      o.slow_tier = slow == "ram" ? slow : "disk:" + testing::TempDir();
    });
    for (Variant v : Variants()) {
      if (slow == "disk" && v.recipe != std::string("quest") && v.recipe != std::string("louis+")) continue;
      SCOPED_TRACE(Describe(v) + " " + slow);
      const std::vector<int32_t> tokens = RandomTokens(330, 512, 40);
      std::vector<std::vector<float>> logits[2];
      RetrievalStats stats[2];
      for (const char* ahead : {"none", "fetch"}) {
        const int which = ahead == std::string("fetch") ? 1 : 0;
        v.options["ahead"] = ahead;
        const auto session = NewSession(*engine, v);
        ASSERT_TRUE(engine->Prefill(*session, std::span(tokens).first(250), 64, nullptr).ok());
        Session* const one[] = {session.get()};
        for (size_t i = 250; i < tokens.size(); ++i) {
          std::vector<float>& of_step = logits[which].emplace_back(512);
          ASSERT_TRUE(engine->DecodeStep(one, {&tokens[i], 1}, of_step.data()).ok());
        }
        const SequenceCache* const caches[] = {&session->cache()};
        EXPECT_THAT(CheckInvariants(engine->kv_tier(), caches), ::testing::IsEmpty());
        stats[which] = session->retrieval()->stats();
      }
      EXPECT_EQ(logits[0], logits[1]);
      EXPECT_EQ(stats[0].num_retrievals, stats[1].num_retrievals);
      EXPECT_EQ(stats[0].units_recalled, stats[1].units_recalled);
      EXPECT_EQ(stats[0].entries_selected, stats[1].entries_selected);
      EXPECT_EQ(stats[0].entries_reused, stats[1].entries_reused);
      EXPECT_EQ(stats[0].entries_ahead, 0);
      EXPECT_EQ(stats[0].entries_recalled,
                stats[1].entries_recalled - (stats[1].entries_ahead - stats[1].entries_ahead_used));
      num_ahead += stats[1].entries_ahead;
      num_used += stats[1].entries_ahead_used;
    }
  }
  EXPECT_GT(num_used, 1000);
  EXPECT_GT(num_ahead, num_used);
}

TEST(Retrieval, AloneEqualsInARaggedBatchOfDifferentRecipes) {
  const auto engine = Load("synthetic:tiny");
  std::vector<Variant> variants = Variants();
  variants.push_back({"full", {}});
  variants.push_back({"streaming", {{"budget", "64"}}});
  std::vector<std::unique_ptr<Session>> sessions;
  std::vector<BatchRequest> requests;
  for (size_t i = 0; i < variants.size(); ++i) {
    sessions.push_back(NewSession(*engine, variants[i]));
    const auto count = static_cast<int64_t>(i);
    requests.push_back({sessions.back().get(), RandomTokens(90 + 37 * count, 512, i), NewTokens(80 - 5 * count, 50)});
  }
  const auto batch = engine->GenerateBatch(requests);
  ASSERT_TRUE(batch.ok()) << batch.failure().message;
  for (size_t i = 0; i < variants.size(); ++i) {
    const auto alone = NewSession(*engine, variants[i]);
    EXPECT_EQ(engine->Generate(*alone, requests[i].prompt, requests[i].options)->tokens, (*batch)[i].tokens)
        << Describe(variants[i]);
    EXPECT_EQ(alone->cache().ledger().ByteArea(TierKind::kHost),
              sessions[i]->cache().ledger().ByteArea(TierKind::kHost))
        << Describe(variants[i]);
  }
}

TEST(Retrieval, AForkGoesItsOwnWayWithTheSameTokens) {
  const auto engine = Load("synthetic:tiny");
  for (const Variant& v : Variants()) {
    SCOPED_TRACE(Describe(v));
    if (v.options.contains("next_keys") || v.recipe == std::string("louis+"))
      continue;  // a fork starts without the guesses
    const auto session = NewSession(*engine, v);
    Tokens(*engine, *session, RandomTokens(200, 512, 4), NewTokens(40));
    const std::vector<int32_t> next = RandomTokens(30, 512, 6);
    std::vector<int32_t> of_fork, of_original;
    {
      const auto fork = engine->Fork(*session);
      ASSERT_TRUE(fork.ok());
      const SequenceCache* const both[] = {&session->cache(), &(*fork)->cache()};
      EXPECT_THAT(CheckInvariants(engine->kv_tier(), both), ::testing::IsEmpty());
      of_fork = engine->Generate(**fork, next, NewTokens(60))->tokens;
      EXPECT_THAT(CheckInvariants(engine->kv_tier(), both), ::testing::IsEmpty());
    }
    of_original = Tokens(*engine, *session, next, NewTokens(60));
    EXPECT_EQ(of_fork, of_original);
  }
  EXPECT_EQ(engine->kv_tier().owned_bytes(), 0u);
  EXPECT_EQ(engine->slow_tier()->owned_bytes(), 0u);
}

TEST(Retrieval, ADiskGivesTheTokensOfRam) {
  const auto ram = Load("synthetic:tiny");
  for (const char* options : {"", ",threads"}) {
    const auto disk =
        Load("synthetic:tiny", [&](EngineOptions& o) { o.slow_tier = "disk:" + testing::TempDir() + options; });
    for (const Variant& v : Variants()) {
      SCOPED_TRACE(Describe(v));
      std::vector<int32_t> tokens[2];
      for (Engine* engine : {ram.get(), disk.get()}) {
        const auto session = NewSession(*engine, v);
        std::vector<int32_t>& own = tokens[engine == disk.get() ? 1 : 0];
        own = Tokens(*engine, *session, RandomTokens(220, 512, 8), NewTokens(70));
        const std::vector<int32_t> more = Tokens(*engine, *session, RandomTokens(50, 512, 9), NewTokens(30));
        own.insert(own.end(), more.begin(), more.end());
      }
      EXPECT_EQ(tokens[1], tokens[0]);
      EXPECT_EQ(tokens[0].size(), 100u);
    }
    EXPECT_EQ(disk->slow_tier()->kind(), TierKind::kDisk);
    EXPECT_GT(disk->slow_tier()->traffic().bytes_read, 0);
  }
}

// A tenth of the full cache in the fast tier, whatever the length: generation goes on and the limit holds.
TEST(Retrieval, LongOutputsStayWithinATenthOfTheFullCache) {
  constexpr int64_t kPrompt = 400, kOutput = 2100;
  const int64_t full_bytes = Load("synthetic:tiny")->kv_bytes_per_token() * (kPrompt + kOutput);
  for (const char* slow : {"ram", "disk"}) {
    const auto engine = Load("synthetic:tiny", [&](EngineOptions& o) {
      o.fast_kv_bytes = full_bytes / 10;
      o.slow_tier = slow == std::string("ram") ? slow : "disk:" + testing::TempDir();
    });
    for (Variant v : Variants()) {
      // Whole blocks: what counts against the limit is blocks, not entries.
      for (const char* part : {"units", "output_units"}) {
        v.options[std::string(part) + ".cluster_keys"] = "16";
        v.options[std::string(part) + ".cluster_cap"] = "1";
      }
      // Segments of a few entries fill blocks badly too.
      if (v.recipe != std::string("quest") && v.recipe != std::string("arkvale")) v.options["trigger.kind"] = "stride";
      v.options["trigger.stride"] = "16";
      SCOPED_TRACE(Describe(v) + " " + slow);
      if (slow == std::string("disk") && v.recipe != std::string("louis+")) continue;
      const auto session = NewSession(*engine, v);
      // On disk a prompt chunk reads its layer through the fast tier: a short prompt there.
      const int64_t num_prompt = slow == std::string("ram") ? kPrompt : 100;
      ASSERT_TRUE(engine->Prefill(*session, RandomTokens(num_prompt, 512, 10), 32, nullptr).ok());
      std::vector<float> logits(512);
      int32_t token = 1;
      Session* const sessions[] = {session.get()};
      for (int64_t i = 0; i < kOutput; ++i) {
        const auto step = engine->DecodeStep(sessions, {&token, 1}, logits.data());
        ASSERT_TRUE(step.ok()) << "token " << i << ": " << step.failure().message;
        token = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
        ASSERT_LE(engine->kv_tier().owned_bytes(), engine->kv_tier().limit_bytes());
      }
      EXPECT_LE(engine->kv_tier().peak_bytes(), engine->kv_tier().limit_bytes());
      EXPECT_EQ(session->cache().ledger().total_live_entries(), 4 * (num_prompt + kOutput));
      const SequenceCache* const caches[] = {&session->cache()};
      EXPECT_THAT(CheckInvariants(engine->kv_tier(), caches), ::testing::IsEmpty());
    }
  }
}

// What the engine asks of the fast tier before a first prompt.
int64_t NeededBytes(const Engine& engine, const Recipe& recipe, int64_t num_held, int64_t num_prompt,
                    int64_t num_output, int64_t chunk, bool is_disk, int64_t padding_blocks = 0) {
  const UnitShape units = recipe.unit_shape();
  int num_dense = 0;
  for (int layer = 0; layer < engine.config().num_layers; ++layer)
    num_dense += units.KeepsAll(layer) || engine.config().layers[static_cast<size_t>(layer)].attention_window != 0;
  return ComputeFastNeed({.num_dense_layers = num_dense,
                          .num_retrieving_layers = engine.config().num_layers - num_dense,
                          .num_kv_heads = engine.config().num_kv_heads,
                          .block_bytes = static_cast<int64_t>(engine.kv_format().block_bytes()),
                          .protected_entries = recipe.parts().retrieval->protect->least_entries(),
                          .local_entries = units.local_entries,
                          .least_blocks = units.least_blocks,
                          .num_held = num_held,
                          .num_prompt = num_prompt,
                          .num_output = num_output,
                          .chunk = chunk,
                          .stages_layer = is_disk,
                          .most_padding_blocks = padding_blocks})
      .bytes();
}

// Segments of one entry: a boundary at every token. Every unit then takes sixteen times its bytes.
std::vector<Variant> WorstVariants() {
  std::vector<Variant> variants;
  const Options tight = {{"budget", "64"}, {"recent_window", "32"}, {"dense_layers", "0"}};
  const Options worst = With(tight, {{"trigger.kind", "every"}, {"output_units.kind", "segments"}});
  for (const char* recipe : {"louis", "clusterkv", "quest", "arkvale", "louis+"}) {
    variants.push_back({recipe, tight});
    variants.push_back({recipe, worst});
  }
  variants.push_back({"quest", With(worst, {{"dense_layers", "1"}})});
  variants.push_back({"louis", With(worst, {{"segment_entries", "1"}, {"recent_window", "0"}, {"sinks", "0"}})});
  variants.push_back({"louis+", With(worst, {{"pool", "50"}, {"units.cluster_keys", "3"}})});
  variants.push_back({"quest", With(tight, {{"ahead", "fetch"}})});
  variants.push_back({"clusterkv", With(worst, {{"ahead", "fetch"}})});
  variants.push_back({"louis", With(worst, {{"ahead", "select"}})});
  variants.push_back({"arkvale", With(tight, {{"ahead", "select"}})});
  return variants;
}

// A run that was let begin does not end for want of memory, and one byte less is refused before it begins.
TEST(Retrieval, TheLeastFastBytesAreEnough) {
  constexpr int64_t kPrompt = 330, kOutput = 250, kChunk = 48, kSecond = 70, kSecondOutput = 60;
  for (const char* slow : {"ram", "disk"}) {
    const bool is_disk = slow == std::string("disk");
    const auto load = [&](int64_t fast_bytes) {
      return Load("synthetic:tiny", [&](EngineOptions& o) {
        o.fast_kv_bytes = fast_bytes;
        o.slow_tier = is_disk ? "disk:" + testing::TempDir() : slow;
      });
    };
    const auto unlimited = load(0);
    int64_t num_left_out = 0;
    for (const Variant& v : WorstVariants()) {
      if (is_disk && v.recipe != std::string("louis") && v.recipe != std::string("clusterkv")) continue;
      SCOPED_TRACE(Describe(v) + " " + slow);
      const auto recipe = unlimited->MakeRecipe(v.recipe, v.options);
      ASSERT_TRUE(recipe.ok());
      const int64_t first = NeededBytes(*unlimited, **recipe, 0, kPrompt, kOutput, kChunk, is_disk);
      {
        const auto engine = load(first - 1);
        const auto session = NewSession(*engine, v);
        const auto refused = engine->Generate(*session, RandomTokens(kPrompt, 512, 21), NewTokens(kOutput, kChunk));
        ASSERT_FALSE(refused.ok());
        EXPECT_EQ(refused.failure().error, Error::kOutOfMemory);
        EXPECT_THAT(refused.failure().message, HasSubstr("needs at least"));
        EXPECT_EQ(engine->kv_tier().peak_bytes(), 0u) << "before the first pass";
      }
      // On a disk a second prompt stages the first one's units as they are; how many blocks no formula knows.
      const int64_t second =
          is_disk ? 0 : NeededBytes(*unlimited, **recipe, kPrompt + kOutput, kSecond, kSecondOutput, kChunk, is_disk);
      const auto engine = load(std::max(first, second));
      const auto session = NewSession(*engine, v);
      const auto result = engine->Generate(*session, RandomTokens(kPrompt, 512, 21), NewTokens(kOutput, kChunk));
      ASSERT_TRUE(result.ok()) << result.failure().message;
      EXPECT_EQ(result->tokens.size(), static_cast<size_t>(kOutput));
      num_left_out += session->retrieval()->stats().entries_left_out;
      const auto again = engine->Generate(*session, RandomTokens(kSecond, 512, 22), NewTokens(kSecondOutput, kChunk));
      if (is_disk && !again.ok()) {
        EXPECT_THAT(again.failure().message, HasSubstr("needs at least")) << "refused up front or not at all";
      } else {
        ASSERT_TRUE(again.ok()) << again.failure().message;
      }
      EXPECT_LE(engine->kv_tier().peak_bytes(), engine->kv_tier().limit_bytes());
      EXPECT_EQ(engine->kv_tier().promised_bytes(), 0u);
      const SequenceCache* const caches[] = {&session->cache()};
      EXPECT_THAT(CheckInvariants(engine->kv_tier(), caches), ::testing::IsEmpty());
    }
    EXPECT_GT(num_left_out, 0);
  }
}

// Layers with a window of their own keep everything, and their growth is promised beside the others'.
TEST(Retrieval, LayersWithAWindowGrowWithinTheNeed) {
  constexpr int64_t kPrompt = 150, kOutput = 300, kChunk = 32;
  const std::string folder = test::WriteIdleModel(testing::TempDir() + "/cachette_windows", "gemma3_text");
  const Options tight = {{"budget", "64"}, {"recent_window", "32"}, {"dense_layers", "0"}};
  const auto unlimited = Load(folder);
  const std::vector<int32_t> prompt = RandomTokens(kPrompt, test::kIdleVocab, 31);
  for (const char* name : {"quest", "louis", "louis+"}) {
    SCOPED_TRACE(name);
    const auto recipe = unlimited->MakeRecipe(name, tight);
    ASSERT_TRUE(recipe.ok());
    const int64_t needed = NeededBytes(*unlimited, **recipe, 0, kPrompt, kOutput, kChunk, false);
    for (const int64_t fast_bytes : {needed - 1, needed}) {
      const auto engine = Load(folder.c_str(), [&](EngineOptions& o) { o.fast_kv_bytes = fast_bytes; });
      const auto session = NewSession(*engine, {name, tight});
      const auto result = engine->Generate(*session, prompt, NewTokens(kOutput, kChunk));
      EXPECT_EQ(result.ok(), fast_bytes == needed) << (result.ok() ? "" : result.failure().message);
      if (!result.ok()) {
        EXPECT_THAT(result.failure().message, HasSubstr("needs at least"));
      }
      EXPECT_LE(engine->kv_tier().peak_bytes(), engine->kv_tier().limit_bytes());
    }
  }
  std::filesystem::remove_all(folder);
}

// With room for what is chosen nothing is left out, however many blocks it takes.
TEST(Retrieval, WithRoomThePublishedSelectionIsWhole) {
  const auto engine = Load("synthetic:tiny");
  for (const Variant& v : WorstVariants()) {
    SCOPED_TRACE(Describe(v));
    const auto session = NewSession(*engine, v);
    Tokens(*engine, *session, RandomTokens(200, 512, 23), NewTokens(120));
    EXPECT_EQ(session->retrieval()->stats().entries_left_out, 0);
  }
}

// Sequences of a batch cannot take each other's room within a pass, and together they are asked for what they need.
TEST(Retrieval, ABatchIsRefusedOrGoesThrough) {
  const Options worst = {{"budget", "64"},
                         {"recent_window", "32"},
                         {"dense_layers", "0"},
                         {"trigger.kind", "every"},
                         {"output_units.kind", "segments"}};
  const std::vector<Variant> variants = {{"louis", With(worst, {{"ahead", "fetch"}})},
                                         {"louis+", With(worst, {{"pool", "50"}})},
                                         {"clusterkv", With(worst, {{"ahead", "select"}})}};
  const auto unlimited = Load("synthetic:tiny");
  int64_t needed = 0;
  for (size_t i = 0; i < variants.size(); ++i) {
    const auto recipe = unlimited->MakeRecipe(variants[i].recipe, variants[i].options);
    needed += NeededBytes(*unlimited, **recipe, 0, 100 + 50 * static_cast<int64_t>(i), 200, 32, false);
  }
  for (const int64_t fast_bytes : {needed - 1, needed}) {
    const auto engine = Load("synthetic:tiny", [&](EngineOptions& o) { o.fast_kv_bytes = fast_bytes; });
    std::vector<std::unique_ptr<Session>> sessions;
    std::vector<BatchRequest> requests;
    for (size_t i = 0; i < variants.size(); ++i) {
      sessions.push_back(NewSession(*engine, variants[i]));
      requests.push_back(
          {sessions.back().get(), RandomTokens(100 + 50 * static_cast<int64_t>(i), 512, i), NewTokens(200, 32)});
    }
    const auto batch = engine->GenerateBatch(requests);
    EXPECT_LE(engine->kv_tier().peak_bytes(), engine->kv_tier().limit_bytes());
    EXPECT_EQ(engine->kv_tier().promised_bytes(), 0u);
    if (fast_bytes == needed) {
      ASSERT_TRUE(batch.ok()) << batch.failure().message;
    } else {
      ASSERT_FALSE(batch.ok());
      EXPECT_THAT(batch.failure().message, HasSubstr("the 3 requests of this batch"));
      EXPECT_EQ(engine->kv_tier().peak_bytes(), 0u);
    }
  }
}

// To be traced changes neither what is read nor what it costs.
TEST(Retrieval, ATraceOnlyLooksOn) {
  const auto engine = Load("synthetic:tiny");
  std::vector<Variant> variants = Variants();
  const Options idle = {{"recent_window", "32"}, {"dense_layers", "0"},      {"budget", "64"},
                        {"pool", "2"},           {"trigger.kind", "stride"}, {"stride", "5"}};
  variants.push_back({"quest", With(idle, {{"attend", "all"}})});
  variants.push_back({"louis", With(idle, {{"attend", "all"}, {"next_keys", "2"}})});
  variants.push_back({"quest", With(idle, {{"attend", "selection"}})});
  variants.push_back({"quest", With(idle, {{"attend", "best"}, {"ahead", "fetch"}})});
  variants.push_back({"louis", With(idle, {{"trigger.kind", "last"}, {"ahead", "select"}})});
  for (const Variant& v : variants) {
    SCOPED_TRACE(Describe(v));
    std::vector<int32_t> tokens[2];
    RetrievalStats stats[2];
    for (const bool is_traced : {false, true}) {
      const auto session = NewSession(*engine, v);
      if (is_traced) session->TraceRetrieval(true);
      tokens[is_traced] = Tokens(*engine, *session, RandomTokens(250, 512, 31), NewTokens(60));
      stats[is_traced] = session->retrieval()->stats();
    }
    EXPECT_EQ(tokens[0], tokens[1]);
    EXPECT_EQ(stats[0].num_retrievals, stats[1].num_retrievals);
    EXPECT_EQ(stats[0].units_recalled, stats[1].units_recalled);
    EXPECT_EQ(stats[0].entries_recalled, stats[1].entries_recalled);
    EXPECT_EQ(stats[0].entries_ahead, stats[1].entries_ahead);
    EXPECT_EQ(stats[0].entries_first_filled, stats[1].entries_first_filled);
    EXPECT_EQ(stats[0].bytes_recalled, stats[1].bytes_recalled);
    EXPECT_EQ(stats[0].entries_selected, stats[1].entries_selected);
    EXPECT_EQ(stats[0].entries_reused, stats[1].entries_reused);
    EXPECT_EQ(stats[0].resident_peak_bytes, stats[1].resident_peak_bytes);
  }
}

// A pool larger than the fast tier is no reason to stop: what is idle goes first.
TEST(Retrieval, APoolLargerThanTheFastTierMakesRoom) {
  const auto engine = Load("synthetic:tiny", [&](EngineOptions& o) {
    o.fast_kv_bytes = Load("synthetic:tiny")->kv_bytes_per_token() * 256;
  });
  for (const char* recipe : {"louis+", "louis", "quest"}) {
    SCOPED_TRACE(recipe);
    const auto session = NewSession(*engine, {recipe,
                                              {{"recent_window", "32"},
                                               {"dense_layers", "0"},
                                               {"budget", "64"},
                                               {"pool", "50"},
                                               {"units.cluster_cap", "1"},
                                               {"trigger.stride", "16"},
                                               {"trigger.kind", recipe == std::string("louis")   ? "stride"
                                                                : recipe == std::string("quest") ? "every"
                                                                                                 : "coverage"}}});
    const auto result = engine->Generate(*session, RandomTokens(300, 512, 12), NewTokens(600, 32));
    ASSERT_TRUE(result.ok()) << result.failure().message;
    const auto again = engine->Generate(*session, RandomTokens(300, 512, 13), NewTokens(100, 32));
    ASSERT_TRUE(again.ok()) << again.failure().message;
  }
}

TEST(Retrieval, AFullSlowTierIsOneSentenceAndLeavesNothing) {
  for (const char* slow : {"ram", "disk"}) {
    const auto engine = Load("synthetic:tiny", [&](EngineOptions& o) {
      o.slow_kv_bytes = 100 << 10;
      o.slow_tier = slow == std::string("ram") ? slow : "disk:" + testing::TempDir();
    });
    for (const Variant& v : Variants()) {
      SCOPED_TRACE(Describe(v) + " " + slow);
      for (const int64_t num_prompt : {2000, 100}) {  // full while the prompt comes, or the output
        const auto session = NewSession(*engine, v);
        const auto result = engine->Generate(*session, RandomTokens(num_prompt, 512, 14), NewTokens(1500, 128));
        ASSERT_FALSE(result.ok());
        EXPECT_EQ(result.failure().error, Error::kOutOfMemory);
        EXPECT_THAT(result.failure().message, HasSubstr("slow tier"));
      }
      EXPECT_EQ(engine->kv_tier().owned_bytes(), 0u);
      EXPECT_EQ(engine->slow_tier()->owned_bytes(), 0u);
    }
  }
}

TEST(Retrieval, ASlowTierThatIsNoFolderIsOneSentence) {
  const auto engine = Load("synthetic:tiny", [](EngineOptions& o) { o.slow_tier = "disk:/no/such/folder"; });
  EXPECT_TRUE(engine->MakeRecipe("full", {}).ok()) << "it needs no slow tier";
  const auto made = engine->MakeRecipe("louis", {});
  ASSERT_FALSE(made.ok());
  EXPECT_THAT(made.failure().message, HasSubstr("/no/such/folder"));
}

}  // namespace
}  // namespace cachette
