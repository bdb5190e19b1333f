#pragma once
// Retrieval for every token: Quest, ArkVale, ClusterKV.

#include "methods/retrieval/retrieval_part.h"

namespace cachette {

class EveryStep final : public RetrievalTrigger {
 public:
  const char* name() const override { return "every"; }
  bool Fires(const RetrievalMoment&) const override { return true; }
};

}  // namespace cachette
