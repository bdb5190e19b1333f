#pragma once
// The supported model families: to add one, add its row and, where it names a tensor anew, a rule in families.cc. What
// a family's file says itself (sizes, RoPE, windows) is read by the checkpoint of its format.

#include <string>
#include <string_view>

#include "base/result.h"
#include "ops/rope/rope.h"

namespace cachette {

// What a family's name implies beyond its file's fields.
struct Family {
  const char* gguf_architecture;
  const char* hf_model_type;
  ops::RopePairing gguf_pairing;  // of rows of query and key weights in GGUF; config.json models have halves
  bool has_qk_norm;
  bool is_gemma3;  // GeGLU, post norms, scaled embeddings, local layers with their own RoPE
};

// name_of: &Family::gguf_architecture or &Family::hf_model_type. file is for the message.
// Errors: kUnsupported, naming all families.
Result<const Family*> FindFamily(const char* Family::*name_of, std::string_view name, std::string_view file);

// Our name ("blk.3.attn_q.weight") for a Hugging Face one ("model.layers.3.self_attn.q_proj.weight"), "" for tensors
// that are not used. Families with post norms call another norm post_attention_layernorm.
std::string CanonicalTensorName(std::string_view hf_name, bool has_post_norms);

}  // namespace cachette
