#pragma once

#include "methods/part.h"

namespace cachette {

// Losers are gone for good and their blocks return to the pool.
class Drop final : public Fate {
 public:
  const char* name() const override { return "drop"; }
  void Apply(SequenceCache& cache, int layer, int kv_head, std::span<const SlotRange> losers,
             EvictTime time) const override {
    cache.Evict(layer, kv_head, losers, time);
  }
};

}  // namespace cachette
