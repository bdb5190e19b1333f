#include "cli/process.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <thread>

#include "io/temp_folder.h"

namespace cachette {
namespace {

// Does the process handle SIGINT itself by now? Before it does, the signal would end it.
bool CatchesInterrupt(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("SigCgt:")) return (std::stoull(line.substr(7), nullptr, 16) >> (SIGINT - 1)) & 1;
  return false;
}

void SendInterrupt(pid_t pid, int after_ms) {
  for (int i = 0; i < 60000 && !CatchesInterrupt(pid); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::this_thread::sleep_for(std::chrono::milliseconds(after_ms));
  kill(pid, SIGINT);
}

// Reads both until both are closed.
void ReadAll(int out_fd, int err_fd, ProcessResult& result) {
  pollfd fds[] = {{out_fd, POLLIN, 0}, {err_fd, POLLIN, 0}};
  std::string* texts[] = {&result.out, &result.err};
  for (int open = 2; open > 0;) {
    poll(fds, 2, -1);
    for (int i = 0; i < 2; ++i) {
      if (fds[i].fd < 0 || fds[i].revents == 0) continue;
      char buffer[4096];
      const ssize_t count = read(fds[i].fd, buffer, sizeof buffer);
      if (count > 0) {
        texts[i]->append(buffer, static_cast<size_t>(count));
      } else {  // a terminal whose other end is closed reports an error
        close(fds[i].fd);
        fds[i].fd = -1;
        --open;
      }
    }
  }
}

}  // namespace

ProcessResult RunCachette(const std::vector<std::string>& arguments, const ProcessOptions& options) {
  static const TempFolder folder;  // holds the input, and the cache folder that keeps checksums
  const std::string input = folder.Write("input", options.standard_input);
  int out[2], err[2];
  if (pipe2(out, O_CLOEXEC) != 0) return {};
  if (options.is_stderr_terminal) {
    winsize size{24, 120, 0, 0};
    if (openpty(&err[0], &err[1], nullptr, nullptr, &size) != 0) return {};
    fcntl(err[0], F_SETFD, FD_CLOEXEC);
  } else if (pipe2(err, O_CLOEXEC) != 0) {
    return {};
  }
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(open(input.c_str(), O_RDONLY), STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    dup2(err[1], STDERR_FILENO);
    setenv("XDG_CACHE_HOME", (folder / "cache").c_str(), 1);
    std::vector<char*> argv = {const_cast<char*>("cachette")};
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    execv(CACHETTE_CLI, argv.data());
    _exit(127);
  }
  close(out[1]);
  close(err[1]);
  std::thread interrupter;
  if (options.interrupt_after_ms >= 0) interrupter = std::thread(SendInterrupt, pid, options.interrupt_after_ms);
  ProcessResult result;
  ReadAll(out[0], err[0], result);
  if (interrupter.joinable()) interrupter.join();
  int status = 0;
  waitpid(pid, &status, 0);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

void ExpectComplaint(const ProcessResult& result, int exit_code, const std::string& part) {
  EXPECT_EQ(result.exit_code, exit_code);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, testing::HasSubstr(part));
  EXPECT_THAT(result.err, testing::StartsWith("cachette: "));
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
}

}  // namespace cachette
