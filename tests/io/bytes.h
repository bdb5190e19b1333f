#pragma once

#include <cstddef>
#include <vector>

namespace cachette {

// Bytes that differ from their neighbours.
inline std::vector<std::byte> Bytes(size_t count, int seed = 1) {
  std::vector<std::byte> bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(static_cast<int>(i) * 7 + seed);
  return bytes;
}

}  // namespace cachette
