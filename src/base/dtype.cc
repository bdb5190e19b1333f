#include "base/dtype.h"

#include <array>

namespace cachette {
namespace {

constexpr std::array<DtypeInfo, kNumDtypes> kInfos = {{
    {"f32", 1, 4},
    {"f16", 1, 2},
    {"bf16", 1, 2},
    {"q8_0", 32, 34},
    {"q4_0", 32, 18},
    {"q4_1", 32, 20},
    {"q5_0", 32, 22},
    {"q5_1", 32, 24},
    {"q4_k", 256, 144},
    {"q5_k", 256, 176},
    {"q6_k", 256, 210},
}};

}  // namespace

const DtypeInfo& InfoOf(Dtype dtype) { return kInfos[static_cast<size_t>(dtype)]; }

std::optional<Dtype> DtypeFromName(std::string_view name) {
  for (int i = 0; i < kNumDtypes; ++i)
    if (name == kInfos[static_cast<size_t>(i)].name) return static_cast<Dtype>(i);
  return std::nullopt;
}

}  // namespace cachette
