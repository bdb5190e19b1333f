#include "model/families.h"

#include <fmt/format.h>

namespace cachette {
namespace {

using ops::RopePairing;

constexpr Family kFamilies[] = {
    // GGUF, config.json, pairs in GGUF, QK norm, Gemma 3
    {"llama", "llama", RopePairing::kAdjacent, false, false},  // 2, 3, SmolLM2
    {"mistral", "mistral", RopePairing::kAdjacent, false, false},
    {"qwen2", "qwen2", RopePairing::kHalves, false, false},  // 2.5 too
    {"qwen3", "qwen3", RopePairing::kHalves, true, false},
    {"gemma3", "gemma3_text", RopePairing::kHalves, true, true},
};

// One tensor name component after "model.layers.N.".
struct NameRule {
  const char* hf;
  const char* canonical;
};
constexpr NameRule kLayerRules[] = {
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"pre_feedforward_layernorm", "ffn_norm"},
    {"post_feedforward_layernorm", "post_ffw_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};

}  // namespace

Result<const Family*> FindFamily(const char* Family::*name_of, std::string_view name, std::string_view file) {
  std::string known;
  for (const Family& family : kFamilies) {
    if (name == family.*name_of) return &family;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", family.*name_of);
  }
  const char* const what = name_of == &Family::gguf_architecture ? "architecture" : "model_type";
  return Fail(Error::kUnsupported, fmt::format("{}: {} '{}' is none of {}", file, what, name, known));
}

std::string CanonicalTensorName(std::string_view hf_name, bool has_post_norms) {
  if (hf_name == "model.embed_tokens.weight") return "token_embd.weight";
  if (hf_name == "model.norm.weight") return "output_norm.weight";
  if (hf_name == "lm_head.weight") return "output.weight";
  constexpr std::string_view kPrefix = "model.layers.";
  if (!hf_name.starts_with(kPrefix)) return "";
  hf_name.remove_prefix(kPrefix.size());
  const size_t number_end = hf_name.find('.');
  const size_t kind_begin = hf_name.rfind('.');
  if (number_end == std::string_view::npos || number_end == 0 || kind_begin <= number_end) return "";
  const std::string_view number = hf_name.substr(0, number_end);
  const std::string_view middle = hf_name.substr(number_end + 1, kind_begin - number_end - 1);
  const std::string_view kind = hf_name.substr(kind_begin + 1);  // weight or bias
  if (middle == "post_attention_layernorm")  // the feed-forward's norm in all families but those with post norms
    return fmt::format("blk.{}.{}.{}", number, has_post_norms ? "post_attention_norm" : "ffn_norm", kind);
  for (const NameRule& rule : kLayerRules)
    if (middle == rule.hf) return fmt::format("blk.{}.{}.{}", number, rule.canonical, kind);
  return "";
}

}  // namespace cachette
