#pragma once
// Sizes that tests of streams, units and stores share.

#include <cstddef>
#include <cstdint>

#include "ops/attention/kv_view.h"

namespace cachette {

inline constexpr int kHeadDim = 8;
inline constexpr int64_t kBlock = ops::kBlockTokens;
inline constexpr size_t kRecordBytes = 4096;

}  // namespace cachette
