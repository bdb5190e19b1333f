#pragma once

#include <fmt/format.h>

#include <algorithm>

#include "methods/part.h"

namespace cachette {

// Lower layers attend broadly, higher ones narrowly: places fall linearly from layer to layer around the average. beta
// sets how narrow the last layer is; the window is not shared out. Floors as the reference implementation has them, so
// the sum over layers may exceed the average by a few entries.
// Source: PyramidKV, arXiv:2406.02069, section 3.2.
class Pyramid final : public Allocator {
 public:
  const char* name() const override { return "pyramid"; }

  void VisitOptions(OptionVisitor& v) override {
    v(beta, "beta", "the last layer gets about 1/beta of the average number of places beyond the window");
  }

  Result<void> Prepare(const CacheShape&) override {
    if (beta < 1) return Fail(Error::kInvalidArgument, fmt::format("allocator.beta {} must be 1 or more", beta));
    return Ok();
  }

  // Places of a layer beyond the window.
  int64_t PlacesBeyondWindow(const LayerContest& contest) const {
    const int64_t average = contest.num_places - contest.num_window, num_tokens = contest.num_tokens_before_window;
    if (average <= 0 || contest.num_layers < 2 || contest.num_tokens < 2 * average) return average;
    int64_t least = average / beta;
    int64_t most = 2 * average - least;
    if (most >= num_tokens) {
      most = num_tokens;
      least = 2 * average - most;
    }
    const int64_t step = (most - least) / (contest.num_layers - 1);
    return most - contest.layer * step;
  }

  void Share(const LayerContest& contest, std::span<int64_t> num_kept) const override {
    std::fill(num_kept.begin(), num_kept.end(), contest.num_window + PlacesBeyondWindow(contest));
  }

  int64_t beta = 20;
};

}  // namespace cachette
