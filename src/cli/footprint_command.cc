// cachette footprint: KV footprint and peak by the published closed forms, or of a recorded ledger.

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/flags.h"
#include "cli/print_json.h"
#include "engine/report.h"
#include "eval/footprint.h"
#include "eval/ledger_file.h"

namespace cachette::cli {
namespace {

using Json = nlohmann::ordered_json;

struct FootprintArguments {
  FootprintParams params;
  std::vector<std::string> given;  // names of the params' options on the command line
  std::string class_name;
  std::string samples_file;
  std::string ledger_file;
  bool is_json = false;

  bool gives(std::string_view option) const { return std::find(given.begin(), given.end(), option) != given.end(); }
};

// The given options are those that the rest of the command line has a use for.
Result<void> CheckGiven(const FootprintArguments& arguments, const FootprintClassRow* row) {
  const bool takes_lengths = row != nullptr && arguments.samples_file.empty();
  for (const std::string& option : arguments.given) {
    const bool is_length = option == "prompt" || option == "output";
    if (is_length && takes_lengths) continue;
    if (row == nullptr)
      return Fail(Error::kInvalidArgument,
                  fmt::format("{} belongs to a formula; name one with --class", FlagOf(option)));
    if (is_length)
      return Fail(Error::kInvalidArgument,
                  fmt::format("{} and --samples both give lengths; leave one of them out", FlagOf(option)));
    if (std::find(row->options.begin(), row->options.end(), option) != row->options.end()) continue;
    std::vector<std::string> takes = {"--prompt", "--output"};
    for (const std::string_view own : row->options) takes.push_back(FlagOf(own));
    return Fail(Error::kInvalidArgument, fmt::format("class {} does not take {}; it takes {}", row->name,
                                                     FlagOf(option), fmt::join(takes, ", ")));
  }
  if (takes_lengths && !arguments.gives("prompt") && !arguments.gives("output"))
    return Fail(Error::kInvalidArgument, "no lengths; give --prompt and --output, or --samples with a file of them");
  return Ok();
}

// The options in force, those that the class reads.
std::vector<OptionInfo> OptionsOf(FootprintParams params, const FootprintClassRow& row, bool has_lengths) {
  std::vector<OptionInfo> all, out;
  ListOptions(params, "", all);
  for (const OptionInfo& option : all) {
    const bool is_length = option.name == "prompt" || option.name == "output";
    const bool is_own = std::find(row.options.begin(), row.options.end(), option.name) != row.options.end();
    if (is_length ? has_lengths : is_own) out.push_back(option);
  }
  return out;
}

// What is printed, in order: the JSON's fields, and lines of the table under the same names.
class Report {
 public:
  explicit Report(const char* source) { Add("source", source); }

  void Add(const std::string& name, const Json& value) { json_[name] = value; }
  void Add(const OptionInfo& option) {
    std::visit([&](const auto& value) { json_[option.name] = value; }, option.value);
  }
  // A remark of the table that machines do not need.
  void Note(const std::string& name, const std::string& text) { notes_[name] = text; }
  Json& json() { return json_; }

  void Print() const {
    for (const auto& [name, value] : json_.items()) {
      const std::string text = value.is_string() ? value.get<std::string>() : Shown(value);
      const auto note = notes_.find(name);
      fmt::print("{:<24}{}{}\n", name, text, note == notes_.end() ? "" : "  (" + note->second + ")");
    }
  }

 private:
  static std::string Shown(const Json& value) {
    return value.is_number_float() ? fmt::format("{:.15g}", value.get<double>()) : value.dump();
  }

  Json json_ = Json::object();
  std::map<std::string, std::string> notes_;
};

Result<Report> Formula(const FootprintArguments& arguments, const FootprintClassRow& row) {
  FootprintParams params = arguments.params;
  params.which = row.which;
  Report report("formula");
  report.Add("class", row.name);
  report.Note("class", row.summary);
  const bool has_samples = !arguments.samples_file.empty();
  for (const OptionInfo& option : OptionsOf(params, row, !has_samples)) report.Add(option);
  if (params.chunk == 0) report.Note("chunk", fmt::format("stands for {}", FootprintParams::kChunkOfZero));
  if (has_samples) {
    CACHETTE_TRY(const std::vector<SampleLengths> samples, ReadSampleLengths(arguments.samples_file));
    CACHETTE_TRY(const MeanFootprint mean, MeanFootprintOf(params, samples));
    report.Add("samples", samples.size());
    report.Add("footprint", mean.footprint);
    report.Add("peak", mean.peak);
    return report;
  }
  CACHETTE_TRY(const FootprintResult result, FootprintOf(params));
  report.Add("footprint", result.footprint);
  report.Add("peak", result.peak);
  if (result.streaming) report.Add("area_streaming", result.streaming->area);
  if (result.evicting) report.Add("area_evicting", result.evicting->area);
  report.Add("area_full", result.area_full);
  return report;
}

Result<Report> Measured(const std::string& path) {
  CACHETTE_TRY(const MeasuredFootprint measured, ReduceLedgerFile(path));
  Report report("measured");
  report.Add("ledger", path);
  report.Add("layers", measured.num_layers);
  report.Add("kv_heads", measured.num_kv_heads);
  report.Add("tokens", measured.num_tokens);
  report.Add("footprint", measured.footprint());
  report.Add("peak", measured.peak());
  report.Add("transient_peak", measured.transient_peak());
  report.Add("byte_footprint", measured.byte_footprint());
  report.Add("byte_peak", measured.byte_peak());
  report.Add("area", measured.area);
  report.Note("area", "entry-steps, all layers and KV heads");
  report.Add("area_full", measured.area_full());
  report.Add("peak_entries", measured.peak_entries);
  report.Add("transient_peak_entries", measured.transient_peak_entries);
  report.Add("byte_area", measured.byte_area());
  report.Add("peak_bytes", measured.peak_bytes);
  report.Note("peak_bytes", HumanBytes(measured.peak_bytes) + (measured.slow ? " in both tiers" : ""));
  const auto add_tier = [&](const MeasuredFootprint::Bytes& tier) {
    const std::string name = TierName(tier.tier);
    report.Add(name + "_byte_footprint", measured.byte_footprint(tier));
    report.Add(name + "_byte_peak", measured.byte_peak(tier));
    report.Add(name + "_peak_bytes", tier.peak);
    report.Note(name + "_peak_bytes", HumanBytes(tier.peak));
  };
  add_tier(measured.fast);
  if (measured.slow) add_tier(*measured.slow);
  return report;
}

Result<int> Footprint(const FootprintArguments& arguments) {
  const FootprintClassRow* row = nullptr;
  if (!arguments.class_name.empty()) {
    CACHETTE_TRY(row, FindFootprintClass(arguments.class_name));
  }
  if (row == nullptr && !arguments.samples_file.empty())
    return Fail(Error::kInvalidArgument, "--samples are lengths for a formula; name one with --class");
  if (row == nullptr && arguments.ledger_file.empty())
    return Fail(Error::kInvalidArgument,
                "nothing to compute; name a formula with --class, a recorded ledger with "
                "--ledger, or both");
  CACHETTE_TRY(CheckGiven(arguments, row));
  std::optional<Report> formula, measured;
  if (row != nullptr) {
    CACHETTE_TRY(formula, Formula(arguments, *row));
  }
  if (!arguments.ledger_file.empty()) {
    CACHETTE_TRY(measured, Measured(arguments.ledger_file));
  }
  if (formula && measured && formula->json().contains("prompt")) {
    const int64_t num_tokens = arguments.params.prompt + arguments.params.output;
    if (measured->json()["tokens"] != num_tokens)
      return Fail(Error::kInvalidArgument, fmt::format("--prompt and --output are {} tokens, the ledger has {}; they "
                                                       "must be the same to be compared",
                                                       num_tokens, measured->json()["tokens"].dump()));
  }
  if (arguments.is_json) {
    if (formula && measured) formula->Add("measured", measured->json());
    PrintJson(formula ? formula->json() : measured->json());
    return 0;
  }
  if (formula) formula->Print();
  if (formula && measured) fmt::print("\n");
  if (measured) measured->Print();
  return 0;
}

}  // namespace

void AddFootprint(CLI::App& root, Command& chosen) {
  const auto arguments = std::make_shared<FootprintArguments>();
  CLI::App* app = root.add_subcommand(
      "footprint", "compute the KV footprint and peak of a policy by formula, or of a recorded ledger");
  std::vector<std::string> names;
  for (const FootprintClassRow& row : AllFootprintClasses()) names.push_back(row.name);
  app->add_option("--class", arguments->class_name, fmt::format("formula: {}", fmt::join(names, ", ")))
      ->type_name("CLASS");
  app->add_option("--ledger", arguments->ledger_file, "ledger that 'run --ledger' wrote; beside a formula or alone")
      ->type_name("FILE");
  app->add_option("--samples", arguments->samples_file,
                  "JSON lines of lengths {\"n\": prompt, \"m\": output}; prints the means over them")
      ->type_name("FILE");
  app->add_flag("--json", arguments->is_json, "print one JSON object");
  std::vector<OptionInfo> declared;
  ListOptions(arguments->params, "", declared);
  for (const OptionInfo& info : declared)
    AddFlag(*app, FlagOf(info.name), info, "Formula", [arguments, name = info.name](const OptionValue& value) {
      SetOption(arguments->params, name, value);
      arguments->given.push_back(name);
    });
  app->callback([arguments, &chosen] { chosen = [arguments] { return Footprint(*arguments); }; });
}

}  // namespace cachette::cli
