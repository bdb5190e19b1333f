#pragma once
// What a retrieval missed: attention over every entry, beside what was read. A measurement, as slow as the full cache.

#include <cstdint>
#include <span>

#include "cache/layer_observer.h"
#include "cache/sequence_cache.h"
#include "methods/retrieval/unit_selection.h"

namespace cachette {

struct OracleHits {
  int64_t num_read = 0;  // entries of units, guesses included, over KV heads
  int64_t num_hits = 0;  // of them, those among as many with the most attention
};

// One layer's decode token: an oracle would read, of each KV head's units, the num_read entries with the largest
// attention (softmax over all entries, mean over the group's query heads). Opens the layer's view, which must be
// closed, and closes it. Errors: those of SequenceCache::ViewEverything.
Result<OracleHits> CountOracleHits(Context& cx, SequenceCache& cache, const LayerQueries& queries,
                                   int64_t num_sink_blocks, std::span<const UnitSelection> selections);

}  // namespace cachette
