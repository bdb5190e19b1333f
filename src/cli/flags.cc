#include "cli/flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "methods/recipe.h"

namespace cachette::cli {
namespace {

constexpr const char* kRecipeGroup = "Recipe (see: cachette recipes NAME)";

std::string_view LastComponent(std::string_view name) { return name.substr(name.rfind('.') + 1); }

// What stands for the value in help texts.
std::string PlaceholderOf(const OptionInfo& declared) {
  if (declared.name.ends_with("_bytes")) return "SIZE";
  if (declared.name.ends_with("_file")) return "FILE";
  if (declared.name == "model") return "MODEL";
  if (std::holds_alternative<int64_t>(declared.value)) return "N";
  return std::holds_alternative<double>(declared.value) ? "X" : "NAME";
}

std::string TextOf(const OptionValue& value) {
  return std::visit([](const auto& v) { return fmt::format("{}", v); }, value);
}

OptionValue ParseValue(const OptionInfo& declared, const std::string& flag, const std::string& text) {
  if (declared.name.ends_with("_bytes")) return OrRefuse(ParseBytes(flag, text));
  return OrRefuse(ParseOption(flag, text, declared.value));
}

}  // namespace

std::string FlagOf(std::string_view option_name) {
  std::string flag = "--" + std::string(option_name);
  std::replace(flag.begin() + 2, flag.end(), '_', '-');
  return flag;
}

std::vector<std::string> NormalizeArguments(int argc, const char* const* argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  for (std::string& argument : arguments) {
    if (argument == "--") break;
    if (!argument.starts_with("--")) continue;
    std::replace(argument.begin(), argument.begin() + static_cast<long>(std::min(argument.find('='), argument.size())),
                 '_', '-');
  }
  return arguments;
}

Result<int64_t> ParseBytes(std::string_view flag, std::string_view text) {
  double number = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string unit(end, text.data() + text.size());
  std::transform(unit.begin(), unit.end(), unit.begin(), [](unsigned char c) { return std::toupper(c); });
  if (unit.ends_with("IB"))
    unit.erase(unit.size() - 2);
  else if (unit.ends_with('B'))
    unit.pop_back();
  const size_t power = unit.empty() ? 0 : std::string_view("KMGT").find(unit[0]) + 1;  // 0: no such unit
  const double bytes = number * std::pow(1024.0, static_cast<double>(power));
  if (status != std::errc() || unit.size() > 1 || (power == 0) != unit.empty() || !(bytes >= 0 && bytes < 0x1p62))
    return Fail(Error::kInvalidArgument,
                fmt::format("option {}: '{}' is not a size such as 500000, 64M or 2G", flag, text));
  return static_cast<int64_t>(bytes);
}

Result<std::vector<int64_t>> ParseNumbers(std::string_view flag, std::string_view text) {
  std::vector<int64_t> numbers;
  const char* p = text.data();
  const char* const end = text.data() + text.size();
  while (true) {
    int64_t number = 0;
    const auto [next, status] = std::from_chars(p, end, number);
    if (status != std::errc() || number < 0 || (next != end && *next != ','))
      return Fail(Error::kInvalidArgument,
                  fmt::format("option {}: '{}' is not a list of whole numbers such as 512,4096", flag, text));
    numbers.push_back(number);
    if (next == end) return numbers;
    p = next + 1;
  }
}

void RefuseUsage(const std::string& sentence) { throw CLI::ValidationError(sentence); }

CLI::Option* AddFlag(CLI::App& app, const std::string& names, const OptionInfo& declared, const char* group,
                     std::function<void(const OptionValue&)> set) {
  if (std::holds_alternative<bool>(declared.value))
    return app
        .add_flag_function(
            names, [set](int64_t count) { set(OptionValue(count > 0)); }, declared.help)
        ->group(group);
  const std::string flag = names.substr(names.find("--"), names.find(',', names.find("--")) - names.find("--"));
  CLI::Option* option = app.add_option_function<std::string>(
      names, [declared, flag, set](const std::string& text) { set(ParseValue(declared, flag, text)); }, declared.help);
  return option->type_name(PlaceholderOf(declared))
      ->default_str(TextOf(declared.value))
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)
      ->group(group);
}

void AddEngineFlags(CLI::App& app, EngineOptions& options) {
  AddFlags(app, options, "Model and machine", {{"model", "-m"}, {"threads", "-t"}, {"fast_kv_bytes", "--kv-bytes"}});
  app.add_option("--lora", options.loras, "LoRA adapter merged into the weights (again for each further one)")
      ->type_name("FILE")
      ->allow_extra_args(false)
      ->group("Model and machine");
}

void AddRecipeFlags(CLI::App& app, RecipeChoice& choice) {
  app.add_option("--recipe", choice.name, "what is kept of the KV cache; cachette recipes lists them")
      ->type_name("RECIPE")
      ->default_str(choice.name)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)
      ->group(kRecipeGroup);
  std::vector<OptionInfo> all;  // of all recipes, each name once
  std::map<std::string, std::set<std::string>> by_ending;
  for (const RecipeRow& row : AllRecipes()) {
    const Result<Recipe> recipe = Recipe::Create(row.name, {});
    CACHETTE_CHECK(recipe.ok());
    for (const OptionInfo& info : recipe->Options()) {
      if (by_ending[std::string(LastComponent(info.name))].insert(info.name).second) all.push_back(info);
    }
  }
  const auto remember = [&choice](const std::string& name, const OptionInfo& info) {
    return [&choice, name, is_flag = std::holds_alternative<bool>(info.value)](const OptionValue& value) {
      choice.options[name] = is_flag ? (std::get<bool>(value) ? "true" : "false") : TextOf(value);
    };
  };
  for (const OptionInfo& info : all) {
    std::string names = FlagOf(info.name);
    const std::string ending(LastComponent(info.name));
    const bool is_free = app.get_option_no_throw(FlagOf(ending)) == nullptr;
    if (ending != info.name && is_free && by_ending[ending].size() == 1) names += "," + FlagOf(ending);
    AddFlag(app, names, info, kRecipeGroup, remember(info.name, info));
  }
  // An ending that several parts share is resolved by the chosen recipe.
  for (const auto& [ending, names] : by_ending) {
    if (names.size() < 2 || app.get_option_no_throw(FlagOf(ending)) != nullptr) continue;
    const OptionInfo any{ending, std::string(),
                         fmt::format("short for the recipe's own of {}", fmt::join(names, ", "))};
    AddFlag(app, FlagOf(ending), any, kRecipeGroup, remember(ending, any));
  }
}

}  // namespace cachette::cli
