#pragma once
// What kv_store.cc and its kernels agree on; not for other files.

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "tensor/isa.h"

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

// The keys of one block as f32 rows.
struct BlockKeys {
  Dtype dtype;
  int head_dim;
  const std::byte* keys;  // [head_dim][16]
  float* rows;            // [16][head_dim]
};

// The keys of a whole block from rows that lie anywhere.
struct KeyRows {
  Dtype dtype;
  int head_dim;
  const float* rows[16];  // [head_dim] each
  std::byte* keys;        // [head_dim][16]
};

struct KvStoreKernels {
  void (*store_block)(const BlockStore& store);
  void (*load_keys)(const BlockKeys& block);
  void (*store_keys)(const KeyRows& keys);
};

template <Isa>
KvStoreKernels KvStoreKernelsOf();
template <>
KvStoreKernels KvStoreKernelsOf<Isa::kRef>();
template <>
KvStoreKernels KvStoreKernelsOf<Isa::kAvx2>();
template <>
KvStoreKernels KvStoreKernelsOf<Isa::kAvx512>();
template <>
KvStoreKernels KvStoreKernelsOf<Isa::kAvx512Vnni>();
template <>
KvStoreKernels KvStoreKernelsOf<Isa::kAvx512Bf16>();

}  // namespace cachette::ops
