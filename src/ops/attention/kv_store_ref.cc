#include "ops/attention/element.h"
#include "ops/attention/kv_store_kernels.h"
#include "ops/attention/kv_view.h"

namespace cachette::ops {

namespace {

void StoreBlockRef(const BlockStore& store) {
  for (int t = 0; t < store.num_tokens; ++t) {
    const int slot = store.slot_idx + t;
    for (int d = 0; d < store.head_dim; ++d) {
      SetElement(store.dtype, store.keys, d * kBlockTokens + slot, store.key_rows[t * store.key_stride + d]);
      SetElement(store.dtype, store.values, slot * store.head_dim + d, store.value_rows[t * store.value_stride + d]);
    }
  }
}

void LoadKeysRef(const BlockKeys& block) {
  for (int d = 0; d < block.head_dim; ++d)
    for (int slot = 0; slot < kBlockTokens; ++slot)
      block.rows[slot * block.head_dim + d] = ElementAt(block.dtype, block.keys, d * kBlockTokens + slot);
}

void StoreKeysRef(const KeyRows& keys) {
  for (int d = 0; d < keys.head_dim; ++d)
    for (int slot = 0; slot < kBlockTokens; ++slot)
      SetElement(keys.dtype, keys.keys, d * kBlockTokens + slot, keys.rows[slot][d]);
}

}  // namespace

template <>
KvStoreKernels KvStoreKernelsOf<Isa::kRef>() {
  return {StoreBlockRef, LoadKeysRef, StoreKeysRef};
}

}  // namespace cachette::ops
