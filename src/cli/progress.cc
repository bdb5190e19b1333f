#include "cli/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace cachette::cli {
namespace {

constexpr int kMaxBarColumns = 30;
constexpr int kTextColumns = 62;  // of everything but the bar

int TerminalColumns() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string HumanSeconds(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  if (whole < 60) return fmt::format("{} s", whole);
  return whole < 3600 ? fmt::format("{}:{:02} min", whole / 60, whole % 60)
                      : fmt::format("{}:{:02} h", whole / 3600, whole / 60 % 60);
}

}  // namespace

Progress::Progress(bool is_wanted) : is_on_(is_wanted && isatty(STDERR_FILENO) == 1) {}

void Progress::Start(int64_t num_total) {
  start_ = std::chrono::steady_clock::now();
  Update(0, num_total);
}

void Progress::Update(int64_t num_done, int64_t num_total) {
  if (!is_on_ || num_total <= 0) return;
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  const double rate = seconds > 0 ? static_cast<double>(num_done) / seconds : 0.0;
  const int columns = std::clamp(TerminalColumns() - kTextColumns, 0, kMaxBarColumns);
  const auto filled = static_cast<int>(columns * num_done / num_total);
  std::string line = fmt::format("\r\033[Kreading  [{:#<{}}{:.<{}}]", "", filled, "", columns - filled);
  line += fmt::format(" {}/{} tokens", num_done, num_total);
  if (rate > 0)
    line +=
        fmt::format(", {:.0f} tokens/s, {} left", rate, HumanSeconds(static_cast<double>(num_total - num_done) / rate));
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fflush(stderr);
  is_shown_ = true;
}

void Progress::Clear() {
  if (!is_shown_) return;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
  is_shown_ = false;
}

}  // namespace cachette::cli
