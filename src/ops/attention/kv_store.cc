#include "ops/attention/kv_store.h"

#include <algorithm>
#include <cstring>

#include "base/result.h"
#include "ops/attention/element.h"
#include "ops/attention/kv_store_kernels.h"
#include "ops/simd.h"
#include "tensor/backend.h"

namespace cachette::ops {
namespace {

// All levels round alike, so the best one of the machine serves every Context.
const KvStoreKernels& BestKernels() {
  static const KvStoreKernels best =
      ForIsa(FindBackend("auto")->isa, []<Isa kIsa>() { return KvStoreKernelsOf<kIsa>(); });
  return best;
}

constexpr int kMaxHeadDim = 256;

bool IsPlain(Dtype dtype) { return dtype == Dtype::kF32 || dtype == Dtype::kF16 || dtype == Dtype::kBF16; }

template <class Byte>
Byte* BlockOf(Byte* const* blocks, int64_t slot_idx) {
  return blocks[slot_idx / kBlockTokens];
}

}  // namespace

void StoreEntries(const KvFormat& format, std::byte* const* blocks, int64_t first_slot, const float* keys,
                  int64_t key_stride, const float* values, int64_t value_stride, int64_t num_tokens) {
  CACHETTE_CHECK(IsPlain(format.dtype) && format.head_dim > 0 && format.head_dim % 8 == 0);
  const KvStoreKernels& kernels = BestKernels();
  for (int64_t t = 0; t < num_tokens;) {
    const int64_t slot = first_slot + t;
    const int slot_idx = static_cast<int>(slot % kBlockTokens);
    const int count = static_cast<int>(std::min<int64_t>(kBlockTokens - slot_idx, num_tokens - t));
    std::byte* block = BlockOf(blocks, slot);
    kernels.store_block({format.dtype, format.head_dim, block, block + format.values_offset_bytes(), slot_idx, count,
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
  CACHETTE_CHECK(IsPlain(format.dtype) && format.head_dim > 0 && format.head_dim % 8 == 0);
  const KvStoreKernels& kernels = BestKernels();
  for (const std::byte* block : blocks) {
    kernels.load_keys({format.dtype, format.head_dim, block, keys});
    keys += kBlockTokens * format.head_dim;
  }
}

void GatherEntries(const KvFormat& format, const std::byte* const* blocks, const float* keys,
                   std::span<const int32_t> slots, std::byte* to) {
  static constexpr float kZeroKey[kMaxHeadDim] = {};
  CACHETTE_CHECK(IsPlain(format.dtype) && format.head_dim <= kMaxHeadDim && format.head_dim % 8 == 0);
  CACHETTE_CHECK(slots.size() <= kBlockTokens);
  KeyRows rows{format.dtype, format.head_dim, {}, to};
  std::fill(std::begin(rows.rows), std::end(rows.rows), kZeroKey);
  const size_t row_bytes = format.element_bytes() * static_cast<size_t>(format.head_dim);
  const std::byte* values[kBlockTokens];
  for (size_t i = 0; i < slots.size(); ++i) {
    rows.rows[i] = keys + int64_t{slots[i]} * format.head_dim;
    values[i] = BlockOf(blocks, slots[i]) + format.values_offset_bytes() +
                static_cast<size_t>(slots[i] % kBlockTokens) * row_bytes;
    // Entries lie anywhere in megabytes: fetch all of them before the first is waited for.
    for (size_t at = 0; at < row_bytes; at += 64) __builtin_prefetch(values[i] + at);
  }
  BestKernels().store_keys(rows);
  std::byte* value = to + format.values_offset_bytes();
  for (size_t i = 0; i < slots.size(); ++i, value += row_bytes) std::memcpy(value, values[i], row_bytes);
  std::memset(value, 0, (kBlockTokens - slots.size()) * row_bytes);
}

void CopyEntry(const KvFormat& format, const std::byte* const* from_blocks, int64_t from_slot,
               std::byte* const* to_blocks, int64_t to_slot) {
  const auto from_idx = static_cast<size_t>(from_slot % kBlockTokens);
  const auto to_idx = static_cast<size_t>(to_slot % kBlockTokens);
  const std::byte* from = BlockOf(from_blocks, from_slot);
  std::byte* to = BlockOf(to_blocks, to_slot);
  const auto copy_key = [&]<size_t kBytes>() {
    for (size_t d = 0; d < static_cast<size_t>(format.head_dim); ++d)
      std::memcpy(to + (d * kBlockTokens + to_idx) * kBytes, from + (d * kBlockTokens + from_idx) * kBytes, kBytes);
  };
  if (to != from || to_idx != from_idx) {
    if (format.element_bytes() == 2)
      copy_key.operator()<2>();
    else
      copy_key.operator()<4>();
  }
  const size_t row_bytes = format.element_bytes() * static_cast<size_t>(format.head_dim);
  std::memmove(to + format.values_offset_bytes() + to_idx * row_bytes,
               from + format.values_offset_bytes() + from_idx * row_bytes, row_bytes);
}

}  // namespace cachette::ops
