#pragma once

#include <chrono>
#include <cstdint>

namespace cachette::cli {

// A line on standard error that follows a prefill: bar, tokens, tokens per second, time left. Silent when standard
// error is no terminal.
class Progress {
 public:
  explicit Progress(bool is_wanted);
  ~Progress() { Clear(); }

  void Start(int64_t num_total);
  void Update(int64_t num_done, int64_t num_total);
  // Takes the line away.
  void Clear();

 private:
  bool is_on_;
  bool is_shown_ = false;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace cachette::cli
