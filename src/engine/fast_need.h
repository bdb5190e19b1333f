#pragma once

#include <cstdint>

namespace cachette {

// A prompt about to be prefilled by a recipe that retrieves.
struct FastNeedParams {
  int num_dense_layers = 0;       // that keep every entry in the fast tier
  int num_retrieving_layers = 0;  // the others
  int num_kv_heads = 0;
  int64_t block_bytes = 0;
  int64_t local_entries = 0;  // of a retrieving layer and KV head: sinks, recent window and what is on its way out
  int64_t budget = 0;         // entries
  int64_t num_held = 0;       // tokens that the session has seen
  int64_t num_prompt = 0;     // tokens to come
  int64_t chunk = 0;          // of them, in one pass
  bool stages_layer = false;  // a slow tier that attention cannot read in place: prefill copies a layer's context
};

// The least bytes of the fast tier with which that prompt and one more token can be processed: full KV of the dense
// layers; of the others what stays local, one budget of retrieved entries at decode, one layer's chunk in prefill (with
// stages_layer, its context too). Units that do not fill their blocks take more.
int64_t LeastFastBytes(const FastNeedParams& params);

}  // namespace cachette
