#pragma once
// Runs the real program as its users do: arguments, standard input, signals; what it prints and how it ends.

#include <functional>
#include <string>
#include <vector>

namespace cachette {

struct ProcessResult {
  int exit_code = -1;  // 128 + signal when a signal ended it
  std::string out;
  std::string err;
};

struct ProcessOptions {
  std::string standard_input;
  bool is_stderr_terminal = false;
  // Ctrl-C, sent once the program listens for it and this much time has passed; negative: never.
  int interrupt_after_ms = -1;
};

ProcessResult RunCachette(const std::vector<std::string>& arguments, const ProcessOptions& options = {});

// Exactly one sentence from us, nothing on standard output.
void ExpectComplaint(const ProcessResult& result, int exit_code, const std::string& part);

}  // namespace cachette
