#include "ops/rope/rope.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/result.h"
#include "ops/rope/rope_kernels.h"
#include "ops/simd.h"

namespace cachette::ops {
namespace {

// Elements a task handles: about 10 us of work, several times the cost of waking a thread.
constexpr int64_t kTaskElements = 64 << 10;

RopeKernels KernelsOf(const Context& cx) {
  return ForIsa(cx.isa(), []<Isa kIsa>() { return RopeKernelsOf<kIsa>(); });
}

// Runs body(item) for [0, num_items) in tasks of about kTaskElements.
template <class Body>
void ForItems(Context& cx, int64_t num_items, int64_t elements_per_item, const Body& body) {
  const int64_t per_task = std::max<int64_t>(1, kTaskElements / std::max<int64_t>(1, elements_per_item));
  cx.ParallelFor((num_items + per_task - 1) / per_task, [&](int64_t task) {
    const int64_t end = std::min(num_items, (task + 1) * per_task);
    for (int64_t i = task * per_task; i < end; ++i) body(i);
  });
}

}  // namespace

void ComputeRopeAngles(Context& cx, const RopeTable& table, std::span<const int32_t> positions, RopeAngles& angles) {
  const auto num_pairs = static_cast<size_t>(table.rotary_dim / 2);
  CACHETTE_CHECK(table.inv_freq.size() == num_pairs);
  angles.pairing = table.pairing;
  angles.rotary_dim = table.rotary_dim;
  angles.num_tokens = static_cast<int64_t>(positions.size());
  angles.cos.resize(positions.size() * num_pairs);
  angles.sin.resize(positions.size() * num_pairs);
  const auto magnitude = static_cast<double>(table.magnitude);
  // A sine with its cosine costs about as much as 32 simple elements.
  ForItems(cx, angles.num_tokens, static_cast<int64_t>(num_pairs) * 32, [&](int64_t token) {
    const auto t = static_cast<size_t>(token);
    for (size_t i = 0; i < num_pairs; ++i) {
      const double theta = static_cast<double>(positions[t]) * static_cast<double>(table.inv_freq[i]);
      angles.cos[t * num_pairs + i] = static_cast<float>(std::cos(theta) * magnitude);
      angles.sin[t * num_pairs + i] = static_cast<float>(std::sin(theta) * magnitude);
    }
  });
}

void ApplyRope(Context& cx, const RopeAngles& angles, float* x, int64_t token_stride, int num_heads, int head_dim) {
  CACHETTE_CHECK(angles.rotary_dim <= head_dim);
  const RopeKernels kernels = KernelsOf(cx);
  const int num_pairs = angles.rotary_dim / 2;
  ForItems(cx, angles.num_tokens, num_heads * head_dim, [&](int64_t t) {
    kernels.rotate_token({x + t * token_stride, num_heads, head_dim, num_pairs,
                          angles.pairing == RopePairing::kAdjacent, angles.cos.data() + t * num_pairs,
                          angles.sin.data() + t * num_pairs});
  });
}

void ApplyRope(Context& cx, const RopeTable& table, float* x, int64_t token_stride, int num_heads, int head_dim,
               std::span<const int32_t> positions) {
  RopeAngles angles;
  ComputeRopeAngles(cx, table, positions, angles);
  ApplyRope(cx, angles, x, token_stride, num_heads, head_dim);
}

void RotateBlockKeys(Context& cx, const RopeAngles& angles, const KvRow& kv, std::byte* const* out_blocks) {
  CACHETTE_CHECK(angles.num_tokens >= kv.num_slots && angles.rotary_dim <= kv.format.head_dim &&
                 kv.num_coded_slots == 0);
  const RopeKernels kernels = KernelsOf(cx);
  const int num_pairs = angles.rotary_dim / 2;
  const size_t half = kv.format.values_offset_bytes();
  const int64_t num_blocks = BlocksFor(kv.num_slots);
  ForItems(cx, num_blocks, 2 * kBlockTokens * kv.format.head_dim, [&](int64_t b) {
    const int64_t slot = b * kBlockTokens;
    kernels.rotate_block({kv.blocks[b], out_blocks[b], kv.format.dtype,
                          static_cast<int>(std::min<int64_t>(kBlockTokens, kv.num_slots - slot)), kv.format.head_dim,
                          num_pairs, angles.pairing == RopePairing::kAdjacent, angles.cos.data() + slot * num_pairs,
                          angles.sin.data() + slot * num_pairs});
    std::memcpy(out_blocks[b] + half, kv.blocks[b] + half, half);
  });
}

}  // namespace cachette::ops
