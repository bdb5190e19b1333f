#include "engine/fast_need.h"

#include <algorithm>

#include "ops/attention/kv_view.h"

namespace cachette {
namespace {

int64_t BlocksOf(int64_t num_entries) { return (num_entries + ops::kBlockTokens - 1) / ops::kBlockTokens; }

}  // namespace

int64_t LeastFastBytes(const FastNeedParams& p) {
  const int64_t last_chunk = std::min(p.chunk, p.num_prompt);
  const int64_t all = BlocksOf(p.num_held + p.num_prompt + 1);
  const int64_t local = std::min(all, BlocksOf(p.local_entries));
  const int64_t pool = std::min(all - local, BlocksOf(p.budget));
  const int64_t staged = p.stages_layer ? std::max<int64_t>(0, all - local - BlocksOf(last_chunk)) : 0;
  const int64_t passing = std::min(all - local, BlocksOf(last_chunk));
  const int64_t prefill = p.num_retrieving_layers * local + passing + staged;  // the pool makes room
  const int64_t decode = p.num_retrieving_layers * (local + pool);
  return (p.num_dense_layers * all + std::max(prefill, decode)) * p.num_kv_heads * p.block_bytes;
}

}  // namespace cachette
