#pragma once
// What kv_store.cc and its kernels agree on; not for other files.

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace cachette::ops {

// num_tokens <= 16 consecutive tokens for one block, from slot_idx on: f32 rows in, elements of dtype out.
struct BlockStore {
  Dtype dtype;
  int head_dim;
  std::byte* keys;    // [head_dim][16]
  std::byte* values;  // [16][head_dim]
  int slot_idx;       // first slot written
  int num_tokens;
  const float* key_rows;  // [num_tokens][head_dim], stride key_stride
  int64_t key_stride;
  const float* value_rows;
  int64_t value_stride;
};

void StoreBlockRef(const BlockStore& store);

}  // namespace cachette::ops

namespace cachette {
namespace avx2 {
void StoreBlock(const ops::BlockStore& store);
}
namespace avx512 {
void StoreBlock(const ops::BlockStore& store);
}
namespace avx512vnni {
void StoreBlock(const ops::BlockStore& store);
}
namespace avx512bf16 {
void StoreBlock(const ops::BlockStore& store);
}
}  // namespace cachette
