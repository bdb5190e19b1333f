#pragma once
// What a model is, by capability: every supported family is a set of values here, never a name to branch on.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "ops/activation/gated.h"
#include "ops/rope/rope.h"

namespace cachette {

struct LayerConfig {
  int32_t attention_window = 0;  // > 0: a query sees positions > its own - attention_window only
  bool uses_local_rope = false;  // rope_local instead of rope
};

struct ModelConfig {
  std::string family;  // as the file calls it; for messages only
  std::string name;
  int num_layers = 0;
  int hidden_dim = 0;
  int num_q_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int ffn_dim = 0;
  int vocab_size = 0;
  int64_t context_tokens = 0;  // longest context the model was made for

  float rms_norm_eps = 1e-5f;
  float norm_weight_offset = 0.0f;  // 1: the file stores norm weights minus one
  float embedding_scale = 1.0f;
  float attention_scale = 0.0f;
  float attention_softcap = 0.0f;  // 0: none
  float logit_softcap = 0.0f;      // 0: none
  ops::Activation activation = ops::Activation::kSilu;
  bool has_qk_norm = false;     // RMSNorm of each query and key head before RoPE
  bool has_post_norms = false;  // RMSNorm after attention and after the feed-forward, before each residual sum

  ops::RopeConfig rope;
  ops::RopeConfig rope_local;
  std::vector<LayerConfig> layers;  // [num_layers]

  int group_size() const { return num_q_heads / num_kv_heads; }
};

// A size that a model file states, as an int. Errors: value's own; kCorrupt (negative or above 2^31 - 1), naming the
// file and the field.
Result<int> DimOf(const Result<int64_t>& value, const std::string& file, std::string_view field);

// Checks sizes that the forward pass relies on. Errors: kCorrupt (a field is missing, zero or contradicts another),
// kUnsupported (head_dim not a multiple of 8 or above 256). file is for the message.
Result<void> ValidateConfig(const ModelConfig& config, const std::string& file);

// Stretches RoPE linearly by factor (position interpolation) on top of what the file says, and the context with it.
// Errors: kInvalidArgument when factor < 1 or the file's own scaling is not linear or none.
Result<void> StretchContext(ModelConfig& config, double factor);

}  // namespace cachette
