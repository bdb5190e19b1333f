#pragma once
// The subcommands: each declares its options on the root and becomes the chosen command when it is named.

#include <CLI/CLI.hpp>
#include <chrono>
#include <functional>

#include "base/result.h"

namespace cachette::cli {

// Runs a subcommand; the exit code. A failure is printed as one sentence, exit code 1.
using Command = std::function<Result<int>()>;

inline constexpr int kFailed = 1;         // a file, model or machine said no
inline constexpr int kUsage = 2;          // the command line itself is wrong
inline constexpr int kInterrupted = 130;  // 128 + SIGINT, as shells report it

// When this program started.
extern const std::chrono::steady_clock::time_point kProgramStart;

void AddRun(CLI::App& root, Command& chosen);
void AddInspect(CLI::App& root, Command& chosen);
void AddRecipes(CLI::App& root, Command& chosen);
void AddFootprint(CLI::App& root, Command& chosen);
void AddTokenize(CLI::App& root, Command& chosen);
void AddEval(CLI::App& root, Command& chosen);
void AddCalibrate(CLI::App& root, Command& chosen);
void AddBench(CLI::App& root, Command& chosen);
void AddCompletions(CLI::App& root, Command& chosen);
void AddMan(CLI::App& root, Command& chosen);

}  // namespace cachette::cli
