#include "engine/fast_need.h"

#include "ops/attention/kv_view.h"

namespace cachette {

FastNeed ComputeFastNeed(const FastNeedParams& p) {
  const int64_t with_prompt = p.num_held + p.num_prompt + 1;
  const int64_t with_output = p.num_held + p.num_prompt + std::max<int64_t>(1, p.num_output);
  const int64_t local = ops::BlocksFor(p.local_entries);

  const int64_t all = ops::BlocksFor(with_prompt);
  const int64_t gone = all - std::min(all, local);
  int64_t passing = std::min(gone, ops::BlocksFor(std::min(p.chunk, p.num_prompt)));
  int64_t padding = 0;
  if (p.stages_layer && gone > passing) {
    passing = gone + 2;  // stream and units end within a block each, beside one that evictions left
    padding = p.most_padding_blocks;
  }
  const int64_t prefill =
      p.num_kv_heads * (p.num_dense_layers * all + p.num_retrieving_layers * std::min(all, local) + passing) + padding;

  // A KV head's units need no more than their entries fill: least_blocks, or those.
  const int64_t all_at_end = ops::BlocksFor(with_output);
  const int64_t of_units =
      std::min(p.least_blocks, ops::BlocksFor(std::max<int64_t>(0, with_output - p.protected_entries)));
  const int64_t of_head =
      std::min(std::min(all_at_end, local) + of_units, all_at_end + (of_units > 0 ? 2 : 0));  // ends as above
  const int64_t decode = p.num_kv_heads * (p.num_dense_layers * all_at_end + p.num_retrieving_layers * of_head);
  return {.prefill_bytes = prefill * p.block_bytes, .decode_bytes = decode * p.block_bytes};
}

}  // namespace cachette
