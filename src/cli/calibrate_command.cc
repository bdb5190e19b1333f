// cachette calibrate: thresholds of a query-cosine trigger for this model, one per layer.

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/flags.h"
#include "cli/input.h"
#include "cli/interrupt.h"
#include "cli/print_json.h"
#include "cli/progress.h"
#include "engine/calibrate.h"
#include "engine/report.h"
#include "eval/samples.h"
#include "io/write_file.h"

namespace cachette::cli {
namespace {

using Json = nlohmann::ordered_json;

// Which texts: files, or samples of the task families (eval/tasks), whose questions and answers are what is decoded.
struct TextOptions {
  int64_t samples = 3;
  int64_t text_tokens = 2048;
  int64_t decode_tokens = 256;

  void VisitOptions(OptionVisitor& v) {
    v(samples, "samples", "without a file: samples of each of the task families kv, niah, path and tsv");
    v(text_tokens, "text_tokens", "most tokens of a text or sample");
    v(decode_tokens, "decode_tokens", "how many of a file's, the last ones, are fed one by one");
  }
};

struct CalibrateArguments {
  EngineOptions engine;
  CalibrateOptions calibrate;
  TextOptions text;
  RecipeChoice recipe{.name = "louis", .options = {}};
  std::vector<std::string> files;
  std::string output_file;  // "": beside the model
  bool is_json = false;
  bool is_quiet = false;
};

Result<void> Check(const TextOptions& options) {
  const auto refuse = [](const char* name, int64_t value) {
    return Fail(Error::kInvalidArgument, fmt::format("{} is {}; it must be at least 1", name, value));
  };
  if (options.samples < 1) return refuse("samples", options.samples);
  if (options.text_tokens < 1) return refuse("text_tokens", options.text_tokens);
  if (options.decode_tokens < 1) return refuse("decode_tokens", options.decode_tokens);
  return Ok();
}

Result<CalibrationText> TextOfFile(const std::string& path, const Tokenizer& tokenizer, int64_t most_tokens,
                                   int64_t decode_tokens) {
  CACHETTE_TRY(const std::string text, ReadText(path));
  CACHETTE_TRY(std::vector<int32_t> tokens, tokenizer.Encode(text, {.add_special = false, .parse_special = false}));
  if (tokenizer.bos_id() >= 0) tokens.insert(tokens.begin(), tokenizer.bos_id());
  tokens.resize(std::min(tokens.size(), static_cast<size_t>(most_tokens)));
  const auto num_tokens = static_cast<int64_t>(tokens.size());
  if (num_tokens <= decode_tokens)
    return Fail(Error::kInvalidArgument,
                fmt::format("{} has {} tokens, too few to prefill some and feed {}; give a longer text, raise "
                            "--text-tokens or lower --decode-tokens",
                            path, num_tokens, decode_tokens));
  const auto middle = tokens.end() - decode_tokens;
  return CalibrationText{{tokens.begin(), middle}, {middle, tokens.end()}};
}

Result<std::vector<CalibrationText>> TextsOf(const CalibrateArguments& arguments, Engine& engine) {
  CACHETTE_TRY(Check(arguments.text));
  CACHETTE_TRY(const Tokenizer* const tokenizer, engine.tokenizer());
  const int64_t most_tokens = std::min<int64_t>(arguments.text.text_tokens, engine.config().context_tokens);
  std::vector<CalibrationText> texts;
  for (const std::string& path : arguments.files) {
    CACHETTE_TRY(texts.emplace_back(), TextOfFile(path, *tokenizer, most_tokens, arguments.text.decode_tokens));
  }
  if (!texts.empty()) return texts;
  const EvalOptions samples{
      .tasks = {"kv", "niah", "path", "tsv"}, .lengths = {most_tokens}, .samples = arguments.text.samples};
  const auto take = [&](const NamedSample& named) -> Result<bool> {
    CalibrationText text{named.sample.context, named.sample.questions.front()};
    CACHETTE_TRY(const std::vector<int32_t> reply, EncodeReply(*tokenizer, named.sample.text.questions.front()));
    text.continuation.insert(text.continuation.end(), reply.begin(), reply.end());
    const int64_t room = engine.config().context_tokens - static_cast<int64_t>(text.prompt.size());
    text.continuation.resize(std::min(text.continuation.size(), static_cast<size_t>(room)));
    texts.push_back(std::move(text));
    return true;
  };
  CACHETTE_TRY(ForEachSample(*tokenizer, engine.config().context_tokens, arguments.engine.rope_scale, samples, take));
  return texts;
}

std::string Today() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  return fmt::format("{:04}-{:02}-{:02}", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday);
}

std::string TextNames(const CalibrateArguments& arguments, const std::vector<CalibrationText>& texts) {
  int64_t num_tokens = 0;
  for (const CalibrationText& text : texts) num_tokens += static_cast<int64_t>(text.continuation.size());
  const std::string names = arguments.files.empty() ? fmt::format("{} samples of kv, niah, path, tsv", texts.size())
                                                    : fmt::format("{}", fmt::join(arguments.files, ", "));
  return fmt::format("{}; {} tokens fed one by one", names, num_tokens);
}

Json ToJson(const std::vector<LayerThreshold>& layers) {
  Json list = Json::array();
  for (size_t i = 0; i < layers.size(); ++i) {
    const bool retrieves = layers[i].retrieves;
    list.push_back({{"layer", i},
                    {"tau", layers[i].tau},
                    {"expected_rate", retrieves ? Json(layers[i].expected_rate) : Json(nullptr)},
                    {"achieved_rate", retrieves ? Json(layers[i].achieved_rate) : Json(nullptr)}});
  }
  return list;
}

std::string Table(const std::vector<LayerThreshold>& layers) {
  std::string out = fmt::format("{:>5}{:>12}{:>10}{:>10}\n", "layer", "tau", "expected", "achieved");
  for (size_t i = 0; i < layers.size(); ++i)
    out += layers[i].retrieves ? fmt::format("{:>5}{:>12.6f}{:>10.3f}{:>10.3f}\n", i, layers[i].tau,
                                             layers[i].expected_rate, layers[i].achieved_rate)
                               : fmt::format("{:>5}{:>12}{:>10}{:>10}\n", i, "-", "-", "-");
  return out;
}

// Over the layers that retrieve.
double MeanRate(const std::vector<LayerThreshold>& layers) {
  double sum = 0, count = 0;
  for (const LayerThreshold& layer : layers) {
    if (!layer.retrieves) continue;
    sum += layer.achieved_rate;
    count += 1;
  }
  return sum / count;
}

Result<int> RunCalibrate(const CalibrateArguments& arguments) {
  CACHETTE_TRY(const std::unique_ptr<Engine> engine, Engine::Load(arguments.engine));
  const std::string& trigger = arguments.calibrate.trigger;
  std::string path = arguments.output_file;
  if (path.empty()) path = ThresholdFileOf(engine->model_path(), arguments.engine.loras, trigger);
  if (path.empty())
    return Fail(Error::kInvalidArgument, "a synthetic model has no file to put thresholds beside; name one with -o");
  CACHETTE_TRY(CheckReplaceable(path));
  CACHETTE_TRY(const std::vector<CalibrationText> texts, TextsOf(arguments, *engine));
  const std::string names = TextNames(arguments, texts);
  std::string model = engine->model_path();
  for (const std::string& lora : arguments.engine.loras) model += " + " + lora;
  const std::vector<std::string> notes = {
      fmt::format("tau per layer of trigger {}, from cachette calibrate, {}", trigger, Today()),
      fmt::format("model {}", model),
      fmt::format("recipe {}, {} retrievals per token and layer wanted", arguments.recipe.name,
                  arguments.calibrate.rate),
      fmt::format("text {}", names)};

  Progress progress(!arguments.is_quiet);
  CalibrateCallbacks callbacks;
  callbacks.cancel = &WatchInterrupt();
  callbacks.on_text = [&, is_started = false](int64_t num_done, int64_t num_total) mutable {
    if (!is_started) progress.Start(num_total);
    is_started = true;
    progress.Update(num_done, num_total);
  };
  CACHETTE_TRY(const std::vector<LayerThreshold> layers,
               Calibrate(*engine, arguments.recipe.name, arguments.recipe.options, texts, arguments.calibrate, path,
                         notes, callbacks));
  progress.Clear();
  if (layers.empty()) return kInterrupted;
  if (!arguments.is_json) {
    fmt::print("{}", Table(layers));
    if (!arguments.is_quiet)
      fmt::print(stderr, "cachette: {:.3f} retrievals per token and layer on {}; thresholds written to {}\n",
                 MeanRate(layers), names, path);
    return 0;
  }
  std::map<std::string, std::string> options = arguments.recipe.options;
  options["trigger.kind"] = trigger;
  options[fmt::format("trigger.{}_taus", trigger)] = path;
  CACHETTE_TRY(const std::shared_ptr<const Recipe> recipe, engine->MakeRecipe(arguments.recipe.name, options));
  GenerateOptions generate;
  generate.prefill_chunk = arguments.calibrate.prefill_chunk;
  Json out = {{"trigger", trigger},
              {"wanted_rate", arguments.calibrate.rate},
              {"achieved_rate", MeanRate(layers)},
              {"file", path},
              {"text", names},
              {"layers", ToJson(layers)},
              {"recipe", arguments.recipe.name},
              {"options", OptionsJson(*engine, *recipe, generate)}};
  CACHETTE_TRY(out["model"], ModelJson(*engine));
  out["build"] = BuildJson();
  PrintJson(out);
  return 0;
}

}  // namespace

void AddCalibrate(CLI::App& root, Command& chosen) {
  const auto arguments = std::make_shared<CalibrateArguments>();
  CLI::App* app =
      root.add_subcommand("calibrate", "choose a trigger's thresholds for this model, one per layer, by a wanted rate");
  const char* const group = "Calibration";
  app->add_option("-f,--file", arguments->files, "text to calibrate on (again for each further one)")
      ->type_name("FILE")
      ->allow_extra_args(false)
      ->group(group);
  AddFlags(*app, arguments->calibrate, group);
  AddFlags(*app, arguments->text, group);
  app->add_option("-o,--output", arguments->output_file,
                  "where the thresholds go; beside the model, where run finds them by itself, unless named")
      ->type_name("FILE")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)
      ->group(group);
  app->add_flag("--json", arguments->is_json, "print one JSON object")->group("Output");
  app->add_flag("-q,--quiet", arguments->is_quiet, "print the thresholds and nothing else")->group("Output");
  AddRecipeFlags(*app, arguments->recipe);
  AddEngineFlags(*app, arguments->engine);
  app->callback([arguments, &chosen] { chosen = [arguments] { return RunCalibrate(*arguments); }; });
}

}  // namespace cachette::cli
