// The command line: parses, runs one command, prints failures as one sentence.

#include <fmt/format.h>

#include <cstdio>
#include <new>
#include <span>

#include "base/nearest.h"
#include "cli/command.h"
#include "cli/command_info.h"
#include "cli/flags.h"
#include "engine/machine.h"

namespace cachette::cli {

const std::chrono::steady_clock::time_point kProgramStart = std::chrono::steady_clock::now();

namespace {

int Complain(const std::string& sentence, int exit_code) {
  fmt::print(stderr, "cachette: {}\n", sentence);
  return exit_code;
}

std::string Suggestion(const std::string& name, const std::vector<std::string>& known) {
  const std::string nearest = NearestName(name, known);
  return nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest);
}

// Walks down the commands that the arguments name; the innermost. A wrong name is refused here, with the nearest.
const CLI::App& FindCommand(const CLI::App& root, std::span<const std::string> arguments) {
  const CLI::App* app = &root;
  for (const std::string& argument : arguments) {
    std::vector<std::string> names;
    const CLI::App* next = nullptr;
    for (const CLI::App* sub : app->get_subcommands({})) {
      names.push_back(sub->get_name());
      if (sub->get_name() == argument) next = sub;
    }
    if (names.empty() || argument.starts_with('-')) break;
    if (next == nullptr)
      RefuseUsage(fmt::format("unknown command '{}'{} (one of {})", argument, Suggestion(argument, names),
                              fmt::join(names, ", ")));
    app = next;
  }
  return *app;
}

// Why CLI11 refused the arguments of a command, in one sentence of our own.
std::string Explain(const CLI::App& command, const CLI::ParseError& error) {
  const std::string what = error.what();
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    std::vector<std::string> known;
    const CommandInfo info = DescribeCommand(command);
    for (const FlagInfo& flag : info.flags) known.insert(known.end(), flag.names.begin(), flag.names.end());
    const std::vector<std::string> extras = command.remaining(true);
    for (const std::string& extra : extras) {
      if (!extra.starts_with('-') || extra == "-") continue;
      const std::string name = extra.substr(0, extra.find('='));
      return fmt::format("unknown option '{}'{} ('{} -h' lists them)", name, Suggestion(name, known), info.path);
    }
    return fmt::format("unexpected argument '{}' ('{} -h' shows the usage)", extras.empty() ? "" : extras.front(),
                       info.path);
  }
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr)
    return fmt::format("option {} needs a value", what.substr(0, what.find(':')));
  if (dynamic_cast<const CLI::RequiredError*>(&error) != nullptr && !command.get_subcommands({}).empty()) {
    std::vector<std::string> names;
    for (const CLI::App* sub : command.get_subcommands({})) names.push_back(sub->get_name());
    return fmt::format("a command is missing: one of {}", fmt::join(names, ", "));
  }
  return what;
}

int Main(int argc, char** argv) {
  CLI::App root("Long-context language models with a managed KV cache", "cachette");
  root.set_help_flag("-h,--help", "print this help");
  root.set_version_flag("--version", DescribeBuild(), "print version, commit and compiler");
  root.formatter_fn(
      [](const CLI::App* app, std::string, CLI::AppFormatMode) { return HelpText(DescribeCommand(*app)); });
  root.require_subcommand(1);
  root.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);

  Command chosen;
  AddRun(root, chosen);
  AddInspect(root, chosen);
  AddRecipes(root, chosen);
  AddFootprint(root, chosen);
  AddTokenize(root, chosen);
  AddEval(root, chosen);
  AddCalibrate(root, chosen);
  AddBench(root, chosen);
  AddCompletions(root, chosen);
  AddMan(root, chosen);

  std::vector<std::string> arguments = NormalizeArguments(argc, argv);
  const CLI::App* command = &root;
  try {
    command = &FindCommand(root, arguments);
    std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());  // as CLI11 wants them
    root.parse(reversed);
  } catch (const CLI::CallForHelp&) {
    fmt::print("{}", HelpText(DescribeCommand(*command)));
    return 0;
  } catch (const CLI::CallForVersion&) {
    fmt::print("{}\n", DescribeBuild());
    return 0;
  } catch (const CLI::ParseError& error) {
    return Complain(Explain(*command, error), kUsage);
  }
  const Result<int> exit_code = chosen();
  return exit_code.ok() ? *exit_code : Complain(exit_code.failure().message, kFailed);
}

}  // namespace
}  // namespace cachette::cli

int main(int argc, char** argv) {
  try {
    return cachette::cli::Main(argc, argv);
  } catch (const std::bad_alloc&) {
    std::fputs("cachette: the machine has no memory left for this; choose a smaller model, prompt or chunk\n", stderr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cachette: internal error: %s\n", error.what());
  }
  return cachette::cli::kFailed;
}
