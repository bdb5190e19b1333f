#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/process.h"
#include "io/temp_folder.h"

namespace cachette {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kModel = "synthetic:tiny";  // one token per byte, 2 layers of 2 KV heads, context 32768

std::vector<std::string> RunArguments(const std::vector<std::string>& more) {
  std::vector<std::string> all = {"run", "--model", kModel, "--threads", "1"};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

json RunJson(std::vector<std::string> more, const ProcessOptions& options = {}) {
  more.push_back("--json");
  const ProcessResult result = RunCachette(RunArguments(more), options);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  json parsed = json::parse(result.out, nullptr, false);
  EXPECT_FALSE(parsed.is_discarded()) << result.out;
  return parsed;
}

TEST(Run, JsonHasEveryFieldOfItsType) {
  const json out = RunJson({"-p", "hello", "-n", "5", "--ignore-eos", "--recipe", "streaming", "--budget", "9"});
  EXPECT_TRUE(out["text"].is_string());
  EXPECT_EQ(out["stop"], "max_new_tokens");
  EXPECT_EQ(out["prompt_tokens"], 5);
  EXPECT_EQ(out["generated_tokens"], 5);
  for (const char* field : {"ttft_s", "tpot_s", "prefill_tokens_per_s", "decode_tokens_per_s", "startup_s"})
    EXPECT_TRUE(out[field].is_number_float() && out[field] > 0.0) << field;
  EXPECT_GT(out["startup_s"], out["ttft_s"]);
  for (const char* field : {"footprint", "peak"}) EXPECT_TRUE(out[field] > 0.0 && out[field] <= 1.0) << field;
  // 9 of 10 tokens in 4 streams fit one block of 16 entries of 2 x 16 f16 each.
  EXPECT_EQ(out["tiers"]["host"]["bytes_now"], 4 * 16 * 2 * 16 * 2);
  EXPECT_GE(out["tiers"]["host"]["bytes_peak"], out["tiers"]["host"]["bytes_now"]);
  EXPECT_EQ(out["recipe"], "streaming");
  const json& options = out["options"];
  EXPECT_EQ(options["recipe"], "streaming");
  EXPECT_EQ(options["budget"], 9);
  EXPECT_EQ(options["protect.sinks"], 4);
  EXPECT_EQ(options["protect.recent_window"], 4);
  EXPECT_EQ(options["prefill_chunk"], 512);
  EXPECT_EQ(options["max_new_tokens"], 5);
  EXPECT_EQ(options["ignore_eos"], true);
  EXPECT_EQ(options["temperature"], 0.0);
  EXPECT_EQ(options["threads"], 1);
  EXPECT_EQ(options["kv_dtype"], "f16");
  EXPECT_NE(options["backend"], "auto");
  EXPECT_NE(options["compute"], "auto");
  EXPECT_EQ(options["model"], kModel);
  EXPECT_EQ(options["lora"], json::array());
  EXPECT_EQ(out["model"]["file"], kModel);
  EXPECT_TRUE(out["model"]["sha256"].is_null());
  EXPECT_TRUE(out["machine"]["cpu"].is_string());
  EXPECT_GT(out["machine"]["available_cores"], 0);
  EXPECT_TRUE(out["build"]["version"].is_string());
  EXPECT_TRUE(out["build"]["commit"].is_string());
}

TEST(Run, FullCacheHasFootprintOne) {
  const json out = RunJson({"-p", std::string(300, 'x'), "-n", "7", "--ignore-eos", "--prefill-chunk", "64"});
  EXPECT_EQ(out["footprint"], 1.0);
  EXPECT_EQ(out["peak"], 1.0);
  EXPECT_EQ(out["session_tokens"], 307);
}

double Triangle(double k) { return k * (k + 1) / 2; }

// Area and peak points of one KV head by the published closed form: sinks S, window W; S + W >= T is a full head.
struct ClosedForm {
  double area = 0;
  std::vector<double> peaks;
};

ClosedForm Streaming(int64_t n, int64_t m, int64_t chunk, int64_t sinks, int64_t window) {
  const auto past = [&](int64_t a) {
    const int64_t w = std::min(a, window);
    return static_cast<double>(w + std::min(a - w, sinks));
  };
  ClosedForm out;
  for (int64_t a = 0; a < n; a += chunk) {
    const auto size = static_cast<double>(std::min(chunk, n - a));
    out.area += Triangle(size) + size * past(a);
    out.peaks.push_back(size + past(a));
  }
  for (int64_t a = n; a < n + m; ++a) out.area += 1 + past(a);
  out.peaks.push_back(1 + past(n + m - 1));
  return out;
}

// share: fraction of the KV heads that stream; the others keep everything.
void ExpectClosedForm(const json& out, double share) {
  const json& options = out["options"];
  const int64_t n = out["prompt_tokens"], m = out["generated_tokens"], chunk = options["prefill_chunk"];
  const ClosedForm streaming = Streaming(n, m, chunk, options["protect.sinks"], options["protect.recent_window"]);
  const ClosedForm full = Streaming(n, m, chunk, 0, n + m);
  const auto total = static_cast<double>(n + m);
  EXPECT_NEAR(out["footprint"], (share * streaming.area + (1 - share) * full.area) / Triangle(total), 1e-12);
  double peak = 0;
  for (size_t i = 0; i < full.peaks.size(); ++i)
    peak = std::max(peak, share * streaming.peaks[i] + (1 - share) * full.peaks[i]);
  EXPECT_NEAR(out["peak"], peak / total, 1e-12);
}

TEST(Run, StreamingFootprintIsTheClosedForm) {
  const std::string prompt(203, 'a');
  for (const char* chunk : {"1", "7", "16", "64", "203", "512"}) {
    SCOPED_TRACE(chunk);
    const json out = RunJson({"-p", prompt, "-n", "37", "--ignore-eos", "--prefill-chunk", chunk, "--recipe",
                              "streaming", "--budget", "24"});
    ASSERT_EQ(out["prompt_tokens"], 203);
    ASSERT_EQ(out["generated_tokens"], 37);
    ASSERT_EQ(out["options"]["protect.recent_window"], 24 - 4 - 1);
    ExpectClosedForm(out, 1.0);
  }
  const json tight = RunJson({"-p", prompt, "-n", "1", "--ignore-eos", "--prefill-chunk", "50", "--recipe", "streaming",
                              "--protect.sinks", "0", "--recent_window", "1"});
  EXPECT_EQ(tight["options"]["protect.sinks"], 0);
  EXPECT_EQ(tight["options"]["protect.recent_window"], 1);
  ExpectClosedForm(tight, 1.0);
  const json roomy = RunJson({"-p", prompt, "-n", "3", "--ignore-eos", "--recipe", "streaming", "--budget", "4096"});
  EXPECT_EQ(roomy["footprint"], 1.0);
  EXPECT_EQ(roomy["peak"], 1.0);
}

TEST(Run, MixedHeadsFootprintIsTheClosedForm) {
  const TempFolder folder;
  const std::string mask = folder.Write("mask.txt", "1 0\n0 0\n");  // one retrieval head of four
  const json out = RunJson({"-p", std::string(150, 'a'), "-n", "11", "--ignore-eos", "--prefill-chunk", "32",
                            "--recipe", "heads", "--mask-file", mask, "--budget", "20"});
  ExpectClosedForm(out, 0.75);
  EXPECT_LT(out["footprint"], 0.6);
}

TEST(Run, SameSeedGivesTheSameText) {
  const auto text = [](const char* seed) {
    return RunJson({"-p", "once", "-n", "30", "--ignore-eos", "--temperature", "1.5", "--seed", seed})["text"];
  };
  EXPECT_EQ(text("7"), text("7"));
  EXPECT_NE(text("7"), text("8"));
}

TEST(Run, TextOnStdoutNotesOnStderrAndNoProgressInAPipe) {
  const ProcessResult result = RunCachette(RunArguments({"-p", std::string(2000, 'b'), "-n", "20", "--ignore-eos"}));
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.err, Not(HasSubstr("\r")));
  EXPECT_THAT(result.err, Not(HasSubstr("reading")));
  const std::string first_line = result.err.substr(0, result.err.find('\n'));
  for (const char* part : {"synthetic:tiny", "backend ", "compute ", "kv f16", "recipe full"})
    EXPECT_THAT(first_line, HasSubstr(part));
  for (const char* part : {"2000 tokens", "20 tokens", "footprint 1.000", "peak 1.000", "KiB now", "max_new_tokens"})
    EXPECT_THAT(result.err, HasSubstr(part));
  const json out = RunJson({"-p", std::string(2000, 'b'), "-n", "20", "--ignore-eos"});
  EXPECT_EQ(result.out, out["text"].get<std::string>() + (result.out.ends_with("\n\n") ? "" : "\n"));
}

TEST(Run, ProgressOnATerminal) {
  ProcessOptions terminal;
  terminal.is_stderr_terminal = true;
  const ProcessResult result =
      RunCachette(RunArguments({"-p", std::string(3000, 'b'), "-n", "2", "--ignore-eos"}), terminal);
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.err, HasSubstr("reading"));
  EXPECT_THAT(result.err, HasSubstr("512/3000 tokens"));
  EXPECT_THAT(result.err, HasSubstr("tokens/s"));
  EXPECT_THAT(result.err, HasSubstr(" left"));
  EXPECT_THAT(result.out, Not(HasSubstr("reading")));
}

TEST(Run, QuietPrintsTheAnswerOnly) {
  const ProcessResult result = RunCachette(RunArguments({"-p", "x", "-n", "3", "--ignore-eos", "-q"}));
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.err, "");
}

TEST(Run, DocumentThenBlankLineThenQuestion) {
  const TempFolder folder;
  const std::string document = folder.Write("doc.txt", "a document\n");
  const std::string whole = "a document\n\nand a question";
  const auto tokens = [](const std::vector<std::string>& arguments, const std::string& input = "") {
    std::vector<std::string> all = arguments;
    all.insert(all.end(), {"-n", "8", "--ignore-eos"});
    ProcessOptions options;
    options.standard_input = input;
    const json out = RunJson(all, options);
    return std::pair<json, json>(out["prompt_tokens"], out["text"]);
  };
  const auto expected = tokens({"-p", whole});
  EXPECT_EQ(expected.first, whole.size());
  EXPECT_EQ(tokens({"-f", document, "-p", "and a question"}), expected);
  EXPECT_EQ(tokens({"-f", "-", "-p", "and a question"}, "a document\n"), expected);
  EXPECT_EQ(tokens({"-", "-p", "and a question"}, "a document\n"), expected);
  EXPECT_EQ(tokens({"-f", document, "-p", "-"}, "and a question"), expected);
  EXPECT_EQ(tokens({"-p", "-"}, whole), expected);
  const std::string second = folder.Write("second.txt", "and a question");
  EXPECT_EQ(tokens({"-f", document, "-f", second}), expected);
}

TEST(Run, RefusesBadInput) {
  const TempFolder folder;
  const std::string invalid = folder.Write("invalid.txt", "good \xff bad");
  const std::string empty = folder.Write("empty.txt", "");
  const struct {
    std::vector<std::string> arguments;
    const char* part;
  } cases[] = {
      {{}, "the prompt is empty"},
      {{"-p", ""}, "the prompt is empty"},
      {{"-f", empty}, "the prompt is empty"},
      {{"-f", folder / "missing.txt"}, "missing.txt cannot be read: No such file or directory"},
      {{"-f", "/tmp"}, "/tmp is a folder"},
      {{"-f", invalid}, "invalid.txt is not valid UTF-8 at byte 5 (0xff)"},
      {{"-p", "cut \xe2\x82"}, "the prompt is not valid UTF-8 at byte 4"},
      {{"-f", "-", "-"}, "asked for twice"},
      {{"-p", "x", "--model", folder / "no.gguf"}, "no.gguf does not exist"},
      {{"-p", "x", "--model", "synthetic:tinny"}, "did you mean 'tiny'?"},
      {{"-p", "x", "--model", invalid}, "invalid.txt"},
      {{"-p", "x", "--recipe", "streming"}, "did you mean 'streaming'?"},
      {{"-p", "x", "--recipe", "full", "--sinks", "4"}, "recipe full has no option"},
      {{"-p", "x", "--recipe", "full", "--budget", "64"}, "takes no budget"},
      {{"-p", "x", "--recipe", "streaming", "--budget", "5"}, "budget 5 entries < 4 sinks + 1 recent"},
      {{"-p", "x", "--recipe", "streaming", "--budget", "-1"}, "budget -1 entries"},
      {{"-p", "x", "--backend", "axv2"}, "did you mean 'avx2'?"},
      {{"-p", "x", "--kv-dtype", "int4"}, "kv_dtype is int4"},
      {{"-p", "x", "--prefill-chunk", "0"}, "prefill_chunk is 0"},
      {{"-p", "x", "--temperature", "-1"}, "temperature is -1"},
      {{"-p", "x", "--rope-scale", "0.5"}, "rope_scale is 0.5"},
      {{"-p", std::string(40000, 'x')}, "--rope-scale 1.3"},
      {{"-p", "x", "--system", "be brief"}, "--system needs a chat template"},
      {{"-p", "x", "--lora", folder / "no.safetensors"}, "no.safetensors"},
      {{"--chat", "-"}, "--chat reads your messages from standard input"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.part);
    std::vector<std::string> arguments = c.arguments;
    arguments.push_back("-q");
    ExpectComplaint(RunCachette(RunArguments(arguments)), 1, c.part);
  }
}

TEST(Run, RefusesMasksOfTheWrongShape) {
  const TempFolder folder;
  const struct {
    const char* text;
    const char* part;
  } cases[] = {
      {"1 0\n", "has 1 lines; this model has 2 layers"},
      {"1 0 1\n0 0 1\n", "a line of 3 numbers; this model has 2 KV heads"},
      {"1 0\n0 zero\n", "line 2: 'zero' is not a number in [0, 1]"},
      {"", "has 0 lines"},
  };
  for (const auto& c : cases) {
    const std::string mask = folder.Write("mask.txt", c.text);
    ExpectComplaint(RunCachette(RunArguments({"-p", "x", "-q", "--recipe", "heads", "--mask-file", mask})), 1, c.part);
  }
  ExpectComplaint(RunCachette(RunArguments({"-p", "x", "-q", "--recipe", "heads"})), 1, "--allocator.mask-file");
}

TEST(Run, PromptLargerThanItsMemory) {
  ExpectComplaint(RunCachette(RunArguments({"-q", "-p", std::string(5000, 'x'), "--kv-bytes", "64K"})), 1,
                  "raise --fast-kv-bytes");
  // The same prompt passes with a recipe that evicts: 4 streams x (66 + 32 entries, in blocks of 16) x 64 bytes.
  const json out = RunJson({"-p", std::string(5000, 'x'), "--kv-bytes", "64K", "--recipe", "streaming", "--budget",
                            "66", "--prefill-chunk", "32", "-n", "4", "--ignore-eos"});
  EXPECT_EQ(out["options"]["fast_kv_bytes"], 65536);
  EXPECT_LE(out["tiers"]["host"]["bytes_peak"], 65536);
}

TEST(Run, AFractionThatKeepsNothingOfAChunkIsRefused) {
  const auto knorm = [](const std::string& chunk) {
    return RunArguments({"-q", "-p", std::string(40, 'x'), "-n", "1", "--recipe", "knorm", "--keep-fraction", "0.1",
                         "--trigger.prefill", "chunked", "--prefill-chunk", chunk});
  };
  ExpectComplaint(RunCachette(knorm("5")), 1, "keep_fraction 0.1 of a prefill chunk of 5 tokens rounds to no entry");
  EXPECT_EQ(RunCachette(knorm("6")).exit_code, 0);
}

TEST(Run, SizesHaveUnits) {
  const std::map<std::string, int64_t> sizes = {
      {"4096", 4096}, {"64K", 65536}, {"1.5M", 1572864}, {"2GiB", int64_t{2} << 30}, {"1mb", 1048576}};
  for (const auto& [text, bytes] : sizes)
    EXPECT_EQ(RunJson({"-p", "x", "-n", "1", "--kv-bytes", text, "--recipe", "full"})["options"]["fast_kv_bytes"],
              bytes);
  for (const char* text : {"3X", "MM", "-1K", "K", "1e99"})
    ExpectComplaint(RunCachette(RunArguments({"-p", "x", std::string("--fast-kv-bytes=") + text})), 2,
                    "is not a size such");
}

TEST(Run, RopeScaleStretchesTheContext) {
  const json out = RunJson({"-p", std::string(40000, 'x'), "--rope-scale", "1.4", "-n", "1", "--recipe", "streaming",
                            "--budget", "64", "--ignore-eos"});
  EXPECT_EQ(out["prompt_tokens"], 40000);
}

TEST(Run, InterruptPrintsPartialJsonAndExits130) {
  ProcessOptions interrupt;
  interrupt.interrupt_after_ms = 300;
  const ProcessResult result = RunCachette(RunArguments({"-p", "x", "--ignore-eos", "-n", "100000000", "--recipe",
                                                         "streaming", "--positions", "cache", "--json"}),
                                           interrupt);
  EXPECT_EQ(result.exit_code, 130);
  EXPECT_EQ(result.err, "");
  const json out = json::parse(result.out, nullptr, false);
  ASSERT_FALSE(out.is_discarded()) << result.out;
  EXPECT_EQ(out["stop"], "cancelled");
  EXPECT_GT(out["generated_tokens"], 0);
  EXPECT_LT(out["generated_tokens"], 100000000);
  EXPECT_EQ(out["session_tokens"], 1 + out["generated_tokens"].get<int64_t>());
  ExpectClosedForm(out, 1.0);  // the account is whole, wherever it stopped
}

TEST(Run, InterruptPrintsPartialStatistics) {
  ProcessOptions interrupt;
  interrupt.interrupt_after_ms = 100;
  const ProcessResult result = RunCachette(
      RunArguments({"-p", "x", "--ignore-eos", "-n", "100000000", "--recipe", "streaming", "--positions", "cache"}),
      interrupt);
  EXPECT_EQ(result.exit_code, 130);
  EXPECT_THAT(result.err, HasSubstr("stopped: cancelled"));
  EXPECT_THAT(result.err, HasSubstr("footprint"));
}

TEST(Run, InterruptDuringPrefill) {
  ProcessOptions interrupt;
  interrupt.interrupt_after_ms = 0;
  const ProcessResult result = RunCachette(
      RunArguments({"-p", std::string(30000, 'x'), "--prefill-chunk", "1", "--backend", "ref", "--json"}), interrupt);
  EXPECT_EQ(result.exit_code, 130);
  const json out = json::parse(result.out, nullptr, false);
  ASSERT_FALSE(out.is_discarded()) << result.out;
  EXPECT_EQ(out["stop"], "cancelled");
  EXPECT_LT(out["prompt_tokens"], 30000);
  EXPECT_EQ(out["generated_tokens"], 0);
  for (const char* field : {"ttft_s", "tpot_s", "decode_tokens_per_s"}) EXPECT_TRUE(out[field].is_null()) << field;
}

TEST(Run, ChatKeepsOneSession) {
  ProcessOptions options;
  options.standard_input = "first\nsecond turn\n\n/exit\nnever read\n";
  const ProcessResult result = RunCachette(RunArguments({"--chat", "--json", "-n", "6", "--ignore-eos"}), options);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  std::vector<json> answers;
  std::istringstream lines(result.out);
  for (std::string line; std::getline(lines, line);) answers.push_back(json::parse(line));
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_EQ(answers[0]["prompt_tokens"], 5);
  EXPECT_EQ(answers[0]["session_tokens"], 5 + 6);
  EXPECT_EQ(answers[1]["prompt_tokens"], 11);  // the new turn only
  EXPECT_EQ(answers[1]["session_tokens"], 5 + 6 + 11 + 6);
}

TEST(Run, ChatTakesADocumentAndShowsStatistics) {
  const TempFolder folder;
  const std::string document = folder.Write("doc.txt", "0123456789");
  ProcessOptions options;
  options.standard_input = "question\n/stats\nbad \xff line\nagain";
  const ProcessResult result =
      RunCachette(RunArguments({"--chat", "-f", document, "-n", "2", "--ignore-eos"}), options);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("prompt     20 tokens"));  // 10 + blank line + 8
  EXPECT_THAT(result.err, HasSubstr("the message is not valid UTF-8 at byte 4"));
}

TEST(Run, SuggestsTheNearestOption) {
  ExpectComplaint(RunCachette(RunArguments({"--promt", "x"})), 2, "unknown option '--promt'; did you mean '--prompt'?");
  ExpectComplaint(RunCachette(RunArguments({"-p", "x", "--protect.sink=3"})), 2, "did you mean '--protect.sinks'?");
  ExpectComplaint(RunCachette(RunArguments({"-p", "x", "--zzzzzzzzzzzzz"})), 2, "unknown option '--zzzzzzzzzzzzz' (");
  ExpectComplaint(RunCachette(RunArguments({"-p"})), 2, "option --prompt needs a value");
  ExpectComplaint(RunCachette(RunArguments({"-p", "x", "--seed", "many"})), 2, "'many' is not a whole number");
  ExpectComplaint(RunCachette(RunArguments({"-p", "x", "--sinks", "few"})), 2, "'few' is not a whole number");
  ExpectComplaint(RunCachette(RunArguments({"-p", "x", "stray"})), 2, "unexpected argument 'stray'");
  ExpectComplaint(RunCachette({"rum"}), 2, "unknown command 'rum'; did you mean 'run'?");
  ExpectComplaint(RunCachette({}), 2, "a command is missing");
}

TEST(RunRealModel, AnswersAndNamesItsFile) {
  const ProcessResult result = RunCachette({"run", "--raw", "-p", "The capital of France is", "-n", "3", "--json",
                                            "--model", CACHETTE_MODELS_DIR "/SmolLM2-135M-Instruct.Q4_1.gguf"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json out = json::parse(result.out);
  EXPECT_THAT(out["text"].get<std::string>(), HasSubstr(" Paris."));
  EXPECT_EQ(out["model"]["sha256"], "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53");
  // Resident: weights file + KV + 150 MiB.
  EXPECT_LE(out["peak_resident_bytes"],
            98 * 1048576 + out["tiers"]["host"]["bytes_peak"].get<int64_t>() + 150 * 1048576);
}

TEST(RunRealModel, StopsAtTheEndOfItsTurn) {
  const ProcessResult result = RunCachette({"run", "-p", "Say hello.", "-n", "400", "--json", "--model",
                                            CACHETTE_MODELS_DIR "/SmolLM2-135M-Instruct.Q4_1.gguf"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json out = json::parse(result.out);
  EXPECT_EQ(out["stop"], "end_token");
  EXPECT_THAT(out["text"].get<std::string>(), Not(HasSubstr("<|im_end|>")));
}

TEST(RunRealModel, ChatPrefillsOnlyTheNewTurn) {
  ProcessOptions options;
  options.standard_input = "My name is Ada.\nWhat is my name?\n";
  const ProcessResult result = RunCachette(
      {"run", "--chat", "--json", "-n", "48", "--model", CACHETTE_MODELS_DIR "/SmolLM2-135M-Instruct.Q4_1.gguf"},
      options);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  std::istringstream lines(result.out);
  std::string first, second;
  std::getline(lines, first);
  std::getline(lines, second);
  EXPECT_GT(json::parse(first)["prompt_tokens"], 30);   // with the template's own system message
  EXPECT_LT(json::parse(second)["prompt_tokens"], 20);  // without
}

}  // namespace
}  // namespace cachette
