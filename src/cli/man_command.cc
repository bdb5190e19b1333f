// cachette man: the manual page, written from the declarations.

#include <fmt/format.h>

#include <algorithm>

#include "cli/command.h"
#include "cli/command_info.h"
#include "engine/version.h"
#include "methods/recipe.h"

namespace cachette::cli {
namespace {

// Text as roff sees it: no escapes, no requests, dashes that stay ASCII.
std::string Roff(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\')
      out += "\\e";
    else if (c == '-')
      out += "\\-";
    else
      out += c;
  }
  if (out.starts_with('.') || out.starts_with('\'')) out.insert(0, "\\&");
  return out;
}

std::string FlagEntry(const FlagInfo& flag) {
  std::string names;
  for (const std::string& name : flag.names)
    names += fmt::format("{}\\fB{}\\fR", names.empty() ? "" : ", ", Roff(name));
  if (!flag.value.empty() && !flag.is_positional) names += fmt::format(" \\fI{}\\fR", Roff(flag.value));
  std::string help = flag.help;
  if (!flag.default_text.empty()) help += fmt::format(" [{}]", flag.default_text);
  return fmt::format(".TP\n{}\n{}\n", names, Roff(help));
}

void WriteCommand(const CommandInfo& command, std::string& out) {
  out += fmt::format(".SS \"{}\"\n{}\n", Roff(command.path), Roff(command.help + "."));
  std::vector<std::string> groups;
  for (const FlagInfo& flag : command.flags)
    if (std::find(groups.begin(), groups.end(), flag.group) == groups.end()) groups.push_back(flag.group);
  for (const std::string& group : groups) {
    out += fmt::format(".PP\n\\fI{}\\fR\n", Roff(group));
    for (const FlagInfo& flag : command.flags)
      if (flag.group == group) out += FlagEntry(flag);
  }
  for (const CommandInfo& sub : command.commands) WriteCommand(sub, out);
}

std::string ManPage(const CommandInfo& root) {
  std::string out = fmt::format(".TH CACHETTE 1 \"\" \"cachette {}\" \"User Commands\"\n", kVersion);
  out += fmt::format(".SH NAME\ncachette \\- {}\n", Roff(root.help));
  out += ".SH SYNOPSIS\n";
  for (const CommandInfo& command : root.commands)
    out += fmt::format("{}.B {}\n{}[\\fIOPTION\\fR]...\n", &command == &root.commands.front() ? "" : ".br\n",
                       Roff(command.path), command.commands.empty() ? "" : "\\fICOMMAND\\fR ");
  out += ".SH COMMANDS\n";
  for (const CommandInfo& command : root.commands) WriteCommand(command, out);
  out += ".SH RECIPES\n";
  for (const RecipeRow& row : AllRecipes())
    out += fmt::format(".TP\n\\fB{}\\fR\n{}\n", Roff(row.name),
                       Roff(fmt::format("{}. Frees {}.", row.summary, row.frees)));
  out +=
      ".SH EXIT STATUS\n.TP\n0\nSuccess.\n.TP\n1\nA file, a model or the machine said no; one sentence on standard "
      "error says why.\n.TP\n2\nThe command line is wrong.\n.TP\n130\nInterrupted; what was done is reported first.\n";
  out +=
      ".SH FILES\n.TP\nmodels/\nModels are looked for here, in the folders above the program, and in\n"
      "\\fI$XDG_CACHE_HOME/cachette/models\\fR (\\fI~/.cache/cachette/models\\fR).\n";
  return out;
}

}  // namespace

void AddMan(CLI::App& root, Command& chosen) {
  CLI::App* app = root.add_subcommand("man", "print the manual page");
  app->callback([&root, &chosen] {
    chosen = [&root]() -> Result<int> {
      fmt::print("{}", ManPage(DescribeCommand(root)));
      return 0;
    };
  });
}

}  // namespace cachette::cli
