// cachette recipes: the table of recipes, or one of them explained.

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/flags.h"
#include "cli/print_json.h"
#include "methods/recipe.h"

namespace cachette::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string TextOrNone(const OptionValue& value) {
  const std::string text = std::visit([](const auto& v) { return fmt::format("{}", v); }, value);
  return text.empty() ? "none" : text;
}

std::string PartsOf(const Recipe& recipe) {
  std::string parts;
  for (const auto& [kind, name] : recipe.PartNames())
    parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", kind, name);
  return parts.empty() ? "none" : parts;
}

// Options of every recipe that this one has no use for.
bool Takes(const Recipe& recipe, const OptionInfo& option) {
  if (option.name == "budget") return recipe.takes_budget();
  if (option.name.starts_with("keep_")) return recipe.parts().scorer != nullptr;
  return option.name != "positions" || recipe.row().allows_cache_positions;
}

Json ToJson(const Recipe& recipe) {
  const RecipeRow& row = recipe.row();
  Json out = {{"name", row.name}, {"summary", row.summary}, {"paper", row.paper}, {"needs", row.needs}};
  out["frees"] = row.frees;
  out["deviations"] = row.deviations;
  out["takes_budget"] = recipe.takes_budget();
  out["parts"] = Json::object();
  for (const auto& [kind, name] : recipe.PartNames()) out["parts"][kind] = name;
  out["options"] = Json::array();
  for (const OptionInfo& option : recipe.Options()) {
    if (!Takes(recipe, option)) continue;
    Json entry = {{"name", option.name}, {"help", option.help}};
    std::visit([&](const auto& value) { entry["default"] = value; }, option.value);
    out["options"].push_back(std::move(entry));
  }
  return out;
}

// A cell of a markdown table.
std::string Cell(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

void PrintMarkdown(const std::vector<Recipe>& recipes) {
  fmt::print("| recipe | keeps | frees | parts | paper |\n| --- | --- | --- | --- | --- |\n");
  for (const Recipe& recipe : recipes) {
    const RecipeRow& row = recipe.row();
    fmt::print("| `{}` | {} | {} | {} | {} |\n", row.name, Cell(row.summary), Cell(row.frees), Cell(PartsOf(recipe)),
               Cell(row.paper));
  }
}

void PrintTable(const std::vector<Recipe>& recipes) {
  size_t width = 0;
  for (const Recipe& recipe : recipes) width = std::max(width, std::string_view(recipe.row().name).size());
  for (const Recipe& recipe : recipes) {
    const RecipeRow& row = recipe.row();
    fmt::print("{:<{}}  {}\n{:<{}}  parts: {}; paper: {}\n", row.name, width, row.summary, "", width, PartsOf(recipe),
               row.paper);
  }
  fmt::print("\n'cachette recipes NAME' explains one and lists its options.\n");
}

void Explain(const Recipe& recipe) {
  const RecipeRow& row = recipe.row();
  fmt::print("{:<12}{}\n{:<12}{}\n", "recipe", row.name, "keeps", row.summary);
  fmt::print("{:<12}{}\n{:<12}{}\n{:<12}{}\n", "needs", row.needs, "frees", row.frees, "paper", row.paper);
  if (*row.deviations != '\0') fmt::print("{:<12}{}\n", "deviations", row.deviations);
  fmt::print("{:<12}{}\n", "parts", PartsOf(recipe));
  fmt::print("\nOptions [default]:\n");
  for (const OptionInfo& option : recipe.Options()) {
    if (!Takes(recipe, option)) continue;
    fmt::print("  {:<28}{} [{}]\n", FlagOf(option.name), option.help, TextOrNone(option.value));
  }
}

}  // namespace

void AddRecipes(CLI::App& root, Command& chosen) {
  struct Arguments {
    std::string name;
    bool is_json = false;
    bool is_markdown = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* app = root.add_subcommand("recipes", "list the recipes, or explain one with its options");
  app->add_option("NAME", arguments->name, "recipe to explain");
  app->add_flag("--json", arguments->is_json, "print a JSON array (with NAME: one object)");
  app->add_flag("--markdown", arguments->is_markdown, "print the table as markdown");
  app->callback([arguments, &chosen] {
    chosen = [arguments]() -> Result<int> {
      std::vector<Recipe> recipes;
      if (!arguments->name.empty()) {
        CACHETTE_TRY(Recipe recipe, Recipe::Create(arguments->name, {}));
        recipes.push_back(std::move(recipe));
      } else {
        for (const RecipeRow& row : AllRecipes()) {
          CACHETTE_TRY(Recipe recipe, Recipe::Create(row.name, {}));
          recipes.push_back(std::move(recipe));
        }
      }
      if (arguments->is_json) {
        Json list = Json::array();
        for (const Recipe& recipe : recipes) list.push_back(ToJson(recipe));
        PrintJson(arguments->name.empty() ? list : list.front());
      } else if (arguments->is_markdown) {
        PrintMarkdown(recipes);
      } else if (arguments->name.empty()) {
        PrintTable(recipes);
      } else {
        Explain(recipes.front());
      }
      return 0;
    };
  });
}

}  // namespace cachette::cli
