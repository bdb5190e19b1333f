#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cache/sequence_cache.h"
#include "methods/recipe_run.h"

namespace cachette {

// One conversation or document in flight: the tokens it has seen, its cache and the recipe that manages it.
// Made by Engine::NewSession, which it must not outlive.
class Session {
 public:
  const SequenceCache& cache() const { return cache_; }
  const Recipe& recipe() const { return run_.recipe(); }
  int64_t num_tokens() const { return cache_.num_tokens(); }
  // What a recipe that retrieves did so far; null for others.
  const RetrievalRun* retrieval() const { return run_.retrieval(); }
  // Keeps a line per layer and decode step, with the layer's queries if they are wanted, for a recipe that retrieves.
  void TraceRetrieval(bool keeps_queries = false) {
    if (run_.retrieval() != nullptr) run_.retrieval()->set_tracing(true, keeps_queries);
  }
  // Keeps the ledger's full list, which eval/ledger_file.h writes. To be called before the first token.
  void RecordLedger() { cache_.ledger().set_recording(true); }

 private:
  friend class Engine;
  Session(Tier& tier, const CacheShape& shape, RecordStore* slow, std::shared_ptr<const Recipe> recipe)
      : cache_(tier, shape, slow), run_(std::move(recipe), shape) {}

  Session(SequenceCache cache, RecipeRun run) : cache_(std::move(cache)), run_(std::move(run)) {}

  SequenceCache cache_;
  RecipeRun run_;
  int64_t rope_context_tokens_ = 0;  // of the prompt being prefilled
};

}  // namespace cachette
