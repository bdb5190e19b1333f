// cachette run: one answer, or a conversation.

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/command.h"
#include "cli/flags.h"
#include "cli/input.h"
#include "cli/interrupt.h"
#include "cli/print_json.h"
#include "cli/progress.h"
#include "engine/chat.h"
#include "engine/report.h"
#include "engine/trace_file.h"
#include "eval/kept_map.h"
#include "eval/ledger_file.h"
#include "io/write_file.h"
#include "text/stream_decoder.h"

namespace cachette::cli {
namespace {

struct RunArguments {
  EngineOptions engine;
  GenerateOptions generate;
  RecipeChoice recipe;
  std::vector<std::string> files;
  std::string prompt;
  std::string system;
  std::string standard_input;  // "-" when it was named
  std::string ledger_file;     // "": none is written
  std::string explain_file;    // as ledger_file
  std::string trace_file;      // as ledger_file
  bool has_prompt = false;
  bool is_chat = false;
  bool is_raw = false;
  bool parses_special = false;
  bool is_json = false;
  bool is_quiet = false;

  bool shows_notes() const { return !is_json && !is_quiet; }
};

// Would a file at path fail only after a long answer?
Result<void> CheckWritable(const char* flag, const std::string& path) {
  namespace fs = std::filesystem;
  if (path == "-")
    return Fail(Error::kInvalidArgument, fmt::format("{}: '-' is standard input elsewhere; name a file", flag));
  if (const Result<void> replaceable = CheckReplaceable(path); !replaceable.ok())
    return Fail(replaceable.failure().error, fmt::format("{}: {}", flag, replaceable.failure().message));
  const fs::path folder = fs::path(path).has_parent_path() ? fs::path(path).parent_path() : fs::path(".");
  if (access(folder.c_str(), W_OK) == 0) return Ok();
  return Fail(Error::kIo, fmt::format("{}: {} cannot be written: {}", flag, path, std::strerror(errno)));
}

// A loaded model in conversation with this terminal.
class Run {
 public:
  explicit Run(const RunArguments& arguments) : arguments_(arguments) {}

  Result<int> Once();
  Result<int> Chat();

 private:
  Result<std::string> FirstMessage() const;
  Result<void> CheckRecordFiles() const;
  Result<void> Load();
  Result<RunReport> Answer(const std::string& message);
  Result<void> Print(const RunReport& report);
  Result<void> WriteRecords(const RunReport& report) const;
  Result<bool> Turn(const std::string& message);

  const RunArguments& arguments_;
  std::unique_ptr<Engine> engine_;
  const Tokenizer* tokenizer_ = nullptr;
  std::optional<ChatTemplate> chat_template_;
  std::unique_ptr<Session> session_;
  std::optional<Conversation> conversation_;
  bool has_answered_ = false;
  Generation last_;  // of /stats
};

// The documents, a blank line, the question; whichever of them are given.
Result<std::string> Run::FirstMessage() const {
  std::vector<std::string> files = arguments_.files;
  if (!arguments_.standard_input.empty()) files.push_back("-");
  std::string prompt = arguments_.prompt;
  if (prompt == "-") {
    files.push_back("-");  // for its check; the question is what standard input holds
    prompt.clear();
  }
  CACHETTE_TRY(std::string message, ReadTexts(files));
  CACHETTE_TRY(CheckUtf8(prompt, "the prompt"));
  CACHETTE_TRY(CheckUtf8(arguments_.system, "the system message"));
  if (!prompt.empty()) {
    if (!message.empty()) message += message.ends_with('\n') ? "\n" : "\n\n";
    message += prompt;
  }
  return message;
}

// Files to be written after the answer, refused before the model is loaded.
Result<void> Run::CheckRecordFiles() const {
  const std::pair<const char*, std::string> files[] = {
      {"--ledger", arguments_.ledger_file}, {"--explain", arguments_.explain_file}, {"--trace", arguments_.trace_file}};
  for (const auto& [flag, path] : files) {
    if (path.empty()) continue;
    CACHETTE_TRY(CheckWritable(flag, path));
    for (const auto& [other_flag, other_path] : files)
      if (std::string_view(flag) < other_flag && path == other_path)
        return Fail(Error::kInvalidArgument,
                    fmt::format("{} and {} name the same file {}; give each its own", other_flag, flag, path));
  }
  return Ok();
}

Result<void> Run::Load() {
  CACHETTE_TRY(Validate(arguments_.generate));
  CACHETTE_TRY(CheckRecordFiles());
  CACHETTE_TRY(engine_, Engine::Load(arguments_.engine));
  CACHETTE_TRY(const auto recipe, engine_->MakeRecipe(arguments_.recipe.name, arguments_.recipe.options));
  if (!arguments_.trace_file.empty() && !recipe->retrieves())
    return Fail(Error::kInvalidArgument,
                fmt::format("--trace records what is retrieved, and recipe {} retrieves nothing; leave --trace out or "
                            "choose a recipe such as louis+",
                            recipe->row().name));
  CACHETTE_TRY(tokenizer_, engine_->tokenizer());
  if (!arguments_.is_raw && !tokenizer_->chat_template().empty()) {
    Result<ChatTemplate> parsed = ChatTemplate::Parse(tokenizer_->chat_template());
    if (!parsed.ok())
      return Fail(parsed.failure().error, fmt::format("the model's chat template is not supported: {}; --raw sends the "
                                                      "text without it",
                                                      parsed.failure().message));
    chat_template_ = std::move(*parsed);
  }
  if (!chat_template_ && !arguments_.system.empty())
    return Fail(Error::kInvalidArgument,
                "--system needs a chat template, and none is in use; put the text into the prompt instead");
  if (chat_template_ && arguments_.parses_special)
    return Fail(Error::kInvalidArgument,
                "--parse-special needs --raw: with a chat template its own control tokens are the only ones");
  session_ = engine_->NewSession(recipe);
  if (!arguments_.ledger_file.empty()) session_->RecordLedger();
  if (!arguments_.trace_file.empty()) session_->TraceRetrieval();
  conversation_.emplace(*tokenizer_, chat_template_ ? &*chat_template_ : nullptr, arguments_.system,
                        arguments_.parses_special);
  if (arguments_.shows_notes()) fmt::print(stderr, "cachette: {}\n", DescribeRun(*engine_, *recipe));
  return Ok();
}

Result<RunReport> Run::Answer(const std::string& message) {
  RunReport report;
  Progress progress(!arguments_.is_quiet);
  StreamDecoder decoder(*tokenizer_);
  const auto show = [&](const std::string& text) {
    report.text += text;
    if (arguments_.is_json || text.empty()) return;
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  };
  GenerateCallbacks callbacks;
  callbacks.cancel = &WatchInterrupt();
  callbacks.on_prefill = [&](int64_t num_done, int64_t num_total) { progress.Update(num_done, num_total); };
  callbacks.on_token = [&](int32_t token) {
    progress.Clear();
    if (!has_answered_) {
      const auto now = std::chrono::steady_clock::now();
      report.startup_seconds = std::chrono::duration<double>(now - kProgramStart).count();
      has_answered_ = true;
    }
    show(decoder.Push(token));
  };
  CACHETTE_TRY(const std::vector<int32_t> tokens, conversation_->AddMessage(message));
  progress.Start(static_cast<int64_t>(tokens.size()));
  CACHETTE_TRY(report.generation, engine_->Generate(*session_, tokens, arguments_.generate, callbacks));
  progress.Clear();
  show(decoder.Finish());
  conversation_->TookAnswer(tokens, report.generation, report.text);
  return report;
}

Result<void> Run::Print(const RunReport& report) {
  if (arguments_.is_json) {
    CACHETTE_TRY(nlohmann::ordered_json json, ReportJson(*engine_, *session_, arguments_.generate, report));
    json["options"]["raw"] = arguments_.is_raw;
    json["options"]["parse_special"] = arguments_.parses_special;
    json["options"]["system"] = arguments_.system;
    json["options"]["ledger"] = arguments_.ledger_file;
    json["options"]["explain"] = arguments_.explain_file;
    json["options"]["trace"] = arguments_.trace_file;
    PrintJson(json, arguments_.is_chat ? JsonStyle::kOneLine : JsonStyle::kIndented);
    return Ok();
  }
  if (!report.text.ends_with('\n')) std::fputc('\n', stdout);
  std::fflush(stdout);
  last_ = report.generation;
  if (arguments_.shows_notes() && !arguments_.is_chat)
    fmt::print(stderr, "\n{}\n", SummaryText(*engine_, *session_, report.generation));
  return Ok();
}

// Of everything the session has seen.
Result<void> Run::WriteRecords(const RunReport& report) const {
  if (!arguments_.ledger_file.empty()) CACHETTE_TRY(WriteLedgerFile(arguments_.ledger_file, session_->cache()));
  if (!arguments_.trace_file.empty())
    CACHETTE_TRY(WriteTraceFile(arguments_.trace_file, *engine_, *session_, arguments_.generate,
                                report.generation.prompt_tokens));
  if (arguments_.explain_file.empty()) return Ok();
  const KeptMap map = MapOfKept(session_->cache());
  const std::string title = fmt::format("What {} keeps of {} tokens", session_->recipe().row().name, map.num_tokens);
  const std::string svg = KeptMapSvg(map, title);
  CACHETTE_TRY(WriteFile(arguments_.explain_file, std::as_bytes(std::span(svg))));
  if (arguments_.shows_notes()) fmt::print(stderr, "{}\n", KeptMapText(map));
  return Ok();
}

Result<int> Run::Once() {
  CACHETTE_TRY(const std::string message, FirstMessage());
  if (message.empty())
    return Fail(Error::kInvalidArgument, "the prompt is empty; give a question with -p, a document with -f, or both");
  CACHETTE_TRY(Load());
  CACHETTE_TRY(const RunReport report, Answer(message));
  CACHETTE_TRY(Print(report));
  CACHETTE_TRY(WriteRecords(report));
  return report.generation.stop == StopReason::kCancelled ? kInterrupted : 0;
}

// One message and its answer. False when the conversation is over: an error that every further turn would repeat.
Result<bool> Run::Turn(const std::string& message) {
  Result<RunReport> report = Answer(message);
  if (!report.ok()) {
    if (report.failure().error == Error::kOutOfMemory || !has_answered_) return report.failure();
    fmt::print(stderr, "cachette: {}\n", report.failure().message);
    return true;
  }
  CACHETTE_TRY(Print(*report));
  CACHETTE_TRY(WriteRecords(*report));
  return true;
}

Result<int> Run::Chat() {
  if (arguments_.prompt == "-" || !arguments_.standard_input.empty())
    return Fail(Error::kInvalidArgument, "--chat reads your messages from standard input; give the document with -f");
  CACHETTE_TRY(std::string first, FirstMessage());
  CACHETTE_TRY(Load());
  const bool is_terminal = isatty(STDIN_FILENO) == 1;
  if (is_terminal && arguments_.shows_notes())
    fmt::print(stderr, "/stats shows tokens, speed and memory, /exit or Ctrl-D ends, Ctrl-C stops an answer\n");
  // A document without a question waits for the first message.
  if (arguments_.has_prompt && !first.empty()) {
    CACHETTE_TRY(Turn(first));
    first.clear();
  }
  while (true) {
    if (is_terminal) fmt::print(stderr, "> ");
    const std::atomic<bool>& is_interrupted = WatchInterrupt();
    std::string line;
    char* buffer = nullptr;
    size_t capacity = 0;
    const ssize_t length = getline(&buffer, &capacity, stdin);
    if (length > 0) line.assign(buffer, static_cast<size_t>(length));
    std::free(buffer);
    if (is_interrupted) return kInterrupted;
    if (length < 0) break;
    if (line.ends_with('\n')) line.pop_back();
    if (line == "/exit") break;
    if (line == "/stats") {
      fmt::print(stderr, "{}\n", SummaryText(*engine_, *session_, last_));
      continue;
    }
    if (line.empty()) continue;
    if (const Result<void> valid = CheckUtf8(line, "the message"); !valid.ok()) {
      fmt::print(stderr, "cachette: {}\n", valid.failure().message);
      continue;
    }
    if (!first.empty()) line = first + (first.ends_with('\n') ? "\n" : "\n\n") + line;
    CACHETTE_TRY(Turn(line));
    first.clear();
  }
  if (is_terminal) fmt::print(stderr, "\n");
  return 0;
}

}  // namespace

void AddRun(CLI::App& root, Command& chosen) {
  const auto arguments = std::make_shared<RunArguments>();
  CLI::App* app = root.add_subcommand("run", "answer a question, about a document if one is given");
  const char* const group = "Input and output";
  app->add_option("-f,--file", arguments->files,
                  "document to read, '-' for standard input (again for each further one)")
      ->type_name("FILE")
      ->allow_extra_args(false)
      ->group(group);
  CLI::Option* prompt = app->add_option("-p,--prompt", arguments->prompt,
                                        "question; it follows the document after a blank line; '-' for standard input");
  prompt->type_name("TEXT")->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)->group(group);
  app->add_option("INPUT", arguments->standard_input, "'-': the document is read from standard input")->group(group);
  app->add_flag("--chat", arguments->is_chat, "converse: one line, one answer; the cache keeps what was said")
      ->group(group);
  app->add_option("--system", arguments->system, "system message for the model's chat template")
      ->type_name("TEXT")
      ->group(group);
  app->add_flag("--raw", arguments->is_raw, "send the text as it is, without the model's chat template")->group(group);
  app->add_flag("--parse-special", arguments->parses_special,
                "with --raw: control tokens written in the text become tokens")
      ->group(group);
  app->add_flag("--json", arguments->is_json, "print one JSON object (with --chat: one line for each answer)")
      ->group(group);
  app->add_option("--ledger", arguments->ledger_file,
                  "write when every cache entry was born and died to this file; 'cachette footprint' reads it")
      ->type_name("FILE")
      ->group(group);
  app->add_option("--explain", arguments->explain_file,
                  "draw what is kept per layer and KV head over the text, as an SVG picture in this file")
      ->type_name("FILE")
      ->group(group);
  app->add_option("--trace", arguments->trace_file,
                  "write what was retrieved at each token and layer, and why, as JSON lines to this file")
      ->type_name("FILE")
      ->group(group);
  app->add_flag("-q,--quiet", arguments->is_quiet, "print the answer and nothing else")->group(group);
  AddFlags(*app, arguments->generate, "Generation", {{"max_new_tokens", "-n"}});
  AddRecipeFlags(*app, arguments->recipe);
  AddEngineFlags(*app, arguments->engine);
  app->callback([arguments, prompt, &chosen] {
    if (const std::string& input = arguments->standard_input; !input.empty() && input != "-")
      RefuseUsage(fmt::format("unexpected argument '{}'; documents are named with -f, the question with -p", input));
    arguments->has_prompt = prompt->count() > 0;
    chosen = [arguments] {
      Run run(*arguments);
      return arguments->is_chat ? run.Chat() : run.Once();
    };
  });
}

}  // namespace cachette::cli
