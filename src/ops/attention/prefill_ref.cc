#include <cmath>
#include <limits>
#include <vector>

#include "ops/attention/kv_codec.h"
#include "ops/attention/prefill.h"
#include "ops/attention/prefill_kernels.h"

namespace cachette::ops {
namespace {

bool IsVisible(const PrefillParams& params, const KvRow& kv, int64_t query_slot, int64_t slot) {
  if (slot > query_slot) return false;
  if (kv.live_masks != nullptr && ((kv.live_masks[slot / kBlockTokens] >> (slot % kBlockTokens)) & 1) == 0)
    return false;
  return params.attention_window == 0 || kv.positions[slot] > kv.positions[query_slot] - params.attention_window;
}

double LogitOf(const PrefillParams& params, const KvRow& kv, const float* q, int64_t slot) {
  std::vector<float> key(static_cast<size_t>(params.head_dim));
  LoadEntry(kv, slot, key.data(), nullptr);
  double dot = 0.0;
  for (size_t d = 0; d < key.size(); ++d) dot += static_cast<double>(q[d]) * static_cast<double>(key[d]);
  const double scaled = dot * static_cast<double>(params.scale);
  const double cap = static_cast<double>(params.softcap);
  return cap > 0.0 ? cap * std::tanh(scaled / cap) : scaled;
}

void AttendQuery(const PrefillParams& params, const KvRow& kv, int64_t query_slot, const float* q, float* out) {
  std::vector<int64_t> slots;
  std::vector<double> logits;
  double max = -std::numeric_limits<double>::infinity();
  for (int64_t slot = 0; slot <= query_slot; ++slot) {
    if (!IsVisible(params, kv, query_slot, slot)) continue;
    slots.push_back(slot);
    logits.push_back(LogitOf(params, kv, q, slot));
    max = std::max(max, logits.back());
  }
  double denominator = 0.0;
  std::vector<double> sum(static_cast<size_t>(params.head_dim), 0.0);
  std::vector<float> value(sum.size());
  for (size_t i = 0; i < slots.size(); ++i) {
    const double p = std::exp(logits[i] - max);
    LoadEntry(kv, slots[i], nullptr, value.data());
    denominator += p;
    for (size_t d = 0; d < sum.size(); ++d) sum[d] += p * static_cast<double>(value[d]);
  }
  for (int d = 0; d < params.head_dim; ++d) out[d] = static_cast<float>(sum[static_cast<size_t>(d)] / denominator);
}

}  // namespace

void PrefillRef(Context& cx, const PrefillParams& params) {
  const int64_t num_queries = params.num_queries;
  cx.ParallelFor(static_cast<int64_t>(params.rows.size()) * num_queries, [&](int64_t task) {
    const PrefillRow& row = params.rows[static_cast<size_t>(task / num_queries)];
    const int64_t i = task % num_queries;
    for (int g = 0; g < params.group_size; ++g)
      AttendQuery(params, row.kv, row.kv.num_slots - num_queries + i, row.q + i * params.q_stride + g * params.head_dim,
                  row.out + i * params.out_stride + g * params.head_dim);
  });
}

}  // namespace cachette::ops
