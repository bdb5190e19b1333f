#include "ops/attention/kv_store.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/result.h"
#include "ops/attention/element.h"
#include "ops/attention/kv_store_kernels.h"
#include "tensor/backend.h"

namespace cachette::ops {
namespace {

using StoreBlockFn = void (*)(const BlockStore&);

// All levels round alike, so the best one of the machine serves every Context.
StoreBlockFn BestStoreBlock() {
#if defined(CACHETTE_X86)
  constexpr std::array<StoreBlockFn, kNumIsas> kTable = {StoreBlockRef, avx2::StoreBlock, avx512::StoreBlock,
                                                         avx512vnni::StoreBlock, avx512bf16::StoreBlock};
  static const StoreBlockFn best = kTable[static_cast<size_t>(FindBackend("auto")->isa)];
  return best;
#else
  return StoreBlockRef;
#endif
}

bool IsPlain(Dtype dtype) { return dtype == Dtype::kF32 || dtype == Dtype::kF16 || dtype == Dtype::kBF16; }

template <class Byte>
Byte* BlockOf(Byte* const* blocks, int64_t slot_idx) {
  return blocks[slot_idx / kBlockTokens];
}

}  // namespace

void StoreEntries(const KvFormat& format, std::byte* const* blocks, int64_t first_slot, const float* keys,
                  int64_t key_stride, const float* values, int64_t value_stride, int64_t num_tokens) {
  CACHETTE_CHECK(IsPlain(format.dtype) && format.head_dim > 0 && format.head_dim % 8 == 0);
  const StoreBlockFn store_block = BestStoreBlock();
  for (int64_t t = 0; t < num_tokens;) {
    const int64_t slot = first_slot + t;
    const int slot_idx = static_cast<int>(slot % kBlockTokens);
    const int count = static_cast<int>(std::min<int64_t>(kBlockTokens - slot_idx, num_tokens - t));
    std::byte* block = BlockOf(blocks, slot);
    store_block({format.dtype, format.head_dim, block, block + format.values_offset_bytes(), slot_idx, count,
                 keys + t * key_stride, key_stride, values + t * value_stride, value_stride});
    t += count;
  }
}

void LoadEntry(const KvFormat& format, const std::byte* const* blocks, int64_t slot_idx, float* key, float* value) {
  const std::byte* block = BlockOf(blocks, slot_idx);
  const int64_t slot = slot_idx % kBlockTokens;
  for (int d = 0; d < format.head_dim; ++d) {
    if (key != nullptr) key[d] = ElementAt(format.dtype, block, d * kBlockTokens + slot);
    if (value != nullptr)
      value[d] = ElementAt(format.dtype, block + format.values_offset_bytes(), slot * format.head_dim + d);
  }
}

void LoadKeys(const KvFormat& format, std::span<const std::byte* const> blocks, float* keys) {
  for (const std::byte* block : blocks) {
    for (int d = 0; d < format.head_dim; ++d)
      for (int slot = 0; slot < kBlockTokens; ++slot)
        keys[slot * format.head_dim + d] = ElementAt(format.dtype, block, d * kBlockTokens + slot);
    keys += kBlockTokens * format.head_dim;
  }
}

void CopyEntry(const KvFormat& format, const std::byte* const* from_blocks, int64_t from_slot,
               std::byte* const* to_blocks, int64_t to_slot) {
  const size_t e = format.element_bytes();
  const size_t row_bytes = e * static_cast<size_t>(format.head_dim);
  const std::byte* from = BlockOf(from_blocks, from_slot);
  std::byte* to = BlockOf(to_blocks, to_slot);
  const auto from_idx = static_cast<size_t>(from_slot % kBlockTokens);
  const auto to_idx = static_cast<size_t>(to_slot % kBlockTokens);
  for (size_t d = 0; d < static_cast<size_t>(format.head_dim); ++d)
    std::memmove(to + (d * kBlockTokens + to_idx) * e, from + (d * kBlockTokens + from_idx) * e, e);
  std::memmove(to + format.values_offset_bytes() + to_idx * row_bytes,
               from + format.values_offset_bytes() + from_idx * row_bytes, row_bytes);
}

}  // namespace cachette::ops
