// cachette eval: how well a recipe keeps what the model knew of its context, at which footprint.

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/flags.h"
#include "cli/input.h"
#include "cli/interrupt.h"
#include "cli/print_json.h"
#include "cli/progress.h"
#include "engine/inspect.h"
#include "engine/load_tokenizer.h"
#include "engine/report.h"
#include "eval/report.h"
#include "eval/samples.h"

namespace cachette::cli {
namespace {

using Json = nlohmann::ordered_json;

struct EvalArguments {
  EngineOptions engine;
  EvalOptions eval;
  FidelityOptions fidelity;
  RecipeChoice recipe;
  std::string fidelity_file;
  std::string records_file;
  std::string samples_file;
  std::string task_flag;  // one that only tasks have a use for, as given
  bool has_tasks = false;
  bool is_json = false;
  bool is_quiet = false;

  bool runs_tasks() const { return has_tasks || fidelity_file.empty(); }
};

// A line for each answer or sample as it comes, so that an interrupted run leaves what it did. What the file held
// before goes with the first line, not with arguments that are refused.
class LinesFile {
 public:
  LinesFile() = default;
  LinesFile(const LinesFile&) = delete;
  LinesFile& operator=(const LinesFile&) = delete;
  ~LinesFile() {
    if (file_ != nullptr) std::fclose(file_);
  }

  Result<void> Open(const std::string& path) {
    path_ = path;
    file_ = std::fopen(path.c_str(), "a");
    if (file_ == nullptr) return Fail(Error::kIo, fmt::format("cannot write {}: {}", path, std::strerror(errno)));
    return Ok();
  }
  void Write(const Json& object) {
    if (file_ == nullptr) return;
    if (!has_begun_) has_failed_ |= ftruncate(fileno(file_), 0) != 0 && errno != EINVAL;  // a pipe has nothing to lose
    has_begun_ = true;
    const std::string line = object.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    has_failed_ |= std::fwrite(line.data(), 1, line.size(), file_) != line.size() || std::fflush(file_) != 0;
  }
  Result<void> Check() const {
    if (has_failed_) return Fail(Error::kIo, fmt::format("not all lines could be written to {}", path_));
    return Ok();
  }

 private:
  std::string path_;
  std::FILE* file_ = nullptr;
  bool has_begun_ = false;
  bool has_failed_ = false;
};

// A line on a terminal that follows the answers.
class AnswerProgress {
 public:
  explicit AnswerProgress(bool is_wanted) : is_on_(is_wanted && isatty(STDERR_FILENO) == 1) {}
  ~AnswerProgress() { Clear(); }

  void Update(const AnswerRecord& record, int64_t num_done, int64_t num_total) {
    num_answers_ = record.task == task_ && record.length == length_ ? num_answers_ + 1 : 1;
    num_exact_ = num_answers_ == 1 ? record.exact : num_exact_ + record.exact;
    task_ = record.task;
    length_ = record.length;
    if (!is_on_) return;
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    fmt::print(stderr, "\r\033[K{}/{} answers, {} at {}: {:.0f} of {} exact, {:.0f} s", num_done, num_total,
               task_->name, length_, num_exact_, num_answers_, seconds);
    std::fflush(stderr);
  }
  void Clear() {
    if (is_on_) fmt::print(stderr, "\r\033[K");
  }

 private:
  bool is_on_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  const Task* task_ = nullptr;
  int64_t length_ = 0;
  int64_t num_answers_ = 0;  // of this task and length
  double num_exact_ = 0;
};

// One evaluation; parts of the summary come together in json_.
class Eval {
 public:
  explicit Eval(const EvalArguments& arguments) : arguments_(arguments) {}

  Result<int> Run();

 private:
  Result<void> RunTasks();
  Result<void> RunFidelity(const std::string& text);
  void Print(const std::string& text) const {
    if (arguments_.is_json) return;
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }

  const EvalArguments& arguments_;
  std::unique_ptr<Engine> engine_;
  std::shared_ptr<const Recipe> recipe_;
  Json json_;
  bool is_cancelled_ = false;
};

Result<void> Eval::RunTasks() {
  LinesFile records;
  if (!arguments_.records_file.empty()) CACHETTE_TRY(records.Open(arguments_.records_file));
  AnswerProgress progress(!arguments_.is_quiet);
  EvalCallbacks callbacks;
  callbacks.cancel = &WatchInterrupt();
  callbacks.on_answer = [&](const AnswerRecord& record, int64_t num_done, int64_t num_total) {
    progress.Update(record, num_done, num_total);
    records.Write(RecordJson(record, arguments_.eval));
  };
  CACHETTE_TRY(const EvalResult result, RunEval(*engine_, recipe_, arguments_.eval, callbacks));
  progress.Clear();
  CACHETTE_TRY(records.Check());
  is_cancelled_ = result.is_cancelled;
  const Json totals = TotalsJson(result.records);
  json_["protocol"] = arguments_.eval.protocol;
  json_["reply"] = arguments_.eval.reply;
  json_["tasks"] = TasksJson(result.records);
  for (const char* field : {"answers", "footprint", "peak", "retrieval", "timings"})
    json_[field] = totals.value(field, Json());
  json_["seconds"] = result.seconds;
  Print(TasksTable(result.records));
  return Ok();
}

Result<void> Eval::RunFidelity(const std::string& text) {
  Progress progress(!arguments_.is_quiet);
  GenerateCallbacks callbacks;
  callbacks.cancel = &WatchInterrupt();
  callbacks.on_prefill = [&, is_started = false](int64_t num_done, int64_t num_total) mutable {
    if (!is_started) progress.Start(num_total);
    is_started = true;
    progress.Update(num_done, num_total);
  };
  CACHETTE_TRY(const Fidelity fidelity,
               MeasureFidelity(*engine_, recipe_, text, arguments_.fidelity, arguments_.eval.prefill_chunk, callbacks));
  progress.Clear();
  is_cancelled_ |= fidelity.is_cancelled;
  json_["fidelity"] = FidelityJson(fidelity);
  json_["fidelity"]["file"] = arguments_.fidelity_file;
  if (!arguments_.runs_tasks()) {
    json_["footprint"] = fidelity.footprint;
    json_["peak"] = fidelity.peak;
  }
  Print(FidelityText(fidelity));
  return Ok();
}

Result<int> Eval::Run() {
  if (!arguments_.runs_tasks() && !arguments_.task_flag.empty())
    return Fail(Error::kInvalidArgument,
                fmt::format("{} belongs to tasks, and --fidelity alone runs none; leave it out or name --tasks too",
                            arguments_.task_flag));
  CACHETTE_TRY(Validate(arguments_.eval));
  std::string text;
  if (!arguments_.fidelity_file.empty()) {
    CACHETTE_TRY(text, ReadText(arguments_.fidelity_file));
  }
  CACHETTE_TRY(engine_, Engine::Load(arguments_.engine));
  CACHETTE_TRY(recipe_, engine_->MakeRecipe(arguments_.recipe.name, arguments_.recipe.options));
  if (!arguments_.is_json && !arguments_.is_quiet)
    fmt::print(stderr, "cachette: {}\n", DescribeRun(*engine_, *recipe_));
  if (arguments_.runs_tasks()) CACHETTE_TRY(RunTasks());
  if (!arguments_.fidelity_file.empty() && !is_cancelled_) CACHETTE_TRY(RunFidelity(text));
  json_["is_complete"] = !is_cancelled_;
  if (arguments_.is_json) {
    json_["recipe"] = recipe_->row().name;
    json_["options"] = EvalOptionsJson(*engine_, *recipe_, arguments_.eval);
    if (!arguments_.fidelity_file.empty()) {
      json_["options"]["text_tokens"] = arguments_.fidelity.text_tokens;
      json_["options"]["decode_tokens"] = arguments_.fidelity.decode_tokens;
    }
    CACHETTE_TRY(json_["model"], ModelJson(*engine_));
    json_["machine"] = MachineJson(DescribeMachine());
    json_["build"] = BuildJson();
    json_["tiers"] = TiersJson(*engine_);
    json_["peak_resident_bytes"] = PeakResidentBytes();
    PrintJson(json_);
  }
  return is_cancelled_ ? kInterrupted : 0;
}

// --write-samples: needs the model's tokenizer and context, not its weights.
Result<int> WriteSamples(const EvalArguments& arguments) {
  if (!arguments.fidelity_file.empty() || !arguments.records_file.empty())
    return Fail(Error::kInvalidArgument,
                "--write-samples asks no model; leave out --fidelity and --records, or write the samples in a run of "
                "their own");
  CACHETTE_TRY(Validate(arguments.eval));
  CACHETTE_TRY(const ModelFile file, OpenModelFile(arguments.engine));
  CACHETTE_TRY(const Tokenizer tokenizer, LoadTokenizer(*file.checkpoint));
  LinesFile lines;
  CACHETTE_TRY(lines.Open(arguments.samples_file));
  const std::atomic<bool>& is_cancelled = WatchInterrupt();
  int64_t num_samples = 0, num_questions = 0, num_tokens = 0;
  const auto write = [&](const NamedSample& named) -> Result<bool> {
    CACHETTE_TRY(const Json line, SampleJson(named, tokenizer));
    lines.Write(line);
    CACHETTE_TRY(lines.Check());
    ++num_samples;
    num_tokens += static_cast<int64_t>(named.sample.context.size());
    for (const Json& question : line["questions"]) {
      ++num_questions;
      num_tokens += static_cast<int64_t>(question["question_tokens"].size() + question["answer_tokens"].size());
    }
    return !is_cancelled.load(std::memory_order_relaxed);
  };
  CACHETTE_TRY(ForEachSample(tokenizer, file.checkpoint->config().context_tokens, arguments.engine.rope_scale,
                             arguments.eval, write));
  if (arguments.is_json) {
    PrintJson({{"samples", num_samples},
               {"questions", num_questions},
               {"tokens", num_tokens},
               {"is_complete", !is_cancelled.load()}});
  } else if (!arguments.is_quiet) {
    fmt::print(stderr, "cachette: {} samples, {} questions, {} tokens in {}\n", num_samples, num_questions, num_tokens,
               arguments.samples_file);
  }
  return is_cancelled.load() ? kInterrupted : 0;
}

std::vector<std::string> SplitNames(const std::string& text) {
  std::vector<std::string> names;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    if (end > begin) names.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return names;
}

}  // namespace

void AddEval(CLI::App& root, Command& chosen) {
  const auto arguments = std::make_shared<EvalArguments>();
  CLI::App* app = root.add_subcommand("eval", "measure what a recipe keeps: tasks with known answers, and fidelity");
  const char* const group = "Tasks";
  std::string names;
  for (const Task& task : AllTasks()) names += fmt::format("{}{}", names.empty() ? "" : ", ", task.name);
  app->add_option_function<std::string>(
         "--tasks",
         [arguments](const std::string& text) {
           arguments->eval.tasks = SplitNames(text);
           arguments->has_tasks = true;
         },
         "families of " + names)
      ->type_name("NAME,...")
      ->default_str(fmt::format("{}", fmt::join(arguments->eval.tasks, ",")))
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)
      ->group(group);
  app->add_option_function<std::string>(
         "--lengths",
         [arguments](const std::string& text) { arguments->eval.lengths = OrRefuse(ParseNumbers("--lengths", text)); },
         "tokens of a prompt (of prompt and reply for walk and niah_*)")
      ->type_name("N,...")
      ->default_str(fmt::format("{}", fmt::join(arguments->eval.lengths, ",")))
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)
      ->group(group);
  AddFlags(*app, arguments->eval, group);
  app->add_option("--records", arguments->records_file, "write every answer as a line of JSON to this file")
      ->type_name("FILE")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)
      ->group(group);
  app->add_option("--write-samples", arguments->samples_file,
                  "write the samples as tokens, a line of JSON each, to this file and ask no model")
      ->type_name("FILE")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)
      ->group(group);
  const char* const fidelity_group = "Fidelity";
  app->add_option("--fidelity", arguments->fidelity_file,
                  "compare the recipe's predictions with the full cache's on this text, '-' for standard input")
      ->type_name("FILE")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)
      ->group(fidelity_group);
  AddFlags(*app, arguments->fidelity, fidelity_group);
  app->add_flag("--json", arguments->is_json, "print one JSON object")->group("Output");
  app->add_flag("-q,--quiet", arguments->is_quiet, "print the results and nothing else")->group("Output");
  AddRecipeFlags(*app, arguments->recipe);
  AddEngineFlags(*app, arguments->engine);
  app->callback([arguments, app, &chosen] {
    for (const char* flag :
         {"--lengths", "--samples", "--questions", "--seed", "--protocol", "--reply", "--forced-tokens", "--records"})
      if (arguments->task_flag.empty() && app->get_option(flag)->count() > 0) arguments->task_flag = flag;
    chosen = [arguments] {
      return arguments->samples_file.empty() ? Eval(*arguments).Run() : WriteSamples(*arguments);
    };
  });
}

}  // namespace cachette::cli
