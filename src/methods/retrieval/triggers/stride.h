#pragma once
// Retrieval every so many tokens: the control that an adaptive trigger has to beat at equal rate.

#include "methods/retrieval/retrieval_part.h"

namespace cachette {

class Stride final : public RetrievalTrigger {
 public:
  const char* name() const override { return "stride"; }
  void VisitOptions(OptionVisitor& v) override { v(stride, "stride", "stride: decode steps from one to the next"); }
  Result<void> Prepare(const CacheShape&) override {
    if (stride >= 1) return Ok();
    return Fail(Error::kInvalidArgument, fmt::format("stride {} must be 1 or more", stride));
  }
  bool Fires(const RetrievalMoment& moment) const override { return moment.steps_since >= stride; }

  int64_t stride = 8;
};

}  // namespace cachette
