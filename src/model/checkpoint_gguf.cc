// GGUF metadata -> capability fields. Keys are prefixed by the architecture: "llama.block_count", ...

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "io/gguf.h"
#include "model/checkpoint.h"
#include "model/families.h"
#include "ops/quant/dequantize.h"

namespace cachette {
namespace {

class GgufCheckpoint final : public Checkpoint {
 public:
  GgufCheckpoint(std::string path, GgufFile file) : Checkpoint(std::move(path)), file_(std::move(file)) {
    weights_file_ = path_;
  }

  const GgufFile* gguf() const override { return &file_; }
  const TensorInfo* Find(std::string_view name) const override { return file_.Find(name); }
  void Drop(const TensorInfo& tensor) const override { file_.Drop(tensor); }
  std::vector<const TensorInfo*> Tensors() const override {
    std::vector<const TensorInfo*> list;
    for (const TensorInfo& tensor : file_.tensors()) list.push_back(&tensor);
    return list;
  }

  Result<void> ReadConfig();

 private:
  std::string Key(const char* suffix) const { return fmt::format("{}.{}", config_.family, suffix); }
  Result<void> ReadDims();
  Result<void> ReadRope(const Family& family);
  Result<void> ReadLayers(const Family& family);

  GgufFile file_;
};

Result<void> GgufCheckpoint::ReadDims() {
  const auto dim = [&](const char* suffix, auto... fallback) {
    return DimOf(file_.GetInt(Key(suffix), fallback...), path_, Key(suffix));
  };
  CACHETTE_TRY(config_.num_layers, dim("block_count"));
  CACHETTE_TRY(config_.hidden_dim, dim("embedding_length"));
  CACHETTE_TRY(config_.num_q_heads, dim("attention.head_count"));
  CACHETTE_TRY(config_.num_kv_heads, dim("attention.head_count_kv", config_.num_q_heads));
  CACHETTE_TRY(config_.ffn_dim, dim("feed_forward_length"));
  const int even_share = config_.num_q_heads > 0 ? config_.hidden_dim / config_.num_q_heads : 0;
  CACHETTE_TRY(config_.head_dim, dim("attention.key_length", even_share));
  CACHETTE_TRY(const int value_dim, dim("attention.value_length", config_.head_dim));
  if (value_dim != config_.head_dim)
    return Fail(Error::kUnsupported, fmt::format("{}: keys of {} and values of {} elements; they must be equal", path_,
                                                 config_.head_dim, value_dim));
  CACHETTE_TRY(config_.context_tokens, file_.GetInt(Key("context_length")));
  CACHETTE_TRY(const double eps, file_.GetFloat(Key("attention.layer_norm_rms_epsilon")));
  config_.rms_norm_eps = static_cast<float>(eps);
  CACHETTE_TRY(const TensorInfo* embedding, Get("token_embd.weight"));
  if (embedding->shape.size() != 2)
    return Fail(Error::kCorrupt, fmt::format("{}: token_embd.weight must be a matrix", path_));
  config_.vocab_size = static_cast<int>(embedding->shape[0]);
  return Ok();
}

Result<void> GgufCheckpoint::ReadRope(const Family& family) {
  ops::RopeConfig& rope = config_.rope;
  rope.pairing = family.gguf_pairing;
  CACHETTE_TRY(const int64_t rotary_dim, file_.GetInt(Key("rope.dimension_count"), config_.head_dim));
  rope.rotary_dim = static_cast<int>(rotary_dim);
  CACHETTE_TRY(const double base, file_.GetFloat(Key("rope.freq_base"), 10000.0));
  rope.base = static_cast<float>(base);

  CACHETTE_TRY(const double old_linear, file_.GetFloat(Key("rope.scale_linear"), 0.0));
  CACHETTE_TRY(const std::string_view type,
               file_.GetString(Key("rope.scaling.type"), old_linear > 0 ? "linear" : "none"));
  CACHETTE_TRY(const double factor, file_.GetFloat(Key("rope.scaling.factor"), old_linear > 0 ? old_linear : 1.0));
  rope.factor = static_cast<float>(factor);
  CACHETTE_TRY(rope.original_context_tokens,
               file_.GetInt(Key("rope.scaling.original_context_length"), config_.context_tokens));
  CACHETTE_TRY(const double attention_factor, file_.GetFloat(Key("rope.scaling.attn_factor"), 0.0));
  rope.attention_factor = static_cast<float>(attention_factor);
  CACHETTE_TRY(const double beta_fast, file_.GetFloat(Key("rope.scaling.yarn_beta_fast"), 32.0));
  CACHETTE_TRY(const double beta_slow, file_.GetFloat(Key("rope.scaling.yarn_beta_slow"), 1.0));
  rope.beta_fast = static_cast<float>(beta_fast);
  rope.beta_slow = static_cast<float>(beta_slow);
  if (type == "none") {
    rope.scaling = ops::RopeScaling::kNone;
  } else if (type == "linear") {
    rope.scaling = ops::RopeScaling::kLinear;
  } else if (type == "yarn") {
    rope.scaling = ops::RopeScaling::kYarn;
  } else {
    return Fail(Error::kUnsupported, fmt::format("{}: RoPE scaling '{}' is none of none, linear, yarn", path_, type));
  }
  if (const TensorInfo* factors = Find("rope_freqs.weight")) {  // llama3 scaling, already worked out
    rope.freq_factors.resize(static_cast<size_t>(factors->num_elements()));
    ops::Dequantize(factors->dtype, factors->bytes.data(), factors->num_elements(), rope.freq_factors.data());
  }
  config_.rope_local = rope;
  return Ok();
}

Result<void> GgufCheckpoint::ReadLayers(const Family& family) {
  config_.layers.resize(static_cast<size_t>(std::min(config_.num_layers, 4096)));  // ValidateConfig refuses more
  CACHETTE_TRY(const int64_t window, file_.GetInt(Key("attention.sliding_window"), 0));
  if (!family.is_gemma3) {
    for (LayerConfig& layer : config_.layers) layer.attention_window = static_cast<int32_t>(window);
    return Ok();
  }
  // Gemma 3: of every `pattern` layers the last sees everything, the others a window, with a RoPE base of their own.
  int64_t pattern = 6;
  std::vector<int64_t> is_local;  // per layer, in newer files
  if (file_.FindValue(Key("attention.sliding_window_pattern")) != nullptr) {
    CACHETTE_TRY(is_local, file_.GetInts(Key("attention.sliding_window_pattern")));
    if (is_local.size() == 1) {
      pattern = std::max<int64_t>(1, is_local[0]);
      is_local.clear();
    } else if (is_local.size() < config_.layers.size()) {
      return Fail(Error::kCorrupt,
                  fmt::format("{}: {} has {} entries for {} layers", path_, Key("attention.sliding_window_pattern"),
                              is_local.size(), config_.num_layers));
    }
  }
  for (size_t i = 0; i < config_.layers.size(); ++i) {
    const bool local = is_local.empty() ? (static_cast<int64_t>(i) + 1) % pattern != 0 : is_local[i] != 0;
    if (local && window > 0) config_.layers[i] = {static_cast<int32_t>(window), true};
  }
  CACHETTE_TRY(const double local_base, file_.GetFloat(Key("rope.freq_base_swa"), 10000.0));
  config_.rope_local = ops::RopeConfig{};
  config_.rope_local.rotary_dim = config_.rope.rotary_dim;
  config_.rope_local.pairing = config_.rope.pairing;
  config_.rope_local.base = static_cast<float>(local_base);
  config_.has_post_norms = true;
  config_.activation = ops::Activation::kGeluTanh;
  config_.embedding_scale = std::sqrt(static_cast<float>(config_.hidden_dim));
  return Ok();
}

Result<void> GgufCheckpoint::ReadConfig() {
  CACHETTE_TRY(const std::string_view architecture, file_.GetString("general.architecture"));
  CACHETTE_TRY(const std::string_view name, file_.GetString("general.name", ""));
  config_.family = architecture;
  config_.name = name;
  CACHETTE_TRY(const Family* family, FindFamily(&Family::gguf_architecture, architecture, path_));
  config_.has_qk_norm = family->has_qk_norm;
  CACHETTE_TRY(ReadDims());
  CACHETTE_TRY(ReadRope(*family));
  CACHETTE_TRY(ReadLayers(*family));
  CACHETTE_TRY(const double scale, file_.GetFloat(Key("attention.scale"), 0.0));
  config_.attention_scale =
      scale > 0.0 ? static_cast<float>(scale) : 1.0f / std::sqrt(static_cast<float>(std::max(config_.head_dim, 1)));
  CACHETTE_TRY(const double softcap, file_.GetFloat(Key("attn_logit_softcapping"), 0.0));
  CACHETTE_TRY(const double logit_softcap, file_.GetFloat(Key("final_logit_softcapping"), 0.0));
  config_.attention_softcap = static_cast<float>(softcap);
  config_.logit_softcap = static_cast<float>(logit_softcap);
  return ValidateConfig(config_, path_);
}

}  // namespace

Result<std::unique_ptr<Checkpoint>> OpenGgufCheckpoint(const std::string& path) {
  CACHETTE_TRY(GgufFile file, GgufFile::Open(path));
  auto checkpoint = std::make_unique<GgufCheckpoint>(path, std::move(file));
  CACHETTE_TRY(checkpoint->ReadConfig());
  return std::unique_ptr<Checkpoint>(std::move(checkpoint));
}

}  // namespace cachette
