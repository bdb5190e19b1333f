#include "ops/attention/element.h"
#include "ops/attention/kv_store_kernels.h"
#include "ops/attention/kv_view.h"

namespace cachette::ops {

void StoreBlockRef(const BlockStore& store) {
  for (int t = 0; t < store.num_tokens; ++t) {
    const int slot = store.slot_idx + t;
    for (int d = 0; d < store.head_dim; ++d) {
      SetElement(store.dtype, store.keys, d * kBlockTokens + slot, store.key_rows[t * store.key_stride + d]);
      SetElement(store.dtype, store.values, slot * store.head_dim + d, store.value_rows[t * store.value_stride + d]);
    }
  }
}

}  // namespace cachette::ops
