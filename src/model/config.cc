#include "model/config.h"

#include <fmt/format.h>

#include <cmath>

namespace cachette {
namespace {

constexpr int kMaxLayers = 4096;
constexpr int kMaxDim = 1 << 20;
constexpr int kMaxHeadDim = 256;  // what the attention kernels take

Result<void> CheckRange(const std::string& file, const char* what, int64_t value, int64_t limit) {
  if (value >= 1 && value <= limit) return Ok();
  return Fail(Error::kCorrupt, fmt::format("{}: {} is {}; a model needs 1 to {}", file, what, value, limit));
}

}  // namespace

Result<int> DimOf(const Result<int64_t>& value, const std::string& file, std::string_view field) {
  if (!value.ok()) return value.failure();
  if (*value < 0 || *value > INT32_MAX)
    return Fail(Error::kCorrupt, fmt::format("{}: {} is {}, out of range", file, field, *value));
  return static_cast<int>(*value);
}

Result<void> ValidateConfig(const ModelConfig& config, const std::string& file) {
  CACHETTE_TRY(CheckRange(file, "number of layers", config.num_layers, kMaxLayers));
  CACHETTE_TRY(CheckRange(file, "hidden size", config.hidden_dim, kMaxDim));
  CACHETTE_TRY(CheckRange(file, "number of query heads", config.num_q_heads, kMaxDim));
  CACHETTE_TRY(CheckRange(file, "number of KV heads", config.num_kv_heads, config.num_q_heads));
  CACHETTE_TRY(CheckRange(file, "head dimension", config.head_dim, kMaxDim));
  CACHETTE_TRY(CheckRange(file, "feed-forward size", config.ffn_dim, kMaxDim));
  CACHETTE_TRY(CheckRange(file, "vocabulary size", config.vocab_size, int64_t{1} << 24));
  CACHETTE_TRY(CheckRange(file, "context length", config.context_tokens, int64_t{1} << 31));
  if (config.num_q_heads % config.num_kv_heads != 0)
    return Fail(Error::kCorrupt, fmt::format("{}: {} query heads cannot share {} KV heads evenly", file,
                                             config.num_q_heads, config.num_kv_heads));
  if (config.head_dim % 8 != 0 || config.head_dim > kMaxHeadDim)
    return Fail(Error::kUnsupported, fmt::format("{}: head dimension {} is not a multiple of 8 up to {}", file,
                                                 config.head_dim, kMaxHeadDim));
  for (const ops::RopeConfig* rope : {&config.rope, &config.rope_local}) {
    if (rope->rotary_dim < 2 || rope->rotary_dim % 2 != 0 || rope->rotary_dim > config.head_dim)
      return Fail(Error::kCorrupt, fmt::format("{}: {} rotated dimensions per head; must be even and at most {}", file,
                                               rope->rotary_dim, config.head_dim));
    if (!(rope->base > 0.0f) || !(rope->factor > 0.0f))
      return Fail(Error::kCorrupt,
                  fmt::format("{}: RoPE base {} and factor {} must be above 0", file, rope->base, rope->factor));
    if (!rope->freq_factors.empty() && static_cast<int>(rope->freq_factors.size()) != rope->rotary_dim / 2)
      return Fail(Error::kCorrupt, fmt::format("{}: {} RoPE frequency factors for {} pairs", file,
                                               rope->freq_factors.size(), rope->rotary_dim / 2));
  }
  if (!(config.rms_norm_eps > 0.0f) || !std::isfinite(config.rms_norm_eps))
    return Fail(Error::kCorrupt, fmt::format("{}: RMSNorm epsilon {} must be above 0", file, config.rms_norm_eps));
  CACHETTE_CHECK(static_cast<int>(config.layers.size()) == config.num_layers);
  return Ok();
}

Result<void> StretchContext(ModelConfig& config, double factor) {
  if (factor == 1.0) return Ok();
  if (!(factor > 1.0) || factor > 1024.0)
    return Fail(Error::kInvalidArgument, fmt::format("rope scale {} must be between 1 and 1024", factor));
  ops::RopeConfig& rope = config.rope;
  if (rope.scaling != ops::RopeScaling::kNone && rope.scaling != ops::RopeScaling::kLinear)
    return Fail(Error::kInvalidArgument,
                "this model already scales RoPE in its own way; --rope-scale works on unscaled or linear RoPE");
  rope.factor = static_cast<float>((rope.scaling == ops::RopeScaling::kLinear ? rope.factor : 1.0) * factor);
  rope.scaling = ops::RopeScaling::kLinear;
  config.context_tokens = static_cast<int64_t>(static_cast<double>(config.context_tokens) * factor);
  return Ok();
}

}  // namespace cachette
