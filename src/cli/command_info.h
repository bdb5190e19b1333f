#pragma once
// The declared commands and options as plain data: help, man page and completions are written from it.

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace cachette::cli {

struct FlagInfo {
  std::vector<std::string> names;  // "-m", "--model"; of a positional: its one name
  std::string value;               // placeholder, "" for a switch
  std::string default_text;
  std::string help;
  std::string group;
  bool is_positional = false;
};

struct CommandInfo {
  std::string path;  // "cachette bench llm"
  std::string name;  // "llm"
  std::string help;
  std::vector<FlagInfo> flags;  // in order of declaration
  std::vector<CommandInfo> commands;
};

CommandInfo DescribeCommand(const CLI::App& app);

// What -h prints, at most 100 columns.
std::string HelpText(const CommandInfo& command);

}  // namespace cachette::cli
