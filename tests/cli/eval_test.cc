// cachette eval as a user meets it, on a small random model.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/process.h"
#include "io/temp_folder.h"

namespace cachette {
namespace {

using nlohmann::json;
using testing::HasSubstr;

std::vector<std::string> EvalArguments(const std::vector<std::string>& more) {
  std::vector<std::string> all = {"eval", "--model", "synthetic:tiny", "--threads", "1"};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

void ExpectEvalComplaint(std::vector<std::string> more, const std::string& part) {
  more.push_back("--quiet");  // without the line that names model and recipe
  ExpectComplaint(RunCachette(EvalArguments(more)), 1, part);
}

TEST(Eval, JsonHasTheSummaryAndTheRecordsFileTheAnswers) {
  const TempFolder folder;
  const std::string records = folder / "records.jsonl";
  const ProcessResult result = RunCachette(EvalArguments(
      {"--tasks", "kv,niah", "--lengths", "700,1000", "--samples", "2", "--questions", "2", "--protocol", "as-decode",
       "--seed", "3", "--recipe", "streaming", "--budget", "64", "--records", records, "--json"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  const json out = json::parse(result.out);
  EXPECT_EQ(out["protocol"], "as-decode");
  EXPECT_EQ(out["is_complete"], true);
  EXPECT_EQ(out["answers"], 16);
  for (const char* task : {"kv", "niah"}) {
    const json& family = out["tasks"][task];
    EXPECT_TRUE(family["exact_match"].is_number());
    EXPECT_EQ(family["samples"], 4);
    EXPECT_EQ(family["answers"], 8);
    EXPECT_GT(family["prompt_tokens_median"], 500);
    for (const char* length : {"700", "1000"}) {
      EXPECT_EQ(family["lengths"][length]["samples"], 2);
      EXPECT_LE(family["lengths"][length]["prompt_tokens_median"], std::stoi(length));
    }
  }
  for (const char* field : {"footprint", "peak"}) EXPECT_TRUE(out[field] > 0.0 && out[field] < 1.0) << field;
  EXPECT_GT(out["timings"]["prefill_tokens_per_s"], 0.0);
  EXPECT_EQ(out["recipe"], "streaming");
  EXPECT_EQ(out["options"]["seed"], 3);
  EXPECT_EQ(out["options"]["budget"], 64);
  EXPECT_EQ(out["options"]["tasks"], json({"kv", "niah"}));
  EXPECT_EQ(out["model"]["file"], "synthetic:tiny");
  EXPECT_TRUE(out["machine"]["cpu"].is_string());

  std::ifstream file(records);
  int num_lines = 0;
  double footprint = 0;
  for (std::string line; std::getline(file, line); ++num_lines) {
    const json record = json::parse(line);
    for (const char* field : {"id", "task", "output", "reference", "stopped_by"})
      EXPECT_TRUE(record[field].is_string());
    for (const char* field : {"length", "n", "m", "score", "footprint", "peak"}) EXPECT_TRUE(record[field].is_number());
    EXPECT_TRUE(record["timings"]["ttft_s"].is_number());
    footprint += record["footprint"].get<double>() / 16;
  }
  EXPECT_EQ(num_lines, 16);
  EXPECT_NEAR(out["footprint"], footprint, 1e-12);
}

TEST(Eval, FidelityComparesWithTheFullCache) {
  const TempFolder folder;
  std::string text;
  for (int i = 0; i < 100; ++i) text += "line " + std::to_string(i * i) + "\n";
  const std::string file = folder.Write("text.txt", text);
  const ProcessResult result =
      RunCachette(EvalArguments({"--fidelity", file, "--decode-tokens", "20", "--json", "--recipe", "full"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json out = json::parse(result.out);
  EXPECT_FALSE(out.contains("tasks"));
  EXPECT_EQ(out["fidelity"]["kl_mean"], 0.0);
  EXPECT_EQ(out["fidelity"]["top1_agreement"], 1.0);
  EXPECT_EQ(out["fidelity"]["compared_tokens"], 20);
  EXPECT_EQ(out["options"]["decode_tokens"], 20);
  const ProcessResult plain = RunCachette(EvalArguments({"--fidelity", file, "--decode-tokens", "20", "-q"}));
  EXPECT_THAT(plain.out, HasSubstr("top-1"));
  EXPECT_EQ(plain.err, "");
}

TEST(Eval, TableHasALineForEachTaskAndLength) {
  const ProcessResult result =
      RunCachette(EvalArguments({"--tasks", "kv,walk", "--lengths", "600,800", "--samples", "1"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), 1 + 4);
  EXPECT_THAT(result.err, HasSubstr("recipe full"));
}

TEST(Eval, RefusedArgumentsLeaveTheRecordsFileAlone) {
  const TempFolder folder;
  const std::string path = folder.Write("records.jsonl", "of an earlier run\n");
  ExpectEvalComplaint({"--lengths", "30", "--records", path}, "needs at least");
  std::ifstream file(path);
  EXPECT_EQ(std::string((std::istreambuf_iterator<char>(file)), {}), "of an earlier run\n");
}

TEST(Eval, WritesSamplesWithoutAskingAModel) {
  const TempFolder folder;
  const std::string path = folder.Write("samples.jsonl", "of an earlier run\n");
  const std::vector<std::string> arguments = {"--tasks",     "kv,path", "--lengths", "700", "--samples",       "2",
                                              "--questions", "3",       "--seed",    "5",   "--write-samples", path};
  std::vector<std::string> with_json = arguments;
  with_json.push_back("--json");
  const ProcessResult result = RunCachette(EvalArguments(with_json));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  int64_t num_tokens = 0, num_lines = 0;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line); ++num_lines) {
    const json sample = json::parse(line);
    EXPECT_EQ(sample["task"], num_lines < 2 ? "kv" : "path");
    EXPECT_EQ(sample["seed"], 5);
    EXPECT_EQ(sample["questions"].size(), 3u);
    num_tokens += static_cast<int64_t>(sample["context_tokens"].size());
    for (const json& question : sample["questions"])
      num_tokens += static_cast<int64_t>(question["question_tokens"].size() + question["answer_tokens"].size());
  }
  EXPECT_EQ(num_lines, 4);
  EXPECT_EQ(json::parse(result.out),
            json({{"samples", 4}, {"questions", 12}, {"tokens", num_tokens}, {"is_complete", true}}));
  const ProcessResult plain = RunCachette(EvalArguments(arguments));
  EXPECT_EQ(plain.out, "");
  EXPECT_THAT(plain.err, HasSubstr("4 samples, 12 questions"));
}

TEST(Eval, RefusedArgumentsLeaveTheSamplesFileAlone) {
  const TempFolder folder;
  const std::string path = folder.Write("samples.jsonl", "of an earlier run\n");
  ExpectEvalComplaint({"--lengths", "30", "--write-samples", path}, "needs at least");
  ExpectEvalComplaint({"--write-samples", path, "--records", folder / "records.jsonl"},
                      "leave out --fidelity and --records");
  ExpectEvalComplaint({"--write-samples", "/nowhere/samples.jsonl"}, "/nowhere/samples.jsonl");
  std::ifstream file(path);
  EXPECT_EQ(std::string((std::istreambuf_iterator<char>(file)), {}), "of an earlier run\n");
}

TEST(Eval, BadInputIsOneSentence) {
  ExpectEvalComplaint({"--tasks", "kw"}, "did you mean 'kv'?");
  ExpectEvalComplaint({"--tasks", ","}, "--tasks");
  ExpectEvalComplaint({"--lengths", "30"}, "needs at least");
  ExpectEvalComplaint({"--lengths", "100000"}, "context of 32768");
  ExpectEvalComplaint({"--samples", "0"}, "samples is 0");
  ExpectEvalComplaint({"--protocol", "decode"}, "as-decode");
  ExpectEvalComplaint({"--fidelity", "/nowhere/text.txt"}, "/nowhere/text.txt");
  ExpectEvalComplaint({"--records", "/nowhere/records.jsonl"}, "/nowhere/records.jsonl");
  ExpectEvalComplaint({"--recipe", "ful"}, "did you mean 'full'?");
  ExpectEvalComplaint({"--tasks", "kv,niah,kv"}, "task kv is named twice");
  ExpectEvalComplaint({"--lengths", "700,700"}, "length 700 is named twice");
  ExpectEvalComplaint({"--fidelity", "/nowhere/text.txt", "--samples", "4"}, "--samples belongs to tasks");
  EXPECT_EQ(RunCachette(EvalArguments({"--lengths", "many"})).exit_code, 2);
}

}  // namespace
}  // namespace cachette
