#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "methods/part.h"

namespace cachette {

// A share of the kept places goes to the newest entries.
// Source: H2O, arXiv:2306.14048, section 4 (half of the budget heavy, half recent).
class RecentShare final : public Protect {
 public:
  const char* name() const override { return "recent_share"; }

  void VisitOptions(OptionVisitor& v) override {
    v(recent_share, "recent_share", "share of the kept entries of a KV head that are the newest ones, in [0, 1]");
  }

  Result<void> Prepare(const CacheShape&) override {
    if (!(recent_share >= 0.0 && recent_share <= 1.0))
      return Fail(Error::kInvalidArgument, fmt::format("protect.recent_share {} must be in [0, 1]", recent_share));
    return Ok();
  }

  void Ranges(int64_t num_entries, int64_t num_kept, std::vector<RankRange>& out) const override {
    const auto wanted = static_cast<int64_t>(recent_share * static_cast<double>(std::min(num_kept, num_entries)));
    out.push_back({num_entries - wanted, num_entries});
  }

  int64_t least_entries() const override { return 0; }

  double recent_share = 0.5;
};

}  // namespace cachette
