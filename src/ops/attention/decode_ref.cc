#include <cmath>
#include <limits>
#include <vector>

#include "ops/attention/decode.h"
#include "ops/attention/decode_kernels.h"
#include "ops/attention/kv_codec.h"

namespace cachette::ops {
namespace {

bool IsVisible(const DecodeRow& row, int64_t slot) {
  if (slot < row.first_slot) return false;
  return row.kv.live_masks == nullptr || ((row.kv.live_masks[slot / kBlockTokens] >> (slot % kBlockTokens)) & 1) != 0;
}

double LogitOf(const DecodeParams& params, const DecodeRow& row, const float* q, int64_t slot) {
  std::vector<float> key(static_cast<size_t>(params.head_dim));
  LoadEntry(row.kv, slot, key.data(), nullptr);
  double dot = 0.0;
  for (size_t d = 0; d < key.size(); ++d) dot += static_cast<double>(q[d]) * static_cast<double>(key[d]);
  const double scaled = dot * static_cast<double>(params.scale);
  const double cap = static_cast<double>(params.softcap);
  return cap > 0.0 ? cap * std::tanh(scaled / cap) : scaled;
}

}  // namespace

void DecodeRowRef(const DecodeParams& params, const DecodeRow& row) {
  const auto head_dim = static_cast<size_t>(params.head_dim);
  for (int g = 0; g < params.group_size; ++g) {
    const float* q = row.q + g * params.head_dim;
    std::vector<double> logits(static_cast<size_t>(row.kv.num_slots), -std::numeric_limits<double>::infinity());
    double max = -std::numeric_limits<double>::infinity();
    for (int64_t slot = 0; slot < row.kv.num_slots; ++slot) {
      if (!IsVisible(row, slot)) continue;
      logits[static_cast<size_t>(slot)] = LogitOf(params, row, q, slot);
      max = std::max(max, logits[static_cast<size_t>(slot)]);
    }
    double denominator = 0.0;
    std::vector<double> sum(head_dim, 0.0);
    std::vector<float> value(head_dim);
    for (int64_t slot = row.first_slot; slot < row.kv.num_slots; ++slot) {
      if (!IsVisible(row, slot)) continue;
      const double p = std::exp(logits[static_cast<size_t>(slot)] - max);
      LoadEntry(row.kv, slot, nullptr, value.data());
      denominator += p;
      for (size_t d = 0; d < head_dim; ++d) sum[d] += p * static_cast<double>(value[d]);
    }
    for (size_t d = 0; d < head_dim; ++d)
      row.out[static_cast<size_t>(g) * head_dim + d] =
          denominator > 0.0 ? static_cast<float>(sum[d] / denominator) : 0.0f;
    if (row.state != nullptr) row.state[g] = {static_cast<float>(max), static_cast<float>(denominator)};
  }
}

}  // namespace cachette::ops
