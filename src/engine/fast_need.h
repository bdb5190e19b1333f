#pragma once

#include <algorithm>
#include <cstdint>

namespace cachette {

// A prompt about to be prefilled by a recipe that retrieves, and what is to be generated after it.
struct FastNeedParams {
  int num_dense_layers = 0;       // that keep every entry in the fast tier
  int num_retrieving_layers = 0;  // the others
  int num_kv_heads = 0;
  int64_t block_bytes = 0;
  int64_t protected_entries = 0;    // of a retrieving layer and KV head: sinks and recent window
  int64_t local_entries = 0;        // of it: those and what is on its way out, as UnitShape
  int64_t least_blocks = 0;         // of it: blocks of units that a decode step can have, as UnitShape
  int64_t num_held = 0;             // tokens that the session has seen
  int64_t num_prompt = 0;           // tokens to come
  int64_t num_output = 1;           // tokens to generate
  int64_t chunk = 0;                // of the prompt, in one pass
  bool stages_layer = false;        // a slow tier that attention cannot read in place: prefill copies a layer's context
  int64_t most_padding_blocks = 0;  // with stages_layer: of a layer's units beyond full ones, over its KV heads
};

struct FastNeed {
  int64_t prefill_bytes = 0;
  int64_t decode_bytes = 0;
  int64_t bytes() const { return std::max(prefill_bytes, decode_bytes); }
};

// The bytes of the fast tier with which prompt and output certainly can be processed, one sequence alone: full KV of
// the dense layers; of the others what stays local and at decode the least blocks of units, in prefill one layer's
// chunk (with stages_layer, its context too). A larger working set takes what is left.
FastNeed ComputeFastNeed(const FastNeedParams& params);

}  // namespace cachette
