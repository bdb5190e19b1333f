#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/process.h"
#include "io/temp_folder.h"

namespace cachette {
namespace {

using nlohmann::json;
using testing::HasSubstr;

ProcessResult Succeed(const std::vector<std::string>& arguments, const std::string& input = "") {
  ProcessOptions options;
  options.standard_input = input;
  ProcessResult result = RunCachette(arguments, options);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return result;
}

json SucceedJson(const std::vector<std::string>& arguments) {
  json parsed = json::parse(Succeed(arguments).out, nullptr, false);
  EXPECT_FALSE(parsed.is_discarded());
  return parsed;
}

// Unlike ExpectComplaint, lets a line that names model and recipe come first.
void ExpectFailure(const std::vector<std::string>& arguments, int exit_code, const std::string& part) {
  const ProcessResult result = RunCachette(arguments);
  EXPECT_EQ(result.exit_code, exit_code);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, testing::StartsWith("cachette: "));
  EXPECT_THAT(result.err, HasSubstr(part));
}

TEST(Help, EveryCommandHasOne) {
  const ProcessResult root = Succeed({"-h"});
  for (const char* command :
       {"run", "inspect", "recipes", "footprint", "tokenize", "eval", "calibrate", "bench", "completions", "man"}) {
    EXPECT_THAT(root.out, HasSubstr(std::string("\n  ") + command + " "));
    const ProcessResult own = Succeed({command, "--help"});
    EXPECT_THAT(own.out, HasSubstr(std::string("Usage: cachette ") + command));
    std::istringstream lines(own.out);
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
  }
  const std::string run = Succeed({"run", "-h"}).out;
  for (const char* part : {"-n, --max-new-tokens N", "[256]", "--protect.sinks, --sinks N", "--recipe RECIPE",
                           "--fast-kv-bytes, --kv-bytes SIZE", "-m, --model MODEL", "--lora FILE"})
    EXPECT_THAT(run, HasSubstr(part));
  EXPECT_THAT(Succeed({"--version"}).out, HasSubstr("cachette 0."));
}

TEST(Inspect, DescribesAModel) {
  const json out = SucceedJson({"inspect", "-m", "synthetic:tiny", "--json"});
  EXPECT_EQ(out["layers"], 2);
  EXPECT_EQ(out["kv_heads"], 2);
  EXPECT_EQ(out["head_dim"], 16);
  EXPECT_EQ(out["context_tokens"], 32768);
  EXPECT_EQ(out["kv_bytes_per_token"], 2 * 2 * 2 * 16 * 2);  // layers x KV heads x (K, V) x head_dim x f16
  EXPECT_EQ(out["tensors"]["q8_0"]["tensors"], 1 + 2 * 7);
  EXPECT_EQ(out["tensors"]["f32"]["tensors"], 1 + 2 * 2);
  EXPECT_EQ(out["tokenizer"]["vocab_size"], 256);
  EXPECT_EQ(out["chat_template"]["status"], "none");
  EXPECT_GT(out["tokens_in_memory"], 0);
  EXPECT_EQ(SucceedJson({"inspect", "-m", "synthetic:tiny", "--json", "--kv-dtype", "f32"})["kv_bytes_per_token"], 512);
  EXPECT_EQ(SucceedJson({"inspect", "-m", "synthetic:tiny", "--json", "--kv-bytes", "25600"})["tokens_in_memory"], 100);
  const std::string text = Succeed({"inspect", "-m", "synthetic:tiny"}).out;
  for (const char* part : {"4 query heads, 2 KV heads", "q8_0: 15 tensors", "context       32768", "256 B per token"})
    EXPECT_THAT(text, HasSubstr(part));
  ExpectFailure({"inspect", "-m", "nowhere.gguf"}, 1, "nowhere.gguf does not exist");
  // Weights are not made to describe them: a shape beyond most machines.
  EXPECT_GT(SucceedJson({"inspect", "-m", "synthetic:llama-3.1-70b", "--json"})["weight_bytes"], 70'000'000'000);
  EXPECT_EQ(Succeed({"tokenize", "-m", "synthetic:llama-3.1-70b", "-p", "A", "--ids"}).out, "65\n");
}

TEST(Recipes, ListsAndExplains) {
  const json list = SucceedJson({"recipes", "--json"});
  ASSERT_TRUE(list.is_array());
  ASSERT_GE(list.size(), 3u);
  for (const json& row : list)
    for (const char* field : {"name", "summary", "paper", "frees"}) EXPECT_NE(row[field], "") << row;
  const json one = SucceedJson({"recipes", "streaming", "--json"});
  EXPECT_EQ(one["name"], "streaming");
  EXPECT_EQ(one["parts"]["protect"], "sink_window");
  const auto has_sinks = [](const json& option) { return option["name"] == "protect.sinks" && option["default"] == 4; };
  EXPECT_TRUE(std::any_of(one["options"].begin(), one["options"].end(), has_sinks));
  EXPECT_THAT(Succeed({"recipes", "streaming"}).out, HasSubstr("--protect.recent-window"));
  EXPECT_THAT(Succeed({"recipes", "--markdown"}).out, HasSubstr("| `streaming` |"));
  for (const json& row : list) EXPECT_THAT(Succeed({"recipes"}).out, HasSubstr(row["name"].get<std::string>()));
  ExpectFailure({"recipes", "ful"}, 1,
                "unknown recipe 'ful' ('cachette recipes' lists them all); did you mean 'full'?");
  const auto takes = [](const char* recipe, const char* option) {
    const json options = SucceedJson({"recipes", recipe, "--json"})["options"];
    return std::any_of(options.begin(), options.end(), [&](const json& o) { return o["name"] == option; });
  };
  EXPECT_FALSE(takes("full", "budget"));
  EXPECT_TRUE(takes("full", "codec"));
  EXPECT_TRUE(takes("streaming", "budget"));
  EXPECT_TRUE(takes("louis", "budget"));
  EXPECT_FALSE(takes("louis", "keep_fraction"));
}

TEST(Tokenize, TextToIdsAndBack) {
  const std::vector<std::string> base = {"tokenize", "-m", "synthetic:tiny"};
  const auto with = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = base;
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  EXPECT_EQ(Succeed(with({"-p", "Az", "--ids"})).out, "65 122\n");
  EXPECT_EQ(Succeed(with({"-", "--ids"}), "Az").out, "65 122\n");
  EXPECT_EQ(Succeed(with({"-p", "-", "--count"}), "five!").out, "5\n");
  EXPECT_EQ(Succeed(with({"-p", "A\n"})).out, "65\t\"A\"\n10\t\"\\n\"\n");
  EXPECT_EQ(Succeed(with({"--decode", "72 105,33"})).out, "Hi!\n");
  const json out = SucceedJson(with({"-p", "Hi", "--json"}));
  EXPECT_EQ(out["count"], 2);
  EXPECT_EQ(out["ids"], json({72, 105}));
  EXPECT_EQ(out["pieces"], json({"H", "i"}));
  ExpectFailure(base, 1, "no text");
  ExpectFailure(with({"-p", "\xff"}), 1, "the prompt is not valid UTF-8 at byte 0");
  ExpectFailure(with({"--decode", "1,x"}), 1, "'1,x' is not a list of whole numbers");
  ExpectFailure(with({"--decode", "256"}), 1, "token 256 is outside the vocabulary of 256");
}

TEST(BenchLlm, JsonHasOneObjectForEachTest) {
  const json out = SucceedJson({"bench", "llm", "-m", "synthetic:tiny", "-t", "1", "-p", "0,64,100", "-n", "8", "-d",
                                "0,128", "-r", "3", "--recipe", "streaming", "--budget", "32", "--json"});
  ASSERT_EQ(out.size(), 4u);
  const char* const names[] = {"pp64", "pp100", "tg8@d0", "tg8@d128"};
  for (size_t i = 0; i < 4; ++i) {
    const json& test = out[i];
    EXPECT_EQ(test["test"], names[i]);
    ASSERT_EQ(test["runs"].size(), 3u);
    ASSERT_EQ(test["seconds"].size(), 3u);
    EXPECT_LE(test["min"], test["tokens_per_s"]);
    EXPECT_LE(test["tokens_per_s"], test["max"]);
    for (size_t run = 0; run < 3; ++run)
      EXPECT_NEAR(test["runs"][run].get<double>() * test["seconds"][run].get<double>(), test["tokens"].get<double>(),
                  1e-9 * test["tokens"].get<double>());
    EXPECT_EQ(test["start_depths"], json({test["depth"], test["depth"], test["depth"]}));
    EXPECT_EQ(test["recipe"], "streaming");
    EXPECT_EQ(test["options"]["protect.recent_window"], 27);
    EXPECT_EQ(test["options"]["threads"], 1);
    EXPECT_EQ(test["model"]["file"], "synthetic:tiny");
    EXPECT_TRUE(test["machine"]["cpu"].is_string());
  }
  EXPECT_EQ(out[3]["depth"], 128);
}

TEST(BenchLlm, ReusedPrefillsSayHowDeepEachRunStarts) {
  const json out = SucceedJson({"bench", "llm", "-m", "synthetic:tiny", "-t", "1", "-p", "0", "-n", "4", "-d", "16",
                                "-r", "2", "--reuse-prefill", "--json"});
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0]["start_depths"], json({16, 20}));
}

TEST(BenchLlm, RefusesWhatDoesNotFit) {
  const std::vector<std::string> base = {"bench", "llm", "-m", "synthetic:tiny", "-t", "1"};
  const auto with = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = base;
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  ExpectFailure(with({"-p", "0", "-d", "32760", "-n", "9"}), 1, "--rope-scale");
  ExpectFailure(with({"-p", "40000", "-n", "0"}), 1, "passes the model's context of 32768");
  ExpectFailure(with({"-r", "0"}), 1, "0 repetitions");
  ExpectFailure(with({"-p", "1,,2"}), 2, "is not a list of whole numbers");
  ExpectFailure(with({"-p", "-5"}), 2, "is not a list of whole numbers");
  ExpectFailure({"bench", "lmm"}, 2, "did you mean 'llm'?");
  ExpectFailure({"bench"}, 2, "a command is missing");
  EXPECT_THAT(Succeed(with({"-p", "16", "-n", "0", "-r", "1"})).out, HasSubstr("pp16"));
}

TEST(BenchMachine, MeasuresRates) {
  const json out = SucceedJson({"bench", "machine", "-t", "1", "--json"});
  EXPECT_GT(out["read_gb_per_s"], 0.1);
  EXPECT_EQ(out["threads"], 1);
  const bool has_bf16 = out["gemm"].size() == 2;
  EXPECT_TRUE(has_bf16 || out["gemm"].size() == 1);
  for (const json& gemm : out["gemm"]) {
    EXPECT_GT(gemm["gflops"], 0.1);
    EXPECT_EQ(gemm["k"], 1024);
    EXPECT_EQ(512 % gemm["m"].get<int>(), 0);
  }
  EXPECT_EQ(out["gemm"][0]["dtype"], "f32");
  EXPECT_EQ(out["gemm"][has_bf16 ? 1 : 0]["dtype"], has_bf16 ? "bf16" : "f32");
  EXPECT_EQ(out["backends"][0]["name"], "ref");
}

TEST(Completions, NameEveryCommandAndOption) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const std::string script = Succeed({"completions", shell}).out;
    for (const char* word :
         {"tokenize", "completions", "max-new-tokens", "protect.sinks", "reuse-prefill", "streaming"})
      EXPECT_THAT(script, HasSubstr(word)) << shell;
  }
  ExpectFailure({"completions", "bahs"}, 2, "did you mean 'bash'?");
  ExpectFailure({"completions"}, 2, "name a shell");
}

// The script does in bash what a user sees: candidates for a line that ends in a partial word.
TEST(Completions, BashCompletes) {
  if (std::system("bash -c 'compopt -h' >/dev/null 2>&1; command -v bash >/dev/null") != 0) GTEST_SKIP() << "no bash";
  const TempFolder folder;
  const std::string script = folder.Write("completions", Succeed({"completions", "bash"}).out);
  const auto candidates = [&](const std::string& words) {
    const std::string answer = folder / "answer";
    const std::string command = "bash -c 'source " + script + "; compopt() { :; }; COMP_WORDS=(" + words +
                                "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _cachette; echo \"${COMPREPLY[*]}\"' > " +
                                answer;
    EXPECT_EQ(std::system(command.c_str()), 0);
    std::ifstream file(answer);
    std::string line;
    std::getline(file, line);
    return line;
  };
  EXPECT_EQ(candidates("cachette r"), "run recipes");
  EXPECT_EQ(candidates("cachette run --max"), "--max-new-tokens");
  EXPECT_EQ(candidates("cachette run --recipe st"), "streaming");
  EXPECT_EQ(candidates("cachette bench \"\"").substr(0, 11), "llm machine");
  EXPECT_EQ(candidates("cachette bench llm --reuse-p"), "--reuse-prefill");
  EXPECT_EQ(candidates("cachette recipes he"), "heads");
}

TEST(Man, RendersWithoutWarnings) {
  const std::string page = Succeed({"man"}).out;
  for (const char* part : {".TH CACHETTE 1", "max\\-new\\-tokens", "EXIT STATUS", "cachette bench llm"})
    EXPECT_THAT(page, HasSubstr(part));
  if (std::system("command -v groff >/dev/null") != 0) GTEST_SKIP() << "no groff to render it with";
  const TempFolder folder;
  const std::string file = folder.Write("cachette.1", page);
  const std::string warnings = folder / "warnings";
  EXPECT_EQ(std::system(("groff -ww -man -Tutf8 " + file + " > /dev/null 2> " + warnings).c_str()), 0);
  std::ifstream stream(warnings);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(stream), {}), "");
}

}  // namespace
}  // namespace cachette
