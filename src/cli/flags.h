#pragma once
// Command-line flags made from declared options (base/options.h). A value of the wrong form is refused while the
// command line is parsed, by throwing CLI::ValidationError with a whole sentence.

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/options.h"
#include "engine/options.h"

namespace cachette::cli {

// "max_new_tokens" -> "--max-new-tokens".
std::string FlagOf(std::string_view option_name);

// Turns underscores in the names of long options into dashes, so that both spellings work.
std::vector<std::string> NormalizeArguments(int argc, const char* const* argv);

// "64M", "2G", "1.5GiB" or plain bytes; units are binary. Errors: kInvalidArgument, naming the flag.
Result<int64_t> ParseBytes(std::string_view flag, std::string_view text);

// One flag under names ("-n,--max-new-tokens"); set hears of a value of the declared type. Options whose name ends in
// _bytes take sizes with units.
CLI::Option* AddFlag(CLI::App& app, const std::string& names, const OptionInfo& declared, const char* group,
                     std::function<void(const OptionValue&)> set);

// A flag for every declared option of a struct, which must outlive the parsing; only those named in only when it is not
// empty. more_names: option -> "-n", or another long name.
template <class T>
void AddFlags(CLI::App& app, T& options, const char* group, const std::map<std::string, std::string>& more_names = {},
              const std::set<std::string>& only = {}) {
  std::vector<OptionInfo> declared;
  ListOptions(options, "", declared);
  for (const OptionInfo& info : declared) {
    if (!only.empty() && !only.contains(info.name)) continue;
    std::string names = FlagOf(info.name);
    if (const auto it = more_names.find(info.name); it != more_names.end())
      names = it->second.starts_with("--") ? names + "," + it->second : it->second + "," + names;
    AddFlag(app, names, info, group,
            [&options, name = info.name](const OptionValue& value) { SetOption(options, name, value); });
  }
}

// --model, --lora and the rest of EngineOptions.
void AddEngineFlags(CLI::App& app, EngineOptions& options);

// The recipe as given: Recipe::Create checks that the options fit it.
struct RecipeChoice {
  std::string name = "full";
  std::map<std::string, std::string> options;
};

// --recipe and every option of every recipe: --protect.sinks, and --sinks where no other flag has that name.
void AddRecipeFlags(CLI::App& app, RecipeChoice& choice);

// Comma-separated whole numbers. Errors: kInvalidArgument, naming the flag.
Result<std::vector<int64_t>> ParseNumbers(std::string_view flag, std::string_view text);

// Throws what main prints as a usage error.
[[noreturn]] void RefuseUsage(const std::string& sentence);
template <class T>
T OrRefuse(Result<T> result) {
  if (!result.ok()) RefuseUsage(result.failure().message);
  return std::move(*result);
}

}  // namespace cachette::cli
