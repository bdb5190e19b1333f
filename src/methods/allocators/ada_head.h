#pragma once

#include <string>

#include "methods/allocators/pyramid.h"
#include "methods/part.h"

namespace cachette {

// The KV heads of a layer share its places by how concentrated their attention is: a head gets its part of the layer's
// overall best scores, mixed with an equal part so that none starves. The layer's average is uniform or PyramidKV's.
// Rounding may leave the sum a few entries off; the difference goes to (or comes from) the first heads that can take
// it. Source: AdaKV, arXiv:2407.11550, section 4 and algorithm 1.
class AdaHead final : public Allocator {
 public:
  const char* name() const override { return "ada_head"; }
  void VisitOptions(OptionVisitor& v) override;
  Result<void> Prepare(const CacheShape& shape) override;
  void Share(const LayerContest& contest, std::span<int64_t> num_kept) const override;

  double floor_share = 0.2;
  bool normalise = false;
  std::string skeleton = "uniform";

 private:
  Pyramid pyramid_;
};

}  // namespace cachette
