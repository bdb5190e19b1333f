#pragma once

#include <fmt/format.h>

#include <algorithm>

#include "methods/part.h"

namespace cachette {

// The first entries (attention sinks) and the last ones of those that compete.
// Source: StreamingLLM, arXiv:2309.17453, section 3.2.
class SinkWindow final : public Protect {
 public:
  explicit SinkWindow(int64_t sinks = 4, int64_t recent = 1019) : num_sinks(sinks), recent_window(recent) {}
  const char* name() const override { return "sink_window"; }

  void VisitOptions(OptionVisitor& v) override {
    v(num_sinks, "sinks", "first entries of a KV head that are always kept");
    v(recent_window, "recent_window", "last entries before the current chunk or token that are always kept");
  }

  Result<void> Prepare(const CacheShape&) override {
    if (num_sinks < 0 || recent_window < 0)
      return Fail(
          Error::kInvalidArgument,
          fmt::format("protect.sinks {} and protect.recent_window {} must be 0 or more", num_sinks, recent_window));
    return Ok();
  }

  void Ranges(int64_t num_entries, int64_t, std::vector<RankRange>& out) const override {
    const int64_t sinks_end = std::min(num_sinks, num_entries);
    const int64_t window_begin = std::max(sinks_end, num_entries - std::min(recent_window, num_entries));
    out.push_back({0, sinks_end});
    out.push_back({window_begin, num_entries});
  }

  int64_t least_entries() const override { return num_sinks + recent_window; }

  int64_t num_sinks;
  int64_t recent_window;
};

}  // namespace cachette
