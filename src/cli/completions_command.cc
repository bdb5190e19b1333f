// cachette completions: scripts that complete commands and options in a shell, written from the declarations.

#include <fmt/format.h>

#include <algorithm>

#include "base/nearest.h"
#include "cli/command.h"
#include "cli/command_info.h"
#include "cli/flags.h"
#include "methods/recipe.h"

namespace cachette::cli {
namespace {

// Commands and their subcommands, outermost first.
void Flatten(const CommandInfo& command, std::vector<const CommandInfo*>& out) {
  out.push_back(&command);
  for (const CommandInfo& sub : command.commands) Flatten(sub, out);
}

std::vector<const CommandInfo*> AllCommands(const CommandInfo& root) {
  std::vector<const CommandInfo*> all;
  Flatten(root, all);
  return all;
}

std::string RecipeNames() {
  std::string names;
  for (const RecipeRow& row : AllRecipes()) names += fmt::format("{}{}", names.empty() ? "" : " ", row.name);
  return names;
}

bool TakesFile(const FlagInfo& flag) { return flag.value == "FILE" || flag.value == "MODEL"; }

// Words that may follow a command: its subcommands and options, and recipe names where one is the argument.
std::string WordsOf(const CommandInfo& command) {
  std::string words;
  for (const CommandInfo& sub : command.commands) words += sub.name + " ";
  for (const FlagInfo& flag : command.flags)
    if (!flag.is_positional) words += fmt::format("{} ", fmt::join(flag.names, " "));
  if (command.name == "recipes") words += RecipeNames() + " ";
  if (command.name == "completions") words += "bash zsh fish ";
  words.pop_back();
  return words;
}

std::string BashScript(const CommandInfo& root) {
  std::string files, recipes, values;
  for (const CommandInfo* command : AllCommands(root)) {
    for (const FlagInfo& flag : command->flags) {
      if (flag.is_positional || flag.value.empty()) continue;
      for (const std::string& name : flag.names) {
        // What an option means may differ between commands (-p), so the path is part of the pattern.
        std::string& list = TakesFile(flag) ? files : flag.value == "RECIPE" ? recipes : values;
        list += fmt::format("{}'{} {}'", list.empty() ? "" : "|", command->path, name);
      }
    }
  }
  std::string out =
      "# bash completion of cachette\n"
      "_cachette() {\n"
      "  local cur prev path=cachette word\n"
      "  cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
      "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
      "    case \"$path $word\" in\n      ";
  std::string paths;
  for (const CommandInfo* command : AllCommands(root))
    if (command != &root) paths += fmt::format("{}'{}'", paths.empty() ? "" : "|", command->path);
  out += paths + ") path=\"$path $word\" ;;\n    esac\n  done\n  case \"$path $prev\" in\n";
  out += fmt::format("    {}) compopt -o filenames; COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n", files);
  out += fmt::format("    {}) COMPREPLY=($(compgen -W '{}' -- \"$cur\")); return ;;\n", recipes, RecipeNames());
  out += fmt::format("    {}) return ;;\n  esac\n  case \"$path\" in\n", values);
  for (const CommandInfo* command : AllCommands(root))
    out += fmt::format("    '{}') COMPREPLY=($(compgen -W '{}' -- \"$cur\")) ;;\n", command->path, WordsOf(*command));
  return out + "  esac\n}\ncomplete -F _cachette cachette\n";
}

// Text inside single quotes of a shell, and inside the brackets of a zsh specification.
std::string ShellQuoted(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out;
}

std::string ZshQuoted(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
    out += c;
  }
  return ShellQuoted(out);
}

std::string ZshFunctionName(const CommandInfo& command) {
  std::string name = "_" + command.path;
  std::replace(name.begin(), name.end(), ' ', '_');
  return name;
}

std::string ZshFunction(const CommandInfo& command) {
  std::string out = ZshFunctionName(command) + "() {\n";
  if (!command.commands.empty()) out += "  local context state state_descr line\n  typeset -A opt_args\n";
  out += "  _arguments -C";
  for (const FlagInfo& flag : command.flags) {
    if (flag.is_positional) continue;
    std::string action;
    if (!flag.value.empty())
      action = fmt::format(":{}:{}", ZshQuoted(flag.value),
                           TakesFile(flag)          ? "_files"
                           : flag.value == "RECIPE" ? "(" + RecipeNames() + ")"
                                                    : "");
    for (const std::string& name : flag.names)
      out += fmt::format(" \\\n    '*{}[{}]{}'", name, ZshQuoted(flag.help), action);
  }
  if (command.name == "recipes") out += fmt::format(" \\\n    '1:recipe:({})'", RecipeNames());
  if (command.name == "completions") out += " \\\n    '1:shell:(bash zsh fish)'";
  if (command.commands.empty()) return out + "\n}\n";
  out += " \\\n    '1:command:((";
  for (const CommandInfo& sub : command.commands)
    out += fmt::format("{}{}\\:\"{}\"", &sub == &command.commands.front() ? "" : " ", sub.name, ZshQuoted(sub.help));
  out += "))' \\\n    '*::argument:->argument'\n  case $state in\n    argument) case $line[1] in\n";
  for (const CommandInfo& sub : command.commands)
    out += fmt::format("      {}) {} ;;\n", sub.name, ZshFunctionName(sub));
  return out + "    esac ;;\n  esac\n}\n";
}

std::string ZshScript(const CommandInfo& root) {
  std::string out = "#compdef cachette\n";
  for (const CommandInfo* command : AllCommands(root)) out += ZshFunction(*command);
  return out + "if [ \"$funcstack[1]\" = _cachette ]; then _cachette \"$@\"; else compdef _cachette cachette; fi\n";
}

// When a line belongs to the command: its last name was given, and none of its subcommands'.
std::string FishCondition(const CommandInfo& command, bool is_root) {
  std::string subs;
  for (const CommandInfo& sub : command.commands) subs += " " + sub.name;
  if (is_root) return "__fish_use_subcommand";
  std::string seen = fmt::format("__fish_seen_subcommand_from {}", command.name);
  // "bench" is seen in front of each of its subcommands, whose names are seen nowhere else.
  return subs.empty() ? seen : seen + "; and not __fish_seen_subcommand_from" + subs;
}

std::string FishScript(const CommandInfo& root) {
  std::string out = "# fish completion of cachette\ncomplete -c cachette -f\n";
  for (const CommandInfo* command : AllCommands(root)) {
    const std::string start = fmt::format("complete -c cachette -n '{}'", FishCondition(*command, command == &root));
    for (const CommandInfo& sub : command->commands)
      out += fmt::format("{} -a {} -d '{}'\n", start, sub.name, ShellQuoted(sub.help));
    for (const FlagInfo& flag : command->flags) {
      if (flag.is_positional) continue;
      out += start;
      for (const std::string& name : flag.names)
        out += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
      if (TakesFile(flag))
        out += " -r -F";
      else if (flag.value == "RECIPE")
        out += fmt::format(" -x -a '{}'", RecipeNames());
      else if (!flag.value.empty())
        out += " -x";
      out += fmt::format(" -d '{}'\n", ShellQuoted(flag.help));
    }
    if (command->name == "recipes") out += fmt::format("{} -a '{}'\n", start, RecipeNames());
    if (command->name == "completions") out += start + " -a 'bash zsh fish'\n";
  }
  return out;
}

}  // namespace

void AddCompletions(CLI::App& root, Command& chosen) {
  const auto shell = std::make_shared<std::string>();
  CLI::App* app = root.add_subcommand("completions", "print the completion script of a shell: bash, zsh or fish");
  app->add_option("SHELL", *shell, "bash, zsh or fish");
  app->callback([shell, &root, &chosen] {
    const std::vector<std::string> known = {"bash", "zsh", "fish"};
    if (std::find(known.begin(), known.end(), *shell) == known.end()) {
      const std::string nearest = NearestName(*shell, known);
      RefuseUsage(shell->empty() ? "name a shell: bash, zsh or fish"
                                 : fmt::format("no completions for '{}'{} (bash, zsh or fish)", *shell,
                                               nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest)));
    }
    chosen = [shell, &root]() -> Result<int> {
      const CommandInfo info = DescribeCommand(root);
      fmt::print("{}", *shell == "bash" ? BashScript(info) : *shell == "zsh" ? ZshScript(info) : FishScript(info));
      return 0;
    };
  });
}

}  // namespace cachette::cli
