// Recipes that retrieve as a user meets them: what run and eval report, --trace, limits of the tiers, calibrate.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/process.h"
#include "io/temp_folder.h"

namespace cachette {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// 600 bytes are 600 tokens of synthetic:tiny (2 layers of 2 KV heads); 64 + 144 entries stay in the fast tier.
std::string Text() {
  std::string text;
  for (int i = 0; text.size() < 600; ++i) text += "line " + std::to_string(i * 7919 % 1000) + "; ";
  return text.substr(0, 600);
}

std::vector<std::string> RunArguments(const std::string& recipe, const std::vector<std::string>& more) {
  std::vector<std::string> all = {"run", "-m",       "synthetic:tiny", "-t",       "1",  "-p", Text(),        "-n",
                                  "40",  "--recipe", recipe,           "--budget", "64", "-q", "--ignore-eos"};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

json Parsed(const ProcessResult& result) {
  EXPECT_EQ(result.exit_code, 0) << result.err;
  json parsed = json::parse(result.out, nullptr, false);
  EXPECT_FALSE(parsed.is_discarded()) << result.out;
  return parsed;
}

json RunJson(const std::string& recipe, std::vector<std::string> more) {
  more.push_back("--json");
  return Parsed(RunCachette(RunArguments(recipe, more)));
}

std::vector<json> LinesOf(const std::string& path) {
  std::ifstream file(path);
  std::vector<json> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(json::parse(line));
  return lines;
}

TEST(RetrievalRun, JsonHasTheFiguresAndBothTiers) {
  EXPECT_TRUE(RunJson("full", {"--budget", "0"})["retrieval"].is_null());
  const json every = RunJson("quest", {"--working_set.dense-layers", "0"})["retrieval"];
  EXPECT_EQ(every["retrievals_per_token"], 1.0);
  const json out = RunJson("louis", {"--trigger.kind", "stride", "--stride", "8"});
  const json& retrieval = out["retrieval"];
  EXPECT_EQ(retrieval["retrievals_per_token"], 0.125);  // 40 steps, at 0, 8, ... 32
  EXPECT_EQ(retrieval["steps"], 40);
  EXPECT_GT(retrieval["entries_copied_per_token"], 0.0);
  EXPECT_LE(retrieval["entries_copied_per_token"], 64 * 0.125);
  EXPECT_GT(retrieval["bytes_recalled_per_token"], 0.0);
  EXPECT_TRUE(retrieval["reuse_share"] >= 0.0 && retrieval["reuse_share"] <= 1.0);
  EXPECT_TRUE(retrieval["oracle_hit_rate"].is_null());
  EXPECT_EQ(retrieval["entries_ahead_per_token"], 0.0);
  EXPECT_TRUE(retrieval["ahead_hit_rate"].is_null());
  const json rehearsed = RunJson("louis", {"--trigger.kind", "stride", "--stride", "8", "--ahead", "fetch"});
  EXPECT_EQ(rehearsed["text"], out["text"]);
  EXPECT_GT(rehearsed["retrieval"]["entries_ahead_per_token"], 0.0);
  EXPECT_GE(rehearsed["retrieval"]["ahead_hit_rate"], 0.0);
  EXPECT_LE(rehearsed["retrieval"]["ahead_hit_rate"], 1.0);
  const json asked = RunJson("louis", {"--trigger.kind", "stride", "--stride", "8", "--oracle"});
  EXPECT_EQ(asked["text"], out["text"]);
  EXPECT_GT(asked["retrieval"]["oracle_hit_rate"], 0.0);
  EXPECT_LE(asked["retrieval"]["oracle_hit_rate"], 1.0);
  double sum = 0;
  for (const char* phase : {"select", "recall", "attention", "close", "rest"}) {
    EXPECT_TRUE(retrieval["time_share"][phase] >= 0.0 && retrieval["time_share"][phase] <= 1.0) << phase;
    sum += retrieval["time_share"][phase].get<double>();
  }
  EXPECT_NEAR(sum, 1.0, 1e-9);
  EXPECT_GT(retrieval["build_s"], 0.0);
  EXPECT_GT(retrieval["units"], 4 * (600 - 144) / 32);
  EXPECT_GT(retrieval["resident_peak_bytes"], 0);

  EXPECT_EQ(out["footprint"], 1.0);
  const json& host = out["tiers"]["host"];
  const json& arena = out["tiers"]["arena"];
  EXPECT_LT(host["byte_footprint"], out["byte_footprint"]);
  EXPECT_GT(out["byte_footprint"], 1.0);  // nothing is lost, and indexes come on top
  EXPECT_NEAR(out["byte_footprint"], host["byte_footprint"].get<double>() + arena["byte_footprint"].get<double>(),
              1e-12);
  EXPECT_LT(host["bytes_peak"], 4 * 640 * 64);  // of the full cache: entries of 2 x 16 f16
  EXPECT_EQ(arena["reader"], "memory");
  EXPECT_TRUE(arena["bytes_limit"].is_null());
  EXPECT_GT(arena["bytes_written"], 4 * (600 - 160) * 64);
  EXPECT_GT(arena["bytes_read"], 0);

  const TempFolder folder;
  const json disk = RunJson("louis+", {"--slow-tier", "disk:" + folder / "" + ",threads", "--slow-kv-bytes", "1M"});
  EXPECT_EQ(disk["tiers"]["disk"]["reader"], "threads");
  EXPECT_EQ(disk["tiers"]["disk"]["bytes_limit"], 1 << 20);
  EXPECT_EQ(disk["options"]["slow_kv_bytes"], 1 << 20);
}

TEST(RetrievalRun, SummaryHasALine) {
  std::vector<std::string> arguments = RunArguments("louis", {});
  std::erase(arguments, "-q");
  const ProcessResult result = RunCachette(arguments);
  EXPECT_THAT(result.err,
              testing::ContainsRegex("retrieval  0\\.[0-9]+ per token and layer, [0-9.]+ entries copied per "
                                     "token and KV head, working set .* KiB, slow tier arena .* KiB\n"));
  EXPECT_THAT(result.err, HasSubstr("in the fast tier)"));
  EXPECT_THAT(result.err, testing::Not(HasSubstr("read ahead, of which")));
  arguments.insert(arguments.end(), {"--ahead", "select"});
  EXPECT_THAT(RunCachette(arguments).err,
              testing::ContainsRegex("\n           [0-9.]+ of them read ahead, of which 100 % were wanted\n"));
}

TEST(RetrievalRun, ALedgerReducesToTheRunsNumbers) {
  const TempFolder folder;
  const std::string path = folder / "ledger.jsonl";
  for (const char* recipe : {"louis", "quest", "louis+"}) {
    const json run = RunJson(recipe, {"--ledger", path, "-n", "200"});
    const json measured = Parsed(RunCachette({"footprint", "--ledger", path, "--json"}));
    for (const char* field : {"footprint", "peak", "byte_footprint", "byte_peak"})
      EXPECT_EQ(measured[field], run[field]) << recipe << " " << field;
    for (const std::string tier : {"host", "arena"})
      for (const std::string field : {"byte_footprint", "byte_peak"})
        EXPECT_EQ(measured[tier + "_" + field], run["tiers"][tier][field]) << recipe << " " << tier << " " << field;
  }
}

TEST(RetrievalRun, TraceHasALineForEachLayerAndToken) {
  const TempFolder folder;
  const std::string path = folder / "trace.jsonl";
  const json run = RunJson("louis", {"--trace", path, "--trigger.kind", "stride", "--stride", "8"});
  EXPECT_EQ(run["options"]["trace"], path);
  const std::vector<json> lines = LinesOf(path);
  ASSERT_EQ(lines.size(), 1u + 2 * 40);
  EXPECT_EQ(lines[0]["format"], "cachette-trace");
  EXPECT_EQ(lines[0]["recipe"], "louis");
  EXPECT_EQ(lines[0]["layers"], 2);
  EXPECT_EQ(lines[0]["kv_heads"], 2);
  EXPECT_EQ(lines[0]["prompt_tokens"], 600);
  EXPECT_EQ(lines[0]["options"]["trigger.stride"], 8);
  for (size_t i = 1; i < lines.size(); ++i) {
    const auto step = static_cast<int64_t>(i - 1) / 2;
    EXPECT_EQ(lines[i]["step"], 600 + step);
    EXPECT_EQ(lines[i]["layer"], (i - 1) % 2);
    EXPECT_EQ(lines[i]["retrieval"], step % 8 == 0);
    EXPECT_EQ(lines[i]["recalled"].size(), step % 8 == 0 ? 2u : 0u);
    for (const char* field : {"cosine_previous", "cosine_last"}) EXPECT_LE(lines[i][field], 1.001) << i;
    EXPECT_GE(lines[i]["coverage"], 0.0) << i;
  }
  ExpectComplaint(RunCachette(RunArguments("streaming", {"--trace", path})), 1, "recipe streaming retrieves nothing");
  ExpectComplaint(RunCachette(RunArguments("louis", {"--trace", path, "--ledger", path})), 1, "name the same file");
  ExpectComplaint(RunCachette(RunArguments("louis", {"--trace", folder / "none/x"})), 1, "--trace: ");
}

TEST(RetrievalRun, LimitsThatCannotHoldAreRefusedFirst) {
  // 4 streams of 14 + 4 blocks of 1 KiB: sinks, recent window, an open segment and a block; one budget.
  const json least = RunJson("louis", {"--fast-kv-bytes", "72K", "--prefill-chunk", "64"});
  EXPECT_LE(least["tiers"]["host"]["bytes_peak"], 72 * 1024);
  ExpectComplaint(RunCachette(RunArguments("louis", {"--fast-kv-bytes", "71K", "--prefill-chunk", "64"})), 1,
                  "the fast tier may hold 71.0 KiB, and recipe louis needs at least 72.0 KiB for 640 tokens with a "
                  "budget of 64 and prefill chunks of 64; raise --fast-kv-bytes, lower --budget or --prefill-chunk");
  ExpectComplaint(RunCachette(RunArguments("louis", {"--slow-kv-bytes", "32K"})), 1, "raise --slow-kv-bytes");
}

TEST(RetrievalEval, SumsOverAnswersAndFamilies) {
  const auto eval = [](const std::string& recipe, const std::string& protocol) {
    return Parsed(RunCachette({"eval",      "-m",         "synthetic:tiny",
                               "-t",        "1",          "--tasks",
                               "kv,niah",   "--lengths",  "700",
                               "--samples", "1",          "--questions",
                               "2",         "--protocol", protocol,
                               "--recipe",  recipe,       "--trigger.kind",
                               "every",     "--budget",   "64",
                               "--json"}));
  };
  const json out = eval("louis", "as-decode");
  EXPECT_EQ(out["retrieval"]["retrievals_per_token"], 1.0);
  int64_t steps = 0, units = 0;
  for (const char* task : {"kv", "niah"}) {
    steps += out["tasks"][task]["retrieval"]["steps"].get<int64_t>();
    units += out["tasks"][task]["retrieval"]["units"].get<int64_t>();
  }
  EXPECT_EQ(out["retrieval"]["steps"], steps);
  EXPECT_EQ(out["retrieval"]["units"], units);
  // The context's units count once, not with each question.
  const json in_prompt = eval("louis", "in-prompt");
  EXPECT_LT(out["retrieval"]["units"], in_prompt["retrieval"]["units"]);
  EXPECT_GT(out["retrieval"]["steps"], in_prompt["retrieval"]["steps"]);  // questions are decoded
}

TEST(Calibrate, WritesThresholdsAndReportsRates) {
  const TempFolder folder;
  const std::string text = folder.Write("text", Text());
  const std::vector<std::string> common = {"--protect.sinks", "16", "--protect.recent-window", "16", "--budget", "16"};
  const auto with_common = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), common.begin(), common.end());
    return arguments;
  };
  const ProcessResult synthetic = RunCachette({"calibrate", "-m", "synthetic:tiny"});
  EXPECT_EQ(synthetic.exit_code, 1);
  EXPECT_THAT(synthetic.err, HasSubstr("name one with -o"));
  ExpectComplaint(
      RunCachette({"calibrate", "-m", "synthetic:tiny", "-f", text, "--decode-tokens", "600", "-o", folder / "x"}), 1,
      "too few to prefill some and feed 600");
  const json out =
      Parsed(RunCachette(with_common({"calibrate", "-m", "synthetic:tiny", "-f", text, "--decode-tokens", "60",
                                      "--trigger", "last", "--rate", "0.3", "-o", folder / "taus", "--json", "-q"})));
  EXPECT_EQ(out["file"], folder / "taus");
  ASSERT_EQ(out["layers"].size(), 2u);
  EXPECT_NEAR(out["layers"][0]["achieved_rate"], 0.3, 0.1);
  EXPECT_EQ(out["options"]["trigger.last_taus"], folder / "taus");
  std::ifstream file(folder / "taus");
  std::string first;
  std::getline(file, first);
  EXPECT_THAT(first, HasSubstr("# tau per layer of trigger last"));
}

}  // namespace
}  // namespace cachette
