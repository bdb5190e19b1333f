#pragma once
// Retrieval when the resident units cover too little: their weight (group mean of softmax over all units) falls below a
// share of what the best units within the budget would weigh now. Needs every unit's score at every step, and in return
// no calibration: the rate adapts to layer and text.

#include "methods/retrieval/retrieval_part.h"

namespace cachette {

class Coverage final : public RetrievalTrigger {
 public:
  explicit Coverage(double default_least) : least(default_least) {}
  const char* name() const override { return "coverage"; }
  void VisitOptions(OptionVisitor& v) override {
    v(least, "least_coverage", "coverage: retrieve when the resident units weigh less than this share of the best");
  }
  Result<void> Prepare(const CacheShape&) override {
    if (least > 0.0 && least <= 1.0) return Ok();
    return Fail(Error::kInvalidArgument, fmt::format("least_coverage {} is outside (0, 1]", least));
  }
  bool needs_coverage() const override { return true; }
  bool Fires(const RetrievalMoment& moment) const override { return moment.coverage < static_cast<float>(least); }

  double least;
};

}  // namespace cachette
