#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace cachette {

// Smoothing of scores over neighbours in list order. Windows are centred, of odd width; past the ends an average counts
// zeros (it always divides by width), a maximum nothing.
enum class PoolKind { kNone, kAverage, kMax };

Result<PoolKind> ParsePool(const std::string& name);  // none, avg, max
Result<void> CheckPoolWidth(int64_t width);           // errors: kInvalidArgument unless odd and positive
std::vector<float> Pool(std::span<const float> scores, PoolKind kind, int64_t width);

}  // namespace cachette
