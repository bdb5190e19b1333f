#pragma once
// What kv_codec.cc and its kernels agree on; not for other files.

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "ops/attention/coded_layout.h"

namespace cachette::ops {

// Slots of a plain block to encode, lowest bit first.
struct EncodeSource {
  const std::byte* block;
  uint16_t mask;
};

struct BlockEncode {
  CodedLayout layout;
  Dtype dtype;  // of the sources
  const EncodeSource* sources;
  int num_sources;  // their masks have 64 bits in all
  std::byte* coded;
};

inline constexpr float kLargestF16 = 65504.0f;
inline constexpr float kSmallestF16 = 0x1p-24f;  // denormal

void EncodeBlockRef(const BlockEncode& encode);

}  // namespace cachette::ops

namespace cachette {
namespace avx2 {
void EncodeCodedBlock(const ops::BlockEncode& encode);
}
namespace avx512 {
void EncodeCodedBlock(const ops::BlockEncode& encode);
}
namespace avx512vnni {
void EncodeCodedBlock(const ops::BlockEncode& encode);
}
namespace avx512bf16 {
void EncodeCodedBlock(const ops::BlockEncode& encode);
}
}  // namespace cachette
