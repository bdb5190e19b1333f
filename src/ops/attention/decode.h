#pragma once

#include <cstdint>
#include <span>

#include "ops/attention/kv_view.h"
#include "tensor/context.h"

namespace cachette::ops {

// Online-softmax state of one query head: out is normalised by denominator; max is of the scaled logits.
struct SoftmaxState {
  float max;          // -inf when no entry was visible
  float denominator;  // sum of exp(logit - max); 0 when no entry was visible
};

struct DecodeRow {
  KvRow kv;
  const float* q;          // [group_size][head_dim]
  float* out;              // [group_size][head_dim]; may alias q
  SoftmaxState* state;     // [group_size] or null
  int64_t first_slot = 0;  // slots before it are masked (the model's own attention window)
};

struct DecodeParams {
  std::span<const DecodeRow> rows;  // one per (request, KV head); lengths and formats may differ
  int group_size = 1;               // query heads per KV head
  int head_dim = 0;                 // a multiple of 8, at most 256
  float scale = 1.0f;               // applied to q.k before the softcap
  float softcap = 0.0f;             // > 0: logits = softcap * tanh(logits / softcap)
};

// Attention of one decode query per row over its entries; online softmax, f32 accumulation.
// A row with no visible entry yields out = 0, max = -inf, denominator = 0. Long rows are split over threads at fixed
// slot boundaries (independent of thread count and of the other rows) and merged by (out, max, denominator).
// No sync, scratch from cx. Moves the visible blocks once: sum of num_slots * entry_bytes(), coded slots with those of
// their layout; codes become f32 in registers only.
// Source: online softmax, arXiv:1805.02867; split and rescaled merge, arXiv:2205.14135, 2311.01282.
void DecodeAttention(Context& cx, const DecodeParams& params);

// Merges state b with its output into a: both over disjoint entries of the same query. An empty side is neutral.
void MergeSoftmaxState(SoftmaxState& a, float* out_a, const SoftmaxState& b, const float* out_b, int head_dim);

}  // namespace cachette::ops
