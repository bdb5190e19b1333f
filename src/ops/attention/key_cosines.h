#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "ops/attention/kv_view.h"
#include "tensor/context.h"

namespace cachette::ops {

// Cosine similarity of every pair of keys at slots [n], tile by tile of rows: visit(row, cosines [n]) in row order; it
// may write to cosines. A zero key has cosine 0 to all. Products through oneDNN's sgemm, 2 * head_dim * n^2 operations.
void KeyCosines(Context& cx, const KvRow& kv, std::span<const int64_t> slots,
                const std::function<void(int64_t row, std::span<float> cosines)>& visit);

}  // namespace cachette::ops
