// Weights of any shape made up in place: for speed benches of models that need not be downloaded. The text such a model
// writes means nothing; its shapes, bytes and arithmetic are the real model's.

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstring>
#include <deque>
#include <sstream>

#include "base/half.h"
#include "base/nearest.h"
#include "base/rng.h"
#include "model/checkpoint.h"

namespace cachette {
namespace {

// Published shapes. Windows, biases and scaling that do not change speed are left out.
struct Shape {
  const char* name;
  int num_layers, hidden_dim, num_q_heads, num_kv_heads, head_dim, ffn_dim, vocab_size;
  int64_t context_tokens;
  float rope_base;
  bool has_qk_norm;
};

constexpr Shape kShapes[] = {
    {"smollm2-135m", 30, 576, 9, 3, 64, 1536, 49152, 8192, 100000.0f, false},
    {"llama-3.2-1b", 16, 2048, 32, 8, 64, 8192, 128256, 131072, 500000.0f, false},
    {"llama-3.2-3b", 28, 3072, 24, 8, 128, 8192, 128256, 131072, 500000.0f, false},
    {"llama-3.1-8b", 32, 4096, 32, 8, 128, 14336, 128256, 131072, 500000.0f, false},
    {"llama-3.1-70b", 80, 8192, 64, 8, 128, 28672, 128256, 131072, 500000.0f, false},
    {"mistral-7b", 32, 4096, 32, 8, 128, 14336, 32768, 32768, 1000000.0f, false},
    {"qwen2.5-7b", 28, 3584, 28, 4, 128, 18944, 152064, 131072, 1000000.0f, false},
    {"qwen3-8b", 36, 4096, 32, 8, 128, 12288, 151936, 40960, 1000000.0f, true},
    {"tiny", 2, 64, 4, 2, 16, 128, 512, 32768, 10000.0f, false},
};

// Fills blocks of a format with random quants under scales that give weights of about the given standard deviation.
void FillRandom(Dtype dtype, Rng& rng, float deviation, std::span<std::byte> bytes) {
  if (!IsQuantized(dtype)) {
    const size_t count = bytes.size() / static_cast<size_t>(InfoOf(dtype).block_bytes);
    for (size_t i = 0; i < count; ++i) {
      const float x = static_cast<float>(2.0 * rng.Uniform() - 1.0) * deviation * 1.732f;
      if (dtype == Dtype::kF32) std::memcpy(bytes.data() + 4 * i, &x, 4);
      const F16 half = static_cast<F16>(x);
      const BF16 brain(x);
      if (dtype == Dtype::kF16) std::memcpy(bytes.data() + 2 * i, &half, 2);
      if (dtype == Dtype::kBF16) std::memcpy(bytes.data() + 2 * i, &brain, 2);
    }
    return;
  }
  size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    const uint64_t r = rng.Next();
    std::memcpy(bytes.data() + i, &r, 8);
  }
  const uint64_t r = rng.Next();
  std::memcpy(bytes.data() + i, &r, bytes.size() - i);
  // Uniform quants: q8_0 deviates by 74 steps, 4-bit ones around their middle by 4.6. Minimum = -7.5 steps.
  const bool is_byte = dtype == Dtype::kQ8_0;
  const F16 scale = static_cast<F16>(deviation / (is_byte ? 74.0f : 4.6f));
  const F16 minimum = static_cast<F16>(-7.5f * static_cast<float>(scale));
  const auto block_bytes = static_cast<size_t>(InfoOf(dtype).block_bytes);
  for (size_t offset = 0; offset < bytes.size(); offset += block_bytes) {
    std::memcpy(bytes.data() + offset, &scale, 2);
    if (dtype == Dtype::kQ4_1) std::memcpy(bytes.data() + offset + 2, &minimum, 2);
  }
}

// Describes every tensor at once and makes its weights when it is first found by name, each from a random stream of its
// own: describing a model costs nothing, and loading one holds no second copy.
class SyntheticCheckpoint final : public Checkpoint {
 public:
  SyntheticCheckpoint(std::string spec, uint64_t seed) : Checkpoint(std::move(spec)), seed_(seed) {}

  const TensorInfo* Find(std::string_view name) const override {
    const auto it = by_name_.find(name);
    if (it == by_name_.end()) return nullptr;
    if (tensors_[it->second].info.bytes.empty()) MakeWeights(it->second);
    return &tensors_[it->second].info;
  }
  std::vector<const TensorInfo*> Tensors() const override {
    std::vector<const TensorInfo*> list;
    list.reserve(tensors_.size());
    for (const Tensor& tensor : tensors_) list.push_back(&tensor.info);
    return list;
  }
  void Drop(const TensorInfo& info) const override {
    Tensor& tensor = tensors_[by_name_.find(info.name)->second];
    tensor.info.bytes = {};
    std::vector<std::byte>().swap(tensor.weights);
  }

  void Describe(const Shape& shape, int num_layers, Dtype dtype);

 private:
  struct Tensor {
    TensorInfo info;
    std::vector<std::byte> weights;  // empty until made
  };

  void Add(std::string name, Dtype dtype, std::vector<int64_t> shape) {
    by_name_[name] = tensors_.size();
    tensors_.push_back({{std::move(name), dtype, std::move(shape), {}}, {}});
  }
  void AddMatrix(std::string name, Dtype dtype, int64_t rows, int64_t cols) {
    Add(std::move(name), dtype, {rows, cols});
  }
  void AddNorm(std::string name, int64_t dim) { Add(std::move(name), Dtype::kF32, {dim}); }

  void MakeWeights(size_t i) const {
    Tensor& tensor = tensors_[i];
    tensor.weights.resize(static_cast<size_t>(tensor.info.num_bytes()));
    if (tensor.info.shape.size() == 1) {  // a norm
      const float one = 1.0f;
      for (size_t at = 0; at < tensor.weights.size(); at += 4) std::memcpy(tensor.weights.data() + at, &one, 4);
    } else {
      Rng rng(Rng(seed_).Next() + i);
      const float deviation = 1.0f / std::sqrt(static_cast<float>(tensor.info.shape[1]));
      FillRandom(tensor.info.dtype, rng, deviation, tensor.weights);
    }
    tensor.info.bytes = tensor.weights;
  }

  uint64_t seed_;
  mutable std::deque<Tensor> tensors_;  // Find hands out pointers; it and Drop change bytes
  std::map<std::string, size_t, std::less<>> by_name_;
};

void SyntheticCheckpoint::Describe(const Shape& shape, int num_layers, Dtype dtype) {
  config_.family = "synthetic";
  config_.name = shape.name;
  config_.num_layers = num_layers;
  config_.hidden_dim = shape.hidden_dim;
  config_.num_q_heads = shape.num_q_heads;
  config_.num_kv_heads = shape.num_kv_heads;
  config_.head_dim = shape.head_dim;
  config_.ffn_dim = shape.ffn_dim;
  config_.vocab_size = shape.vocab_size;
  config_.context_tokens = shape.context_tokens;
  config_.has_qk_norm = shape.has_qk_norm;
  config_.attention_scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  config_.rope.rotary_dim = shape.head_dim;
  config_.rope.base = shape.rope_base;
  config_.rope_local = config_.rope;
  config_.layers.resize(static_cast<size_t>(num_layers));

  const int64_t q_dim = static_cast<int64_t>(shape.num_q_heads) * shape.head_dim;
  const int64_t kv_dim = static_cast<int64_t>(shape.num_kv_heads) * shape.head_dim;
  AddMatrix("token_embd.weight", dtype, shape.vocab_size, shape.hidden_dim);
  AddNorm("output_norm.weight", shape.hidden_dim);
  for (int i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("blk.{}.", i);
    AddNorm(prefix + "attn_norm.weight", shape.hidden_dim);
    AddNorm(prefix + "ffn_norm.weight", shape.hidden_dim);
    if (shape.has_qk_norm) {
      AddNorm(prefix + "attn_q_norm.weight", shape.head_dim);
      AddNorm(prefix + "attn_k_norm.weight", shape.head_dim);
    }
    AddMatrix(prefix + "attn_q.weight", dtype, q_dim, shape.hidden_dim);
    AddMatrix(prefix + "attn_k.weight", dtype, kv_dim, shape.hidden_dim);
    AddMatrix(prefix + "attn_v.weight", dtype, kv_dim, shape.hidden_dim);
    AddMatrix(prefix + "attn_output.weight", dtype, shape.hidden_dim, q_dim);
    AddMatrix(prefix + "ffn_gate.weight", dtype, shape.ffn_dim, shape.hidden_dim);
    AddMatrix(prefix + "ffn_up.weight", dtype, shape.ffn_dim, shape.hidden_dim);
    AddMatrix(prefix + "ffn_down.weight", dtype, shape.hidden_dim, shape.ffn_dim);
  }
}

Result<int64_t> ParseCount(std::string_view key, std::string_view text) {
  int64_t value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc() || end != text.data() + text.size() || value < 0)
    return Fail(Error::kInvalidArgument, fmt::format("synthetic model: {}={} is not a whole number", key, text));
  return value;
}

}  // namespace

Result<std::unique_ptr<Checkpoint>> OpenSyntheticCheckpoint(const std::string& spec) {
  std::stringstream fields(spec.substr(spec.find(':') + 1));
  std::string field;
  std::getline(fields, field, ',');
  const Shape* shape = nullptr;
  std::vector<std::string> names;
  for (const Shape& candidate : kShapes) {
    if (field == candidate.name) shape = &candidate;
    names.emplace_back(candidate.name);
  }
  if (shape == nullptr) {
    const std::string nearest = NearestName(field, names);
    return Fail(
        Error::kInvalidArgument,
        fmt::format("unknown synthetic shape '{}'{} (one of {})", field,
                    nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest), fmt::join(names, ", ")));
  }
  int64_t num_layers = shape->num_layers;
  int64_t seed = 1;
  Dtype dtype = Dtype::kQ8_0;
  while (std::getline(fields, field, ',')) {
    const size_t equals = field.find('=');
    const std::string key = field.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : field.substr(equals + 1);
    if (key == "layers") {
      CACHETTE_TRY(num_layers, ParseCount(key, value));
    } else if (key == "seed") {
      CACHETTE_TRY(seed, ParseCount(key, value));
    } else if (key == "dtype") {
      const std::optional<Dtype> named = DtypeFromName(value);
      const bool is_fillable =
          named && (!IsQuantized(*named) || *named == Dtype::kQ8_0 || *named == Dtype::kQ4_0 || *named == Dtype::kQ4_1);
      if (!is_fillable)
        return Fail(Error::kInvalidArgument,
                    fmt::format("synthetic model: dtype={} is none of f32, f16, bf16, q8_0, q4_0, q4_1", value));
      dtype = *named;
    } else {
      return Fail(Error::kInvalidArgument,
                  fmt::format("synthetic model: unknown field '{}'; known are layers, dtype, seed", field));
    }
  }
  if (num_layers < 1 || num_layers > 1000)
    return Fail(Error::kInvalidArgument, fmt::format("synthetic model: layers={} must be 1 to 1000", num_layers));
  auto checkpoint = std::make_unique<SyntheticCheckpoint>(spec, static_cast<uint64_t>(seed));
  checkpoint->Describe(*shape, static_cast<int>(num_layers), dtype);
  CACHETTE_TRY(ValidateConfig(checkpoint->config(), spec));
  return std::unique_ptr<Checkpoint>(std::move(checkpoint));
}

}  // namespace cachette
