#pragma once
// Rotary position embedding and its context-extension variants.

#include <cstdint>
#include <span>
#include <vector>

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
  float factor = 1.0f;                // linear, llama3, yarn, dynamic
  float low_freq_factor = 1.0f;       // llama3
  float high_freq_factor = 4.0f;      // llama3
  int64_t original_context_tokens = 0;  // llama3, yarn, dynamic
  float beta_fast = 32.0f;            // yarn
  float beta_slow = 1.0f;             // yarn
  float attention_factor = 0.0f;      // yarn; 0: derived as 0.1 ln(factor) + 1
  bool truncate_yarn_range = true;    // yarn: round the correction range to whole dimensions
  std::vector<float> freq_factors;    // [rotary_dim / 2] divisors from a GGUF rope_freqs tensor, or empty
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

// cos and sin of the tokens of one step, computed once and shared by all heads and layers.
struct RopeAngles {
  RopePairing pairing = RopePairing::kHalves;
  int rotary_dim = 0;
  std::vector<float> cos, sin;  // [num_tokens][rotary_dim / 2], times the table's magnitude
};

// Angles are reduced in double: positions of millions keep full precision.
RopeAngles ComputeRopeAngles(const RopeTable& table, std::span<const int32_t> positions);

// Rotates x [num_tokens][num_heads][head_dim] in place, token i by row first_token + i of angles; token_stride in
// elements. Elements past rotary_dim stay.
void ApplyRope(Context& cx, const RopeAngles& angles, int64_t first_token, float* x, int64_t num_tokens,
               int64_t token_stride, int num_heads, int head_dim);

}  // namespace cachette::ops
