// Samples as data: what a model is asked and what it would have to write for a score of 1.

#include "eval/samples.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/inspect.h"
#include "engine/load_tokenizer.h"
#include "eval/score.h"

namespace cachette {
namespace {

using testing::HasSubstr;

Tokenizer TokenizerOf(const std::string& model) {
  EngineOptions options;
  options.model = model;
  auto file = OpenModelFile(options);
  EXPECT_TRUE(file.ok()) << (file.ok() ? "" : file.failure().message);
  auto tokenizer = LoadTokenizer(*file->checkpoint);
  EXPECT_TRUE(tokenizer.ok());
  return *std::move(tokenizer);
}

EvalOptions Options(const std::vector<std::string>& tasks, const std::vector<int64_t>& lengths) {
  EvalOptions options;
  options.tasks = tasks;
  options.lengths = lengths;
  options.samples = 2;
  options.questions = 3;
  return options;
}

std::vector<std::string> AllNames() {
  std::vector<std::string> names;
  for (const Task& task : AllTasks()) names.emplace_back(task.name);
  return names;
}

// A model that writes answer_tokens scores 1, and the reply is over with the last of them, not before.
void ExpectRepliesScoreOne(const Tokenizer& tokenizer, bool joins_as_one_text) {
  int num_replies = 0;
  const auto check = [&](const NamedSample& named) -> Result<bool> {
    auto json = SampleJson(named, tokenizer);
    EXPECT_TRUE(json.ok());
    for (size_t i = 0; i < named.sample.questions.size(); ++i) {
      const auto ids = (*json)["questions"][i]["answer_tokens"].get<std::vector<int32_t>>();
      const std::string& answer = named.sample.text.questions[i].answer;
      const AnswerForm form = named.task.form;
      const std::string reply = tokenizer.Decode(ids);
      EXPECT_EQ(ScoreReply(form, reply, answer).exact, 1.0) << named.task.name << ": " << reply;
      EXPECT_EQ(IsAnswerComplete(form, reply, answer), form != AnswerForm::kContained) << named.task.name;
      const std::string shorter = tokenizer.Decode(std::span(ids).first(ids.size() - 1));
      EXPECT_FALSE(IsAnswerComplete(form, shorter, answer)) << named.task.name;
      EXPECT_LE(static_cast<int64_t>(ids.size()), named.sample.reply_limits[i]) << named.task.name;
      ++num_replies;
      if (!joins_as_one_text) continue;
      std::vector<int32_t> all = named.sample.context;
      all.insert(all.end(), named.sample.questions[i].begin(), named.sample.questions[i].end());
      all.insert(all.end(), ids.begin(), ids.end());
      auto whole = tokenizer.Encode(named.sample.text.context + named.sample.text.questions[i].text + reply,
                                    {.add_special = false, .parse_special = false});
      EXPECT_TRUE(whole.ok());
      whole->insert(whole->begin(), tokenizer.bos_id());
      EXPECT_EQ(all, *whole) << named.task.name;
    }
    return true;
  };
  const auto done = ForEachSample(tokenizer, 100'000, 1.0, Options(AllNames(), {3000}), check);
  ASSERT_TRUE(done.ok()) << done.failure().message;
  EXPECT_GE(num_replies, 2 * 10 * 3);  // tsv asks one question
}

TEST(Samples, RepliesScoreOneInBytes) { ExpectRepliesScoreOne(TokenizerOf("synthetic:tiny"), false); }

TEST(Samples, RepliesScoreOneAndContinueTheTextInTheRealTokenizer) {
  const std::string model = CACHETTE_MODELS_DIR "/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(model)) GTEST_SKIP() << "the model is not here; fetch it with make model";
  ExpectRepliesScoreOne(TokenizerOf(model), true);
}

TEST(Samples, AreThoseThatMakeSampleMakes) {
  const Tokenizer tokenizer = TokenizerOf("synthetic:tiny");
  std::vector<std::string> seen;
  const auto check = [&](const NamedSample& named) -> Result<bool> {
    auto expected = MakeSample(named.task, tokenizer, named.request);
    auto json = SampleJson(named, tokenizer);
    EXPECT_TRUE(expected.ok() && json.ok());
    EXPECT_EQ((*json)["context_tokens"].get<std::vector<int32_t>>(), expected->context);
    EXPECT_EQ((*json)["questions"].size(), expected->questions.size());
    for (size_t i = 0; i < expected->questions.size(); ++i) {
      const auto& question = (*json)["questions"][i];
      EXPECT_EQ(question["question_tokens"].get<std::vector<int32_t>>(), expected->questions[i]);
      EXPECT_EQ(question["question"], expected->text.questions[i].text);
      EXPECT_EQ(question["answer"], expected->text.questions[i].answer);
    }
    seen.push_back((*json)["task"].get<std::string>() + "-" + (*json)["length"].dump() + "-" +
                   (*json)["sample"].dump());
    return seen.size() < 7;  // false: the last one is not asked for
  };
  ASSERT_TRUE(ForEachSample(tokenizer, 100'000, 1.0, Options({"kv", "tsv"}, {1000, 2000}), check).ok());
  EXPECT_THAT(seen, testing::ElementsAre("kv-1000-0", "kv-1000-1", "kv-2000-0", "kv-2000-1", "tsv-1000-0", "tsv-1000-1",
                                         "tsv-2000-0"));
}

TEST(Samples, BadOptionsAreSaidBeforeTheFirstSample) {
  const Tokenizer tokenizer = TokenizerOf("synthetic:tiny");
  const auto never = [](const NamedSample&) -> Result<bool> {
    ADD_FAILURE();
    return true;
  };
  const auto complaint = [&](const EvalOptions& options) {
    const auto done = ForEachSample(tokenizer, 4000, 1.0, options, never);
    return done.ok() ? "" : done.failure().message;
  };
  EXPECT_THAT(complaint(Options({"kv"}, {1000, 4001})), HasSubstr("context of 4000"));
  EXPECT_THAT(complaint(Options({"kv"}, {1000, 30})), HasSubstr("needs at least"));
  EXPECT_THAT(complaint(Options({"kv", "kw"}, {1000})), HasSubstr("did you mean 'kv'?"));
}

}  // namespace
}  // namespace cachette
