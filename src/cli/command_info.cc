#include "cli/command_info.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

namespace cachette::cli {
namespace {

constexpr size_t kWidth = 100;
constexpr size_t kHelpColumn = 32;

FlagInfo DescribeFlag(const CLI::Option& option) {
  FlagInfo flag;
  flag.is_positional = !option.nonpositional();
  if (flag.is_positional) {
    flag.names.push_back(option.get_name(true, false));
  } else {
    for (const std::string& name : option.get_snames()) flag.names.push_back("-" + name);
    for (const std::string& name : option.get_lnames()) flag.names.push_back("--" + name);
  }
  if (option.get_items_expected_max() > 0) flag.value = option.get_type_name();
  flag.default_text = option.get_default_str();
  flag.help = option.get_description();
  flag.group = option.get_group();
  return flag;
}

std::string PathOf(const CLI::App& app) {
  return app.get_parent() == nullptr ? app.get_name() : PathOf(*app.get_parent()) + " " + app.get_name();
}

// Words of text, wrapped from column to kWidth; the first line starts where the cursor is.
std::string Wrapped(const std::string& text, size_t column) {
  std::istringstream words(text);
  std::string out, word;
  size_t at = column;
  while (words >> word) {
    if (at > column && at + 1 + word.size() > kWidth) {
      out += "\n" + std::string(column, ' ');
      at = column;
    } else if (at > column) {
      out += ' ';
      ++at;
    }
    out += word;
    at += word.size();
  }
  return out;
}

std::string Line(const std::string& left, const std::string& right) {
  std::string line = "  " + left;
  line += line.size() + 2 > kHelpColumn ? "\n" + std::string(kHelpColumn, ' ')
                                        : std::string(kHelpColumn - line.size(), ' ');
  return line + Wrapped(right, kHelpColumn) + "\n";
}

}  // namespace

CommandInfo DescribeCommand(const CLI::App& app) {
  CommandInfo command{PathOf(app), app.get_name(), app.get_description(), {}, {}};
  for (const CLI::Option* option : app.get_options()) command.flags.push_back(DescribeFlag(*option));
  for (const CLI::App* sub : app.get_subcommands({})) command.commands.push_back(DescribeCommand(*sub));
  return command;
}

std::string HelpText(const CommandInfo& command) {
  std::string out = Wrapped(command.help, 0) + "\n\nUsage: " + command.path;
  if (!command.commands.empty()) out += " COMMAND";
  out += " [OPTION]...";
  std::vector<std::string> groups;
  for (const FlagInfo& flag : command.flags) {
    if (flag.is_positional) out += fmt::format(" [{}]", flag.names.front());
    if (std::find(groups.begin(), groups.end(), flag.group) == groups.end()) groups.push_back(flag.group);
  }
  out += "\n";
  if (!command.commands.empty()) out += "\nCommands:\n";
  for (const CommandInfo& sub : command.commands) out += Line(sub.name, sub.help);
  // The commonest group is declared first, but CLI11 puts its own --help in front: that one goes last.
  if (groups.size() > 1 && groups.front() == "Options") std::rotate(groups.begin(), groups.begin() + 1, groups.end());
  for (const std::string& group : groups) {
    out += "\n" + group + ":\n";
    for (const FlagInfo& flag : command.flags) {
      if (flag.group != group) continue;
      const std::string left =
          fmt::format("{}{}{}", fmt::join(flag.names, ", "), flag.value.empty() ? "" : " ", flag.value);
      const bool shows_default = !flag.default_text.empty();
      out += Line(flag.is_positional ? flag.names.front() : left,
                  flag.help + (shows_default ? fmt::format(" [{}]", flag.default_text) : ""));
    }
  }
  return out;
}

}  // namespace cachette::cli
