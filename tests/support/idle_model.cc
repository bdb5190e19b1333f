#include "support/idle_model.h"

#include <fmt/format.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "io/safetensors.h"

namespace cachette::test {

std::string WriteIdleModel(const std::string& folder, const std::string& family) {
  constexpr int kLayers = kIdleLayers, kHidden = 64, kQHeads = 4, kKvHeads = kIdleKvHeads, kHeadDim = 16, kFfn = 32,
                kVocab = kIdleVocab;
  std::filesystem::create_directories(folder);
  const bool is_gemma = family == "gemma3_text";
  std::ofstream(folder + "/config.json") << fmt::format(
      R"({{"model_type": "{}", "num_hidden_layers": {}, "hidden_size": {}, "num_attention_heads": {},
 "num_key_value_heads": {}, "head_dim": {}, "intermediate_size": {}, "vocab_size": {}, "max_position_embeddings": 4096,
 "rms_norm_eps": 1e-6, "rope_theta": 50000.0, "tie_word_embeddings": true{}}})",
      family, kLayers, kHidden, kQHeads, kKvHeads, kHeadDim, kFfn, kVocab,
      is_gemma ? R"(, "rope_local_base_freq": 100.0, "sliding_window": 40, "query_pre_attn_scalar": 16,
 "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"])"
               : "");
  Rng rng(3);
  std::map<std::string, std::pair<std::vector<int64_t>, std::vector<float>>> tensors;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, double spread) {
    int64_t count = 1;
    for (const int64_t dim : shape) count *= dim;
    std::vector<float>& values = tensors[name].second;
    for (int64_t i = 0; i < count; ++i) values.push_back(static_cast<float>(spread * rng.Normal()));
    tensors[name].first = std::move(shape);
  };
  add("model.embed_tokens.weight", {kVocab, kHidden}, 1.0);
  add("model.norm.weight", {kHidden}, 1.0);
  for (int layer = 0; layer < kLayers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    for (const auto& [name, num_heads] :
         std::map<std::string, int64_t>{{"q_proj", kQHeads}, {"k_proj", kKvHeads}, {"v_proj", kKvHeads}}) {
      add(prefix + "self_attn." + name + ".weight", {num_heads * kHeadDim, kHidden}, 0.3);
      if (family == "qwen2") add(prefix + "self_attn." + name + ".bias", {num_heads * kHeadDim}, 0.5);
    }
    add(prefix + "self_attn.o_proj.weight", {kHidden, kQHeads * kHeadDim}, 0.0);
    add(prefix + "mlp.gate_proj.weight", {kFfn, kHidden}, 0.3);
    add(prefix + "mlp.up_proj.weight", {kFfn, kHidden}, 0.3);
    add(prefix + "mlp.down_proj.weight", {kHidden, kFfn}, 0.0);
    for (const char* name : {"input_layernorm", "post_attention_layernorm"})
      add(prefix + name + ".weight", {kHidden}, 1.0);
    if (is_gemma)
      for (const char* name : {"pre_feedforward_layernorm", "post_feedforward_layernorm"})
        add(prefix + name + ".weight", {kHidden}, 1.0);
    if (is_gemma || family == "qwen3")
      for (const char* name : {"q_norm", "k_norm"}) add(prefix + "self_attn." + name + ".weight", {kHeadDim}, 1.0);
  }
  SafetensorsWriter writer;
  for (const auto& [name, tensor] : tensors)
    CACHETTE_CHECK(writer.Add(name, Dtype::kF32, tensor.first, std::as_bytes(std::span(tensor.second))).ok());
  CACHETTE_CHECK(writer.Write(folder + "/model.safetensors").ok());
  return folder;
}

}  // namespace cachette::test
