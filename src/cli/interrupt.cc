#include "cli/interrupt.h"

#include <csignal>

namespace cachette::cli {
namespace {

std::atomic<bool> was_interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);  // may be set in a signal handler

}  // namespace

const std::atomic<bool>& WatchInterrupt() {
  was_interrupted = false;
  struct sigaction action {};
  action.sa_handler = [](int) { was_interrupted = true; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // no SA_RESTART: a read of the terminal returns
  sigaction(SIGINT, &action, nullptr);
  return was_interrupted;
}

}  // namespace cachette::cli
