#pragma once
// Too little room in the fast tier: which of a sequence's copies leave it.

#include <cstdint>
#include <span>

#include "cache/sequence_cache.h"
#include "methods/retrieval/unit_selection.h"

namespace cachette {

// Blocks of the sequence that the tier lacks for num_bytes more, beside what others were promised; 0: they fit.
int64_t LackingBlocks(const SequenceCache& cache, size_t num_bytes);

// Makes room for num_bytes more, before a pass or a layer of a prompt's pass, and drops no more than that takes: first
// the guesses; then resident units, the least recently useful first, those that selections [num_layers][num_kv_heads]
// hold after all others. At decode a KV head keeps its SequenceCache::least_blocks, which num_bytes counts where they
// are not resident. What may leave may be too little: whoever allocates finds out.
void MakeRoom(SequenceCache& cache, const PassInfo& pass, size_t num_bytes, std::span<UnitSelection> selections);

}  // namespace cachette
