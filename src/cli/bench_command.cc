// cachette bench: speed of a model (llm) and of the machine under it (machine).

#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/flags.h"
#include "cli/interrupt.h"
#include "cli/print_json.h"
#include "engine/llm_bench.h"
#include "engine/machine_bench.h"
#include "engine/report.h"
#include "tensor/backend.h"

namespace cachette::cli {
namespace {

using Json = nlohmann::ordered_json;

struct LlmArguments {
  EngineOptions engine;
  LlmBenchOptions bench;
  RecipeChoice recipe;
  std::vector<int64_t> prompt_tokens = {512};
  std::vector<int64_t> depths = {0};
  bool is_json = false;
};

Json ToJson(const LlmBenchTest& test) {
  const std::vector<double> sorted = test.TokensPerS();
  std::vector<double> rates;  // in order of the runs
  for (const double s : test.seconds) rates.push_back(static_cast<double>(test.num_tokens) / s);
  return {{"test", test.name},
          {"tokens", test.num_tokens},
          {"depth", test.depth},
          {"tokens_per_s", test.MedianTokensPerS()},
          {"min", sorted.front()},
          {"max", sorted.back()},
          {"runs", rates},
          {"seconds", test.seconds},
          {"start_depths", test.start_depths}};
}

void PrintTest(const LlmBenchTest& test) {
  const std::vector<double> sorted = test.TokensPerS();
  fmt::print("{:<16}{:>12.1f}{:>12.1f}{:>12.1f}{:>6}\n", test.name, test.MedianTokensPerS(), sorted.front(),
             sorted.back(), sorted.size());
  std::fflush(stdout);
}

Result<int> BenchLlm(const LlmArguments& arguments) {
  CACHETTE_TRY(const std::unique_ptr<Engine> engine, Engine::Load(arguments.engine));
  CACHETTE_TRY(const std::shared_ptr<const Recipe> recipe,
               engine->MakeRecipe(arguments.recipe.name, arguments.recipe.options));
  if (!arguments.is_json) fmt::print(stderr, "cachette: {}\n", DescribeRun(*engine, *recipe));
  bool has_header = false;
  const std::atomic<bool>& cancel = WatchInterrupt();
  const Result<std::vector<LlmBenchTest>> tests = RunLlmBench(
      *engine, recipe, arguments.prompt_tokens, arguments.depths, arguments.bench,
      [&](const LlmBenchTest& test) {
        if (arguments.is_json) return;
        if (!has_header) fmt::print("{:<16}{:>12}{:>12}{:>12}{:>6}\n", "test", "tokens/s", "min", "max", "runs");
        has_header = true;
        PrintTest(test);
      },
      &cancel);
  if (!tests.ok()) {
    if (tests.failure().error != Error::kCancelled) return tests.failure();
    fmt::print(stderr, "cachette: {}\n", tests.failure().message);
    return kInterrupted;
  }
  if (!arguments.is_json) return 0;
  GenerateOptions chunked;
  chunked.prefill_chunk = arguments.bench.prefill_chunk;
  Json shared;
  CACHETTE_TRY(shared["model"], ModelJson(*engine));
  shared["recipe"] = recipe->row().name;
  shared["options"] = OptionsJson(*engine, *recipe, chunked);
  for (const char* unused :
       {"max_new_tokens", "ignore_eos", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"})
    shared["options"].erase(unused);  // nothing is sampled
  shared["options"]["repetitions"] = arguments.bench.repetitions;
  shared["options"]["reuse_prefill"] = arguments.bench.reuse_prefill;
  shared["machine"] = MachineJson(DescribeMachine());
  shared["build"] = BuildJson();
  Json list = Json::array();
  for (const LlmBenchTest& test : *tests) {
    Json entry = ToJson(test);
    entry.update(shared);
    list.push_back(std::move(entry));
  }
  PrintJson(list);
  return 0;
}

void AddList(CLI::App& app, const std::string& names, const char* flag, std::vector<int64_t>& list, const char* help) {
  app.add_option_function<std::string>(
         names, [&list, flag](const std::string& text) { list = OrRefuse(ParseNumbers(flag, text)); }, help)
      ->type_name("N,...")
      ->default_str(fmt::format("{}", fmt::join(list, ",")))
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)
      ->group("Tests");
}

void AddBenchLlm(CLI::App& bench, Command& chosen) {
  const auto arguments = std::make_shared<LlmArguments>();
  CLI::App* app = bench.add_subcommand("llm", "tokens per second of prefill and decode");
  AddList(*app, "-p,--prompt-tokens", "-p", arguments->prompt_tokens, "prefill tests of so many tokens; 0: none");
  AddList(*app, "-d,--depths", "-d", arguments->depths, "decode tests after so many tokens");
  AddFlags(*app, arguments->bench, "Tests", {{"decode_tokens", "-n"}, {"repetitions", "-r"}});
  app->add_flag("--json", arguments->is_json, "print a JSON array with one object for each test")->group("Tests");
  AddRecipeFlags(*app, arguments->recipe);
  AddEngineFlags(*app, arguments->engine);
  app->callback([arguments, &chosen] { chosen = [arguments] { return BenchLlm(*arguments); }; });
}

Json ToJson(const MachineBench& bench) {
  Json out;
  out["machine"] = MachineJson(bench.machine);
  out["threads"] = bench.threads;
  out["read_gb_per_s"] = bench.read_gbps;
  out["read_bytes"] = bench.read_bytes;
  out["gemm"] = Json::array();
  for (const GemmRate& gemm : bench.gemms)
    out["gemm"].push_back(
        {{"dtype", gemm.dtype}, {"gflops", gemm.gflops}, {"m", gemm.m}, {"n", gemm.n}, {"k", gemm.k}});
  out["backends"] = Json::array();
  for (const Backend& backend : AllBackends())
    out["backends"].push_back({{"name", backend.name}, {"is_supported", backend.is_supported}});
  out["build"] = BuildJson();
  return out;
}

void Print(const MachineBench& bench) {
  fmt::print("{:<12}{}, {} cores, {} of memory\n", "machine", bench.machine.cpu, bench.machine.available_cores,
             HumanBytes(bench.machine.memory_bytes));
  fmt::print("{:<12}{:.1f} GB/s streaming {} with {} threads\n", "read", bench.read_gbps, HumanBytes(bench.read_bytes),
             bench.threads);
  for (const GemmRate& gemm : bench.gemms)
    fmt::print("{:<12}{:.0f} GFLOP/s in tiles of {} x {} x {} (m, n, k), as prefill runs them\n", "GEMM " + gemm.dtype,
               gemm.gflops, gemm.m, gemm.n, gemm.k);
  std::string names;
  for (const Backend& backend : AllBackends())
    if (backend.is_supported) names += fmt::format("{}{}", names.empty() ? "" : ", ", backend.name);
  fmt::print("{:<12}{}\n", "backends", names);
}

void AddBenchMachine(CLI::App& bench, Command& chosen) {
  struct Arguments {
    int64_t threads = 0;
    bool is_json = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* app = bench.add_subcommand("machine", "memory bandwidth and GEMM rate of this machine, for rooflines");
  AddFlag(*app, "-t,--threads", {"threads", arguments->threads, "threads; 0: one per available core"}, "Options",
          [arguments](const OptionValue& value) { arguments->threads = std::get<int64_t>(value); });
  app->add_flag("--json", arguments->is_json, "print one JSON object");
  app->callback([arguments, &chosen] {
    chosen = [arguments]() -> Result<int> {
      EngineOptions options;
      options.threads = arguments->threads;
      CACHETTE_TRY(Validate(options));
      const MachineBench result = MeasureMachine(static_cast<int>(options.threads));
      if (arguments->is_json) {
        PrintJson(ToJson(result));
      } else {
        Print(result);
      }
      return 0;
    };
  });
}

}  // namespace

void AddBench(CLI::App& root, Command& chosen) {
  CLI::App* bench = root.add_subcommand("bench", "measure a model or this machine");
  bench->require_subcommand(1);
  AddBenchLlm(*bench, chosen);
  AddBenchMachine(*bench, chosen);
}

}  // namespace cachette::cli
