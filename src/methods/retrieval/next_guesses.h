#pragma once
// Guesses at what the next step will want: the neighbours of what is read most are likely to be read next.

#include <cstdint>
#include <span>
#include <vector>

#include "cache/layer_observer.h"
#include "cache/sequence_cache.h"
#include "methods/retrieval/unit_selection.h"

namespace cachette {

struct GuessParams {
  std::span<const UnitSelection> selections;  // [num_kv_heads], what the layer's view holds after the sinks
  int64_t num_sink_blocks = 0;
  int64_t next_keys = 0;       // of a KV head, those with the most attention
  int64_t next_positions = 0;  // after each of them
};

// The pages that hold those positions, less what is selected already, KV head by KV head. The layer's view is open.
std::vector<SequenceCache::GuessRef> GuessNext(Context& cx, const SequenceCache& cache, const LayerQueries& queries,
                                               const GuessParams& params);

// Adds the guessed entries of a KV head to the layer's view, but for those of units that the selection holds.
void ViewGuesses(SequenceCache& cache, int layer, int kv_head, const UnitSelection& selection);
// Their positions, in no order.
std::vector<int32_t> GuessedPositions(const SequenceCache& cache, int layer, int kv_head,
                                      const UnitSelection& selection);

}  // namespace cachette
