// The harness on a small random model: what it asks, what it counts, what it refuses. Real answers: real_model_test.cc.

#include "eval/harness.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "engine/sampler.h"
#include "eval/report.h"
#include "support/tiny_engine.h"

namespace cachette {
namespace {

using test::TinyEngine;
using testing::HasSubstr;

std::shared_ptr<const Recipe> MakeRecipe(Engine& engine, const char* name = "full",
                                         const std::map<std::string, std::string>& options = {}) {
  auto recipe = engine.MakeRecipe(name, options);
  EXPECT_TRUE(recipe.ok()) << (recipe.ok() ? "" : recipe.failure().message);
  return *recipe;
}

EvalOptions Small(const char* protocol) {
  EvalOptions options;
  options.tasks = {"kv", "path"};
  options.lengths = {600, 900};
  options.samples = 2;
  options.questions = 3;
  options.protocol = protocol;
  options.prefill_chunk = 128;
  return options;
}

EvalResult MustRun(Engine& engine, const std::shared_ptr<const Recipe>& recipe, const EvalOptions& options) {
  auto result = RunEval(engine, recipe, options);
  EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.failure().message);
  return std::move(*result);
}

TEST(Harness, ForcedRepliesCountTheirItems) {
  const auto engine = TinyEngine();
  for (const char* protocol : {"in-prompt", "as-decode", "in-turn"}) {
    EvalOptions options = Small(protocol);
    options.reply = "forced";
    const EvalResult all = MustRun(*engine, MakeRecipe(*engine), options);
    options.forced_tokens = 7;
    const EvalResult cut = MustRun(*engine, MakeRecipe(*engine), options);
    ASSERT_EQ(all.records.size(), cut.records.size());
    for (size_t i = 0; i < all.records.size(); ++i) {
      const AnswerRecord& record = all.records[i];
      int64_t num_items = 1;
      for (size_t at = record.reference.find("->"); at != std::string::npos; at = record.reference.find("->", at + 1))
        ++num_items;
      EXPECT_EQ(record.num_items, num_items) << record.reference;
      // One byte is one token here: the answer, a space after a colon, the newline.
      EXPECT_GE(record.generated_tokens, static_cast<int64_t>(record.reference.size()) + 1);
      EXPECT_LE(record.generated_tokens, static_cast<int64_t>(record.reference.size()) + 2);
      EXPECT_EQ(cut.records[i].generated_tokens, std::min<int64_t>(7, record.generated_tokens));
      EXPECT_LE(cut.records[i].num_items, num_items);
      // Random weights know nothing: bytes are right now and then, whole items never.
      EXPECT_EQ(record.exact, 0.0);
      EXPECT_LT(record.prefix_share, 0.5);
    }
  }
  EvalOptions wrong = Small("as-decode");
  wrong.reply = "frozen";
  EXPECT_THAT(RunEval(*engine, MakeRecipe(*engine), wrong).failure().message, HasSubstr("frozen"));
}

TEST(Harness, AsksEveryQuestionOnceAndTheSameWayEachTime) {
  const auto engine = TinyEngine();
  for (const char* protocol : {"in-prompt", "as-decode", "in-turn"}) {
    const EvalOptions options = Small(protocol);
    const EvalResult result = MustRun(*engine, MakeRecipe(*engine), options);
    EXPECT_FALSE(result.is_cancelled);
    ASSERT_EQ(result.records.size(), 2u * 2 * 2 * 3);
    std::set<std::string> ids;
    for (const AnswerRecord& record : result.records) {
      EXPECT_TRUE(ids.insert(record.id).second) << record.id;
      EXPECT_LE(record.prompt_tokens, record.length);
      if (protocol != std::string("in-turn")) {  // where earlier questions leave room for later ones
        EXPECT_GT(record.prompt_tokens, record.length - 150);
      }
      EXPECT_GT(record.generated_tokens, 0);
      EXPECT_EQ(record.footprint, 1.0);
      EXPECT_EQ(record.peak, 1.0);
      EXPECT_EQ(record.question_seconds > 0, protocol != std::string("in-prompt"));
      if (record.task->name == std::string("kv")) {
        EXPECT_GT(record.depth, 0.0);
        EXPECT_LT(record.depth, 1.0);
      }
    }
    EXPECT_EQ(ids.count("kv-600-0-0"), 1u);
    EXPECT_EQ(ids.count("path-900-1-2"), 1u);
    const EvalResult again = MustRun(*engine, MakeRecipe(*engine), options);
    for (size_t i = 0; i < result.records.size(); ++i) EXPECT_EQ(result.records[i].reply, again.records[i].reply);
  }
  EXPECT_EQ(engine->kv_tier().owned_bytes(), 0u);
}

// A forked session answers as one that was never forked: context, question and reply by hand, in a session of its own.
TEST(Harness, AsDecodeQuestionsDoNotHearOfEachOther) {
  const auto engine = TinyEngine();
  for (const char* name : {"full", "streaming"}) {
    std::map<std::string, std::string> recipe_options;
    if (name == std::string("streaming")) recipe_options["budget"] = "64";
    const auto recipe = MakeRecipe(*engine, name, recipe_options);
    EvalOptions options = Small("as-decode");
    options.tasks = {"kv"};
    options.lengths = {700};
    options.samples = 1;
    const EvalResult result = MustRun(*engine, recipe, options);
    const Tokenizer& tokenizer = **engine->tokenizer();
    const auto sample = MakeSample(**FindTask("kv"), tokenizer, {700, 32768, 3, options.seed, 0});
    ASSERT_TRUE(sample.ok());
    ASSERT_EQ(result.records.size(), 3u);
    for (size_t i = 0; i < 3; ++i) {
      const auto session = engine->NewSession(recipe);
      Session* const sessions[] = {session.get()};
      ASSERT_TRUE(engine->Prefill(*session, sample->context, options.prefill_chunk, nullptr).ok());
      std::vector<float> logits(static_cast<size_t>(engine->config().vocab_size));
      for (const int32_t token : sample->questions[i])
        ASSERT_TRUE(engine->DecodeStep(sessions, {&token, 1}, logits.data()).ok());
      std::string reply;
      Sampler sampler({});
      for (int64_t t = 0; t < result.records[i].generated_tokens; ++t) {
        const int32_t token = sampler.Sample(logits);
        reply += tokenizer.TokenBytes(token);
        ASSERT_TRUE(engine->DecodeStep(sessions, {&token, 1}, logits.data()).ok());
      }
      EXPECT_EQ(result.records[i].reply, reply) << name << " " << i;
      EXPECT_EQ(result.records[i].footprint, session->cache().ledger().Footprint());
      EXPECT_EQ(result.records[i].peak, session->cache().ledger().Peak());
      if (name == std::string("streaming")) {
        EXPECT_LT(result.records[i].footprint, 0.6);
      }
    }
  }
}

// A conversation by hand: context, then question, reply and the end of its line, one after another in one session.
TEST(Harness, InTurnIsOneConversation) {
  const auto engine = TinyEngine();
  const Tokenizer& tokenizer = **engine->tokenizer();
  for (const char* reply : {"free", "forced"}) {
    EvalOptions options = Small("in-turn");
    options.tasks = {"kv"};
    options.lengths = {700};
    options.samples = 1;
    options.reply = reply;
    options.forced_tokens = 3;  // shorter than the answers, so that lines are left open
    const auto recipe = MakeRecipe(*engine, "streaming", {{"budget", "64"}});
    const EvalResult result = MustRun(*engine, recipe, options);
    const auto sample = MakeSample(**FindTask("kv"), tokenizer, {700, 32768, 3, options.seed, 0, true});
    ASSERT_TRUE(sample.ok());
    ASSERT_EQ(result.records.size(), 3u);
    const auto session = engine->NewSession(recipe);
    Session* const sessions[] = {session.get()};
    std::vector<float> logits(static_cast<size_t>(engine->config().vocab_size));
    const auto feed = [&](int32_t token) {
      ASSERT_TRUE(engine->DecodeStep(sessions, {&token, 1}, logits.data()).ok());
    };
    ASSERT_TRUE(engine->Prefill(*session, sample->context, options.prefill_chunk, nullptr).ok());
    Sampler sampler({});
    for (size_t i = 0; i < 3; ++i) {
      const AnswerRecord& record = result.records[i];
      for (const int32_t token : sample->questions[i]) feed(token);
      EXPECT_EQ(record.prompt_tokens, session->cache().num_tokens());
      const auto reference = EncodeReply(tokenizer, sample->text.questions[i]);
      ASSERT_TRUE(reference.ok());
      std::string said;
      bool ends_line = false;
      for (int64_t t = 0; t < record.generated_tokens; ++t) {
        const int32_t likeliest = sampler.Sample(logits);
        said += tokenizer.TokenBytes(likeliest);
        const int32_t token = reply == std::string("free") ? likeliest : (*reference)[static_cast<size_t>(t)];
        ends_line = tokenizer.TokenBytes(token) == "\n";
        feed(token);
      }
      EXPECT_EQ(record.reply, said) << reply << " " << i;
      EXPECT_EQ(record.footprint, session->cache().ledger().Footprint());
      if (!ends_line) feed('\n');
    }
    EXPECT_LE(session->cache().num_tokens(), 700 + 8);
  }
}

TEST(Harness, TokensOfAPromptDoNotDependOnTheProtocol) {
  const auto engine = TinyEngine();
  const Tokenizer& tokenizer = **engine->tokenizer();
  for (const Task& task : AllTasks()) {
    const auto sample = MakeSample(task, tokenizer, {3000, 32768, 2, 5, 0});
    ASSERT_TRUE(sample.ok()) << sample.failure().message;
    for (size_t i = 0; i < sample->questions.size(); ++i) {
      std::vector<int32_t> tokens = sample->context;
      tokens.insert(tokens.end(), sample->questions[i].begin(), sample->questions[i].end());
      if (tokenizer.bos_id() >= 0) tokens.erase(tokens.begin());
      EXPECT_EQ(tokenizer.Decode(tokens), sample->text.context + sample->text.questions[i].text) << task.name;
    }
  }
}

TEST(Harness, StopsWhenAsked) {
  const auto engine = TinyEngine();
  std::atomic<bool> cancel{false};
  EvalCallbacks callbacks;
  callbacks.cancel = &cancel;
  callbacks.on_answer = [&](const AnswerRecord&, int64_t num_done, int64_t num_total) {
    EXPECT_EQ(num_total, 24);
    cancel = num_done == 2;
  };
  for (const char* protocol : {"in-prompt", "as-decode", "in-turn"}) {
    cancel = false;
    const auto result = RunEval(*engine, MakeRecipe(*engine), Small(protocol), callbacks);
    ASSERT_TRUE(result.ok());
    EXPECT_TRUE(result->is_cancelled);
    EXPECT_EQ(result->records.size(), 2u);
  }
}

TEST(Harness, BadOptionsAreOneSentence) {
  const auto engine = TinyEngine();
  const auto refuse = [&](const std::function<void(EvalOptions&)>& change, const char* part) {
    EvalOptions options = Small("in-prompt");
    change(options);
    const auto result = RunEval(*engine, MakeRecipe(*engine), options);
    ASSERT_FALSE(result.ok()) << part;
    EXPECT_EQ(result.failure().error, Error::kInvalidArgument);
    EXPECT_THAT(result.failure().message, HasSubstr(part));
  };
  refuse([](EvalOptions& o) { o.tasks = {"kv", "pahts"}; }, "did you mean 'path'?");
  refuse([](EvalOptions& o) { o.tasks = {}; }, "--tasks");
  refuse([](EvalOptions& o) { o.lengths = {}; }, "--lengths");
  refuse([](EvalOptions& o) { o.lengths = {0}; }, "a length is 0");
  refuse([](EvalOptions& o) { o.lengths = {20}; }, "needs at least");
  refuse([](EvalOptions& o) { o.lengths = {600, 40000}; }, "40000 tokens passes the model's context of 32768");
  refuse([](EvalOptions& o) { o.samples = 0; }, "samples is 0");
  refuse([](EvalOptions& o) { o.questions = 0; }, "questions is 0");
  refuse([](EvalOptions& o) { o.prefill_chunk = 0; }, "prefill_chunk is 0");
  refuse([](EvalOptions& o) { o.protocol = "as-decoded"; }, "did you mean 'as-decode'?");
}

TEST(Harness, TooLittleMemoryForAForkIsSaid) {
  // The context of 600 tokens fits (4 streams x 38 blocks x 1 KiB), a copy of it does not.
  const auto engine = TinyEngine(200 << 10);
  const auto result = RunEval(*engine, MakeRecipe(*engine), Small("as-decode"));
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.failure().error, Error::kOutOfMemory);
  EXPECT_EQ(engine->kv_tier().owned_bytes(), 0u);
}

TEST(Report, MeansAreOverAnswersAndByLength) {
  const Task* const kv = *FindTask("kv");
  std::vector<AnswerRecord> records(3);
  for (size_t i = 0; i < records.size(); ++i) {
    records[i].task = kv;
    records[i].length = i < 2 ? 1000 : 2000;
    records[i].sample_idx = 0;
    records[i].prompt_tokens = 900 + 10 * static_cast<int64_t>(i);
    records[i].exact = i == 0 ? 0 : 1;
    records[i].footprint = 0.25 * static_cast<double>(i + 1);
  }
  const auto json = TasksJson(records);
  EXPECT_DOUBLE_EQ(json["kv"]["exact_match"], 2.0 / 3);
  EXPECT_EQ(json["kv"]["samples"], 2);
  EXPECT_EQ(json["kv"]["answers"], 3);
  EXPECT_EQ(json["kv"]["prompt_tokens_median"], 910);
  EXPECT_DOUBLE_EQ(json["kv"]["footprint"], 0.5);
  EXPECT_DOUBLE_EQ(json["kv"]["lengths"]["1000"]["exact_match"], 0.5);
  EXPECT_DOUBLE_EQ(json["kv"]["lengths"]["1000"]["footprint"], 0.375);
  EXPECT_DOUBLE_EQ(json["kv"]["lengths"]["2000"]["exact_match"], 1.0);
  EXPECT_DOUBLE_EQ(TotalsJson(records)["footprint"], 0.5);
  EXPECT_EQ(TasksJson({}), nlohmann::ordered_json::object());
}

}  // namespace
}  // namespace cachette
