#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cache/sequence_cache.h"
#include "methods/recipe.h"

namespace cachette {

// One conversation or document in flight: the tokens it has seen, its cache and the recipe that manages it.
// Made by Engine::NewSession, which it must not outlive.
class Session {
 public:
  const SequenceCache& cache() const { return cache_; }
  const Recipe& recipe() const { return *recipe_; }
  int64_t num_tokens() const { return cache_.num_tokens(); }

 private:
  friend class Engine;
  Session(Tier& tier, const CacheShape& shape, std::shared_ptr<const Recipe> recipe)
      : cache_(tier, shape), recipe_(std::move(recipe)) {}

  SequenceCache cache_;
  std::shared_ptr<const Recipe> recipe_;
  int64_t rope_context_tokens_ = 0;  // of the prompt being prefilled
};

}  // namespace cachette
