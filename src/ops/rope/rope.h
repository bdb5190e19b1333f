#pragma once
// Rotary position embedding and its context-extension variants.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ops/attention/kv_view.h"
#include "tensor/context.h"

namespace cachette::ops {

// Which two elements of a head form a rotated pair.
enum class RopePairing : uint8_t {
  kAdjacent,  // (2i, 2i+1): GGUF files of the llama architecture
  kHalves,    // (i, i + rotary_dim/2): safetensors checkpoints, GGUF qwen/gemma
};

enum class RopeScaling : uint8_t { kNone, kLinear, kLlama3, kYarn, kDynamic };

// Parameters as in config.json "rope_scaling" / GGUF "rope.scaling.*".
struct RopeConfig {
  int rotary_dim = 0;  // elements rotated per head, even
  float base = 10000.0f;
  RopePairing pairing = RopePairing::kHalves;
  RopeScaling scaling = RopeScaling::kNone;
  float factor = 1.0f;                   // linear, llama3, yarn, dynamic
  float low_freq_factor = 1.0f;          // llama3
  float high_freq_factor = 4.0f;         // llama3
  int64_t original_context_tokens = 0;   // llama3, yarn, dynamic
  float beta_fast = 32.0f;               // yarn
  float beta_slow = 1.0f;                // yarn
  float attention_factor = 0.0f;         // yarn; 0: derived as 0.1 ln(factor) + 1
  bool truncate_yarn_range = true;       // yarn: round the correction range to whole dimensions
  std::vector<float> freq_factors = {};  // [rotary_dim / 2] divisors from a GGUF rope_freqs tensor, or empty
};

// Frequencies ready to apply: theta_i = position * inv_freq[i]; cos and sin are multiplied by magnitude.
struct RopeTable {
  RopePairing pairing = RopePairing::kHalves;
  int rotary_dim = 0;
  std::vector<float> inv_freq;  // [rotary_dim / 2]
  float magnitude = 1.0f;
};

// Sources: RoPE arXiv:2104.09864; linear arXiv:2306.15595; yarn arXiv:2309.00071; dynamic NTK and llama3 as
// transformers' rope utilities define them. dynamic depends on context_tokens, the longest position in use + 1.
RopeTable MakeRopeTable(const RopeConfig& config, int64_t context_tokens);

// Cosines and sines for the tokens of a step, computed once and shared by q and k of all layers with the same table.
struct RopeAngles {
  RopePairing pairing = RopePairing::kHalves;
  int rotary_dim = 0;
  int64_t num_tokens = 0;
  std::vector<float> cos, sin;  // [num_tokens][rotary_dim / 2], times the table's magnitude
};

// Fills angles for positions (any order, negative ones included), reusing its memory. Angles are reduced in f64: at
// position 10^6 an f32 product would be off by 0.03 rad.
void ComputeRopeAngles(Context& cx, const RopeTable& table, std::span<const int32_t> positions, RopeAngles& angles);

// Rotates x [num_tokens][num_heads][head_dim] in place, token t by angles' token t; token_stride in elements.
void ApplyRope(Context& cx, const RopeAngles& angles, float* x, int64_t token_stride, int num_heads, int head_dim);

// The same with angles computed on the spot.
void ApplyRope(Context& cx, const RopeTable& table, float* x, int64_t token_stride, int num_heads, int head_dim,
               std::span<const int32_t> positions);

// Writes the row's blocks with their keys rotated by the angles of their slots: token t of angles is slot t, at least
// kv.num_slots of them. Values are copied. out_blocks as kv.blocks, not overlapping them. For keys stored un-rotated
// the angles are those of the positions to attend at; a shift of rotated keys by a constant delta is positions all
// equal to delta, from a table of magnitude 1. Moves every block once in and once out.
void RotateBlockKeys(Context& cx, const RopeAngles& angles, const KvRow& kv, std::byte* const* out_blocks);

}  // namespace cachette::ops
