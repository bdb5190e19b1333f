#pragma once
// Storage formats of tensor elements, GGUF block formats included.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace cachette {

enum class Dtype : uint8_t { kF32, kF16, kBF16, kQ8_0, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ4_K, kQ5_K, kQ6_K };
inline constexpr int kNumDtypes = 11;

// How a format stores a row: block_elements consecutive elements take block_bytes bytes.
struct DtypeInfo {
  const char* name;    // as in GGUF, lower case: "f16", "q4_k"
  int block_elements;  // 1 for plain formats
  int block_bytes;
};

const DtypeInfo& InfoOf(Dtype dtype);
std::optional<Dtype> DtypeFromName(std::string_view name);
inline bool IsQuantized(Dtype dtype) { return InfoOf(dtype).block_elements > 1; }

// Bytes of a row of num_elements (a multiple of block_elements).
inline size_t RowBytes(Dtype dtype, int64_t num_elements) {
  const DtypeInfo& info = InfoOf(dtype);
  return static_cast<size_t>(num_elements / info.block_elements) * static_cast<size_t>(info.block_bytes);
}

}  // namespace cachette
