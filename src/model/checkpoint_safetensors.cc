// config.json -> capability fields, Hugging Face tensor names -> ours.

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "io/json_file.h"
#include "io/safetensors.h"
#include "model/checkpoint.h"
#include "model/families.h"

namespace cachette {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

// A reader of typed fields with one sentence per failure.
class Fields {
 public:
  Fields(const json& object, const std::string& file) : object_(object), file_(file) {}

  bool Has(const char* key) const { return object_.contains(key) && !object_.at(key).is_null(); }

  template <class T>
  Result<T> Get(const char* key) const {
    if (!Has(key)) return Fail(Error::kCorrupt, fmt::format("{}: field \"{}\" is missing", file_, key));
    return Convert<T>(key);
  }
  template <class T>
  Result<T> Get(const char* key, T fallback) const {
    if (!Has(key)) return fallback;
    return Convert<T>(key);
  }
  const json& at(const char* key) const { return object_.at(key); }
  const std::string& file() const { return file_; }

 private:
  template <class T>
  Result<T> Convert(const char* key) const {
    const json& value = object_.at(key);
    const auto wrong = [&](const char* expected) {
      return Fail(Error::kCorrupt,
                  fmt::format("{}: field \"{}\" is {}, expected {}", file_, key, value.dump().substr(0, 40), expected));
    };
    if constexpr (std::is_same_v<T, std::string>) {
      if (!value.is_string()) return wrong("a string");
      return value.get<std::string>();
    } else if constexpr (std::is_same_v<T, bool>) {
      if (!value.is_boolean()) return wrong("true or false");
      return value.get<bool>();
    } else if constexpr (std::is_same_v<T, int64_t>) {
      if (!value.is_number_integer()) return wrong("a whole number");
      return value.get<int64_t>();
    } else {
      if (!value.is_number()) return wrong("a number");
      return static_cast<T>(value.get<double>());
    }
  }

  const json& object_;
  const std::string& file_;
};

// "rope_scaling" (or the newer "rope_parameters") of one kind of layer.
Result<void> ReadRopeScaling(const json& scaling, const std::string& file, int64_t max_positions,
                             ops::RopeConfig& rope) {
  if (scaling.is_null()) return Ok();
  if (!scaling.is_object()) return Fail(Error::kCorrupt, fmt::format("{}: rope_scaling must be an object", file));
  const Fields fields(scaling, file);
  std::string type;
  if (fields.Has("rope_type")) {
    CACHETTE_TRY(type, fields.Get<std::string>("rope_type"));
  } else {
    CACHETTE_TRY(type, fields.Get<std::string>("type", "default"));
  }
  CACHETTE_TRY(rope.base, fields.Get<float>("rope_theta", rope.base));
  CACHETTE_TRY(rope.factor, fields.Get<float>("factor", 1.0f));
  CACHETTE_TRY(rope.original_context_tokens, fields.Get<int64_t>("original_max_position_embeddings", max_positions));
  if (type == "default") {
    rope.factor = 1.0f;
  } else if (type == "linear") {
    rope.scaling = ops::RopeScaling::kLinear;
  } else if (type == "dynamic") {
    rope.scaling = ops::RopeScaling::kDynamic;
  } else if (type == "llama3") {
    rope.scaling = ops::RopeScaling::kLlama3;
    CACHETTE_TRY(rope.low_freq_factor, fields.Get<float>("low_freq_factor"));
    CACHETTE_TRY(rope.high_freq_factor, fields.Get<float>("high_freq_factor"));
  } else if (type == "yarn") {
    rope.scaling = ops::RopeScaling::kYarn;
    CACHETTE_TRY(rope.attention_factor, fields.Get<float>("attention_factor", 0.0f));
    CACHETTE_TRY(rope.beta_fast, fields.Get<float>("beta_fast", 32.0f));
    CACHETTE_TRY(rope.beta_slow, fields.Get<float>("beta_slow", 1.0f));
    CACHETTE_TRY(rope.truncate_yarn_range, fields.Get<bool>("truncate", true));
    if (fields.Has("mscale") || fields.Has("mscale_all_dim"))
      return Fail(Error::kUnsupported, fmt::format("{}: yarn with mscale is not supported", file));
  } else {
    return Fail(Error::kUnsupported, fmt::format("{}: RoPE scaling '{}' is none of default, linear, dynamic, llama3, "
                                                 "yarn",
                                                 file, type));
  }
  return Ok();
}

class SafetensorsCheckpoint final : public Checkpoint {
 public:
  SafetensorsCheckpoint(std::string path, std::string folder, SafetensorsFile file)
      : Checkpoint(std::move(path)), folder_(std::move(folder)), file_(std::move(file)) {}

  std::string folder() const override { return folder_; }
  const TensorInfo* Find(std::string_view name) const override {
    const auto it = by_name_.find(name);
    return it == by_name_.end() ? nullptr : it->second;
  }
  void Drop(const TensorInfo& tensor) const override { file_.Drop(tensor); }
  std::vector<const TensorInfo*> Tensors() const override {
    std::vector<const TensorInfo*> list;
    for (const TensorInfo& tensor : file_.tensors()) list.push_back(&tensor);
    return list;
  }

  Result<void> ReadConfig(const json& config, const std::string& file);
  void NameTensors(const std::string& weights_file) {
    weights_file_ = weights_file;
    for (const TensorInfo& tensor : file_.tensors()) {
      std::string name = CanonicalTensorName(tensor.name, config_.has_post_norms);
      if (!name.empty()) by_name_.emplace(std::move(name), &tensor);
    }
  }

 private:
  Result<void> ReadDims(const Fields& fields);
  Result<void> ReadRope(const Fields& fields);
  Result<void> ReadLayers(const Fields& fields, const Family& family);

  std::string folder_;
  SafetensorsFile file_;
  std::map<std::string, const TensorInfo*, std::less<>> by_name_;
};

Result<void> SafetensorsCheckpoint::ReadDims(const Fields& fields) {
  const auto dim = [&](const char* key, auto... fallback) {
    return DimOf(fields.Get<int64_t>(key, fallback...), fields.file(), key);
  };
  CACHETTE_TRY(config_.num_layers, dim("num_hidden_layers"));
  CACHETTE_TRY(config_.hidden_dim, dim("hidden_size"));
  CACHETTE_TRY(config_.num_q_heads, dim("num_attention_heads"));
  CACHETTE_TRY(config_.num_kv_heads, dim("num_key_value_heads", config_.num_q_heads));
  CACHETTE_TRY(config_.ffn_dim, dim("intermediate_size"));
  CACHETTE_TRY(config_.vocab_size, dim("vocab_size"));
  const int even_share = config_.num_q_heads > 0 ? config_.hidden_dim / config_.num_q_heads : 0;
  CACHETTE_TRY(config_.head_dim, dim("head_dim", even_share));
  CACHETTE_TRY(config_.context_tokens, fields.Get<int64_t>("max_position_embeddings"));
  CACHETTE_TRY(config_.rms_norm_eps, fields.Get<float>("rms_norm_eps", 1e-6f));
  return Ok();
}

Result<void> SafetensorsCheckpoint::ReadRope(const Fields& fields) {
  ops::RopeConfig& rope = config_.rope;
  rope.pairing = ops::RopePairing::kHalves;
  CACHETTE_TRY(const double rotary_fraction, fields.Get<double>("partial_rotary_factor", 1.0));
  rope.rotary_dim = static_cast<int>(config_.head_dim * rotary_fraction);
  CACHETTE_TRY(rope.base, fields.Get<float>("rope_theta", 10000.0f));
  config_.rope_local = rope;
  CACHETTE_TRY(config_.rope_local.base, fields.Get<float>("rope_local_base_freq", 10000.0f));
  const int64_t max_positions = config_.context_tokens;
  if (fields.Has("rope_parameters") && fields.at("rope_parameters").contains("full_attention")) {
    const json& by_layer = fields.at("rope_parameters");
    CACHETTE_TRY(ReadRopeScaling(by_layer.at("full_attention"), fields.file(), max_positions, rope));
    if (by_layer.contains("sliding_attention"))
      CACHETTE_TRY(ReadRopeScaling(by_layer.at("sliding_attention"), fields.file(), max_positions, config_.rope_local));
  } else if (fields.Has("rope_parameters")) {
    CACHETTE_TRY(ReadRopeScaling(fields.at("rope_parameters"), fields.file(), max_positions, rope));
  } else if (fields.Has("rope_scaling")) {
    CACHETTE_TRY(ReadRopeScaling(fields.at("rope_scaling"), fields.file(), max_positions, rope));
  }
  // transformers reaches positions beyond max_position_embeddings with these two; others state the stretched length.
  if (rope.scaling == ops::RopeScaling::kDynamic || rope.scaling == ops::RopeScaling::kLinear)
    config_.context_tokens = static_cast<int64_t>(static_cast<double>(config_.context_tokens) * rope.factor);
  return Ok();
}

Result<void> SafetensorsCheckpoint::ReadLayers(const Fields& fields, const Family& family) {
  config_.layers.resize(static_cast<size_t>(std::clamp(config_.num_layers, 0, 4096)));
  CACHETTE_TRY(const int64_t window, fields.Get<int64_t>("sliding_window", 0));
  CACHETTE_TRY(const bool uses_window, fields.Get<bool>("use_sliding_window", true));
  if (window <= 0 || !uses_window) return Ok();
  std::vector<bool> is_local(config_.layers.size(), !family.is_gemma3);
  if (fields.Has("layer_types")) {
    const json& types = fields.at("layer_types");
    if (!types.is_array() || types.size() < is_local.size())
      return Fail(Error::kCorrupt, fmt::format("{}: layer_types must list {} layers", fields.file(), is_local.size()));
    for (size_t i = 0; i < is_local.size(); ++i) is_local[i] = types[i] == "sliding_attention";
  } else if (family.is_gemma3) {
    CACHETTE_TRY(const int64_t pattern, fields.Get<int64_t>("sliding_window_pattern", 6));
    for (size_t i = 0; i < is_local.size(); ++i)
      is_local[i] = pattern <= 0 || (static_cast<int64_t>(i) + 1) % pattern != 0;
  } else if (fields.Has("use_sliding_window")) {  // Qwen: only from max_window_layers on
    CACHETTE_TRY(const int64_t first, fields.Get<int64_t>("max_window_layers", 0));
    for (size_t i = 0; i < is_local.size(); ++i) is_local[i] = static_cast<int64_t>(i) >= first;
  }
  for (size_t i = 0; i < is_local.size(); ++i)
    if (is_local[i]) config_.layers[i] = {static_cast<int32_t>(window), family.is_gemma3};
  return Ok();
}

Result<void> SafetensorsCheckpoint::ReadConfig(const json& config, const std::string& file) {
  if (!config.is_object()) return Fail(Error::kCorrupt, fmt::format("{}: not a JSON object", file));
  const Fields fields(config, file);
  CACHETTE_TRY(config_.family, fields.Get<std::string>("model_type"));
  config_.name = fs::path(folder_).filename().string();
  CACHETTE_TRY(const Family* family, FindFamily(&Family::hf_model_type, config_.family, file));
  config_.has_qk_norm = family->has_qk_norm;
  CACHETTE_TRY(ReadDims(fields));
  CACHETTE_TRY(ReadRope(fields));
  CACHETTE_TRY(ReadLayers(fields, *family));

  CACHETTE_TRY(const std::string activation, family->is_gemma3
                                                 ? fields.Get<std::string>("hidden_activation", "gelu_pytorch_tanh")
                                                 : fields.Get<std::string>("hidden_act", "silu"));
  if (activation == "silu") {
    config_.activation = ops::Activation::kSilu;
  } else if (activation == "gelu_pytorch_tanh") {
    config_.activation = ops::Activation::kGeluTanh;
  } else {
    return Fail(Error::kUnsupported,
                fmt::format("{}: activation '{}' is neither silu nor gelu_pytorch_tanh", file, activation));
  }
  CACHETTE_TRY(const double query_scalar, fields.Get<double>("query_pre_attn_scalar", config_.head_dim));
  config_.attention_scale = static_cast<float>(1.0 / std::sqrt(std::max(query_scalar, 1e-9)));
  CACHETTE_TRY(config_.attention_softcap, fields.Get<float>("attn_logit_softcapping", 0.0f));
  CACHETTE_TRY(config_.logit_softcap, fields.Get<float>("final_logit_softcapping", 0.0f));
  if (family->is_gemma3) {
    config_.has_post_norms = true;
    config_.norm_weight_offset = 1.0f;
    config_.embedding_scale = std::sqrt(static_cast<float>(config_.hidden_dim));
  }
  return ValidateConfig(config_, file);
}

}  // namespace

Result<std::unique_ptr<Checkpoint>> OpenSafetensorsCheckpoint(const std::string& path) {
  std::error_code ignored;
  const fs::path given(path);
  const bool is_folder = fs::is_directory(given, ignored);
  if (!is_folder && !path.ends_with(".safetensors")) {
    if (!fs::exists(given, ignored)) return Fail(Error::kNotFound, fmt::format("model {} does not exist", path));
    return Fail(Error::kUnsupported, fmt::format("model {} is neither a .gguf file, a .safetensors file nor a folder "
                                                 "with config.json",
                                                 path));
  }
  const fs::path folder = is_folder ? given : given.parent_path();
  fs::path weights = given;
  if (is_folder) {
    weights = folder / "model.safetensors";
    if (!fs::exists(weights, ignored)) weights = folder / "model.safetensors.index.json";
  }
  const std::string config_file = (folder / "config.json").string();
  CACHETTE_TRY(const json config, ReadJsonFile(config_file));
  CACHETTE_TRY(SafetensorsFile file, SafetensorsFile::Open(weights.string()));
  auto checkpoint = std::make_unique<SafetensorsCheckpoint>(path, folder.string(), std::move(file));
  CACHETTE_TRY(checkpoint->ReadConfig(config, config_file));
  checkpoint->NameTensors(weights.string());
  return std::unique_ptr<Checkpoint>(std::move(checkpoint));
}

}  // namespace cachette
