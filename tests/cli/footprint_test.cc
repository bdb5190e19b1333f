#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/process.h"
#include "io/temp_folder.h"

namespace cachette {
namespace {

using nlohmann::json;
using testing::HasSubstr;

ProcessResult Footprint(std::vector<std::string> more) {
  more.insert(more.begin(), "footprint");
  return RunCachette(more);
}

json FootprintJson(std::vector<std::string> more) {
  more.push_back("--json");
  const ProcessResult result = Footprint(more);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  json parsed = json::parse(result.out, nullptr, false);
  EXPECT_FALSE(parsed.is_discarded()) << result.out;
  return parsed;
}

void ExpectFootprintComplaint(const std::vector<std::string>& more, int exit_code, const std::string& part) {
  ExpectComplaint(Footprint(more), exit_code, part);
}

json IgnoringEosJson(std::vector<std::string> more) {
  std::vector<std::string> all = {"run", "-m", "synthetic:tiny", "-t", "1", "--ignore-eos", "--json"};
  all.insert(all.end(), more.begin(), more.end());
  const ProcessResult result = RunCachette(all);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return json::parse(result.out, nullptr, false);
}

TEST(Footprint, PrintsWhatApplies) {
  const json streaming = FootprintJson(
      {"--class", "streaming", "--prompt", "10", "--output", "5", "--chunk", "4", "--sinks", "1", "--window", "2"});
  EXPECT_EQ(streaming["source"], "formula");
  EXPECT_NEAR(streaming["footprint"], 61.0 / 120, 1e-15);
  EXPECT_NEAR(streaming["peak"], 7.0 / 15, 1e-15);
  EXPECT_EQ(streaming["area_streaming"], 61);
  EXPECT_EQ(streaming["area_full"], 120);
  EXPECT_FALSE(streaming.contains("area_evicting"));
  EXPECT_EQ(streaming["chunk"], 4);
  EXPECT_FALSE(streaming.contains("sparsity"));  // not an option of this class

  const json chunked = FootprintJson(
      {"--class", "chunked", "--prompt", "4096", "--output", "256", "--chunk", "1024", "--sparsity", "0.75"});
  EXPECT_EQ(chunked["area_evicting"], 4425856);
  EXPECT_FALSE(chunked.contains("area_streaming"));
  const json heads = FootprintJson({"--class", "heads", "--prompt", "512", "--output", "8192", "--chunk", "512",
                                    "--head-sparsity", "0.5", "--sinks", "128", "--window", "1024"});
  EXPECT_NEAR(heads["footprint"], 0.623687366962868, 1e-12);
  EXPECT_NEAR(heads["peak"], 0.566233915441177, 1e-12);
  EXPECT_TRUE(heads.contains("area_streaming") && heads.contains("area_evicting"));
  const json postfill =
      FootprintJson({"--class", "postfill", "--prompt", "512", "--output", "8192", "--sparsity", "0.9"});
  EXPECT_NEAR(postfill["footprint"], 0.914153461499476, 1e-12);
  const json locret = FootprintJson({"--class", "locret", "--prompt", "131072", "--output", "1024", "--chunk", "32768",
                                     "--sparsity", "0.7", "--local-len", "100", "--stabilizers", "2500"});
  EXPECT_NEAR(locret["footprint"], 0.529618965990050, 1e-12);
  const json full = FootprintJson({"--class", "full", "--prompt", "7"});
  EXPECT_EQ(full["footprint"], 1.0);
  EXPECT_EQ(full["area_full"], 28);

  const ProcessResult table = Footprint({"--class", "chunked", "--prompt", "4096", "--output", "256", "--chunk", "0"});
  EXPECT_EQ(table.exit_code, 0);
  for (const char* part : {"class                   chunked", "chunk                   0  (stands for 131072)",
                           "footprint               1", "area_full               9472128"})
    EXPECT_THAT(table.out, HasSubstr(part));
}

TEST(Footprint, SamplesAreAveraged) {
  const TempFolder folder;
  const std::string path = folder.Write("lengths", "{\"n\": 1000, \"m\": 10}\n{\"n\": 200, \"m\": 400}\n");
  const auto one = [](const char* n, const char* m) {
    return FootprintJson(
               {"--class", "chunked", "--chunk", "128", "--sparsity", "0.5", "--prompt", n, "--output", m})["footprint"]
        .get<double>();
  };
  const json mean = FootprintJson({"--class", "chunked", "--chunk", "128", "--sparsity", "0.5", "--samples", path});
  EXPECT_EQ(mean["samples"], 2);
  EXPECT_NEAR(mean["footprint"], (one("1000", "10") + one("200", "400")) / 2, 1e-15);
  EXPECT_GT(mean["peak"], 0.0);
  EXPECT_FALSE(mean.contains("area_full"));
  const std::string bad = folder.Write("bad", "{\"n\": 1000, \"m\": 10}\n{\"n\": 200}\n");
  ExpectFootprintComplaint({"--class", "full", "--samples", bad}, 1, "bad line 2: a length is missing");
  ExpectFootprintComplaint({"--class", "full", "--samples", folder / "none"}, 1, "none: no such file");
  ExpectFootprintComplaint({"--class", "full", "--samples", path, "--prompt", "5"}, 1, "--prompt and --samples both");
  ExpectFootprintComplaint({"--samples", path}, 1, "--class");
}

TEST(Footprint, BadInputIsOneSentence) {
  ExpectFootprintComplaint({}, 1, "name a formula with --class");
  ExpectFootprintComplaint({"--class", "chunkd", "--prompt", "5"}, 1, "did you mean 'chunked'?");
  ExpectFootprintComplaint({"--class", "full"}, 1, "no lengths");
  ExpectFootprintComplaint({"--class", "full", "--prompt", "0", "--output", "0"}, 1, "at least one token");
  ExpectFootprintComplaint({"--class", "full", "--prompt", "-5"}, 1, "prompt is -5");
  ExpectFootprintComplaint({"--class", "full", "--prompt", "x"}, 2, "'x' is not a whole number");
  ExpectFootprintComplaint({"--class", "chunked", "--prompt", "5", "--sparsity", "1.5"}, 1, "sparsity is 1.5");
  ExpectFootprintComplaint({"--class", "chunked", "--prompt", "5", "--sparsity", "nan"}, 2, "out of range");
  ExpectFootprintComplaint({"--class", "chunked", "--prompt", "5", "--chunk", "-1"}, 1, "0, which stands for 131072");
  ExpectFootprintComplaint({"--class", "heads", "--prompt", "5", "--head-sparsity", "-1"}, 1, "head_sparsity is -1");
  ExpectFootprintComplaint({"--class", "postfill", "--prompt", "5", "--chunk", "4"}, 1,
                           "class postfill does not take --chunk; it takes --prompt, --output, --sparsity");
  ExpectFootprintComplaint({"--class", "full", "--prompt", "5", "--sinks", "4"}, 1, "class full does not take --sinks");
  ExpectFootprintComplaint({"--ledger", "nowhere.jsonl"}, 1, "nowhere.jsonl: no such file");
  ExpectFootprintComplaint({"--ledger", "nowhere.jsonl", "--prompt", "5"}, 1, "--prompt belongs to a formula");
}

TEST(Footprint, ALedgerOfARunIsTheRunsOwnNumbersAndTheFormula) {
  const TempFolder folder;
  const std::string path = folder / "ledger.jsonl";
  const json run = IgnoringEosJson({"-p", std::string(203, 'a'), "-n", "37", "--prefill-chunk", "50", "--recipe",
                                    "streaming", "--budget", "24", "--ledger", path});
  const json measured = FootprintJson({"--ledger", path});
  EXPECT_EQ(measured["source"], "measured");
  for (const char* field : {"footprint", "peak", "transient_peak", "byte_footprint", "byte_peak"})
    EXPECT_EQ(measured[field], run[field]) << field;
  EXPECT_EQ(run["byte_footprint"], run["footprint"]);  // f16, and nothing but entries
  EXPECT_EQ(run["transient_peak"], run["peak"]);
  EXPECT_EQ(measured["tokens"], 240);
  EXPECT_EQ(measured["layers"], 2);
  EXPECT_EQ(measured["kv_heads"], 2);
  EXPECT_EQ(measured["area_full"], 4 * 240 * 241 / 2);

  const json both = FootprintJson({"--class", "streaming", "--prompt", "203", "--output", "37", "--chunk", "50",
                                   "--sinks", "4", "--window", "19", "--ledger", path});
  EXPECT_EQ(both["source"], "formula");
  EXPECT_EQ(both["measured"], measured);
  EXPECT_EQ(measured["area"], 4 * both["area_streaming"].get<int64_t>());
  EXPECT_EQ(measured["footprint"], both["footprint"]);
  EXPECT_NEAR(measured["peak"].get<double>(), both["peak"].get<double>(), 1e-15);
  ExpectFootprintComplaint({"--class", "full", "--prompt", "203", "--ledger", path}, 1,
                           "--prompt and --output are 203 tokens, the ledger has 240");
  const ProcessResult table = Footprint({"--ledger", path});
  EXPECT_THAT(table.out, HasSubstr("transient_peak"));
  EXPECT_THAT(table.out, HasSubstr("host_peak_bytes"));

  // f32 entries take twice the bytes.
  const std::string wide = folder / "wide.jsonl";
  const json in_f32 = IgnoringEosJson({"-p", "hello", "-n", "3", "--kv-dtype", "f32", "--ledger", wide});
  EXPECT_EQ(in_f32["footprint"], 1.0);
  EXPECT_EQ(in_f32["byte_footprint"], 2.0);
  EXPECT_EQ(in_f32["byte_peak"], 2.0);
  EXPECT_EQ(FootprintJson({"--ledger", wide})["byte_footprint"], 2.0);
}

TEST(Footprint, ADamagedLedgerNamesTheLine) {
  const TempFolder folder;
  const std::string path = folder / "ledger.jsonl";
  IgnoringEosJson({"-p", "hello world", "-n", "9", "--recipe", "streaming", "--budget", "8", "--ledger", path});
  std::ifstream file(path);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const std::string cut = folder.Write("cut", text.substr(0, text.size() / 2));
  ExpectFootprintComplaint({"--ledger", cut}, 1, "truncated");
  const std::string without_end = folder.Write("without", text.substr(0, text.rfind('\n', text.size() - 2) + 1));
  ExpectFootprintComplaint({"--ledger", without_end}, 1, "the closing line is missing");
  const std::string other = folder.Write("other", "{\"id\": 1}\n");
  ExpectFootprintComplaint({"--ledger", other}, 1, "other line 1: no ledger");
  const std::string empty = folder.Write("empty", "");
  ExpectFootprintComplaint({"--ledger", empty}, 1, "empty");
}

TEST(RunLedger, IsWrittenWholeOrRefusedBeforeTheModelRuns) {
  const TempFolder folder;
  const auto refuse = [](const std::string& path, const std::string& part) {
    const ProcessResult result =
        RunCachette({"run", "-m", "synthetic:tiny", "-p", "hello", "-n", "3", "--ledger", path});
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, HasSubstr(part));
  };
  refuse(folder / "none/ledger", "none/ledger cannot be written: No such file");
  refuse(folder / "", "is a folder");
  refuse("-", "'-' is standard input elsewhere");
  refuse("/dev/null", "/dev/null: is a device or pipe, which would be replaced");
  // A conversation's ledger is of all its turns.
  const std::string path = folder / "chat.jsonl";
  ProcessOptions options;
  options.standard_input = "one\ntwo\n";
  const ProcessResult chat = RunCachette(
      {"run", "-m", "synthetic:tiny", "-t", "1", "--chat", "--json", "-n", "4", "--ignore-eos", "--ledger", path},
      options);
  ASSERT_EQ(chat.exit_code, 0) << chat.err;
  const json last = json::parse(chat.out.substr(chat.out.rfind('\n', chat.out.size() - 2) + 1), nullptr, false);
  EXPECT_EQ(FootprintJson({"--ledger", path})["tokens"], last["session_tokens"]);
  // Nothing of a temporary file is left behind.
  size_t num_files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder / "")) ++num_files;
  EXPECT_EQ(num_files, 1u);
}

}  // namespace
}  // namespace cachette
