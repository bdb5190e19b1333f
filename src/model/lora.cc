#include "model/lora.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "io/gguf.h"
#include "io/json_file.h"
#include "io/safetensors.h"
#include "model/checkpoint.h"
#include "model/families.h"
#include "ops/quant/dequantize.h"

namespace cachette {
namespace {

namespace fs = std::filesystem;

std::vector<float> ToFloats(const TensorInfo& tensor) {
  std::vector<float> out(static_cast<size_t>(tensor.num_elements()));
  ops::Dequantize(tensor.dtype, tensor.bytes.data(), tensor.num_elements(), out.data());
  return out;
}

// The weight that an adapter tensor changes: its name without the suffix, in canonical form; "" when unknown.
std::string WeightName(std::string_view name, std::string_view suffix) {
  name.remove_suffix(suffix.size());
  constexpr std::string_view kPeftPrefix = "base_model.model.";
  if (name.starts_with(kPeftPrefix)) {
    name.remove_prefix(kPeftPrefix.size());
    return CanonicalTensorName(std::string(name) + ".weight", false);
  }
  return name.starts_with("blk.") || name.starts_with("token_embd.") || name.starts_with("output.") ? std::string(name)
                                                                                                    : std::string();
}

// Row of a half-split matrix that row (of an adjacent-pair matrix, within a head) corresponds to.
int64_t HalvesRow(int64_t row, int head_dim) {
  const int64_t in_head = row % head_dim;
  return row - in_head + in_head / 2 + (in_head % 2) * (head_dim / 2);
}

Result<float> PeftAlpha(const std::string& config_file, bool& is_rank_stabilized) {
  CACHETTE_TRY(const nlohmann::json config, ReadJsonFile(config_file));
  const auto alpha = config.find("lora_alpha");
  if (alpha == config.end() || !alpha->is_number() || alpha->get<double>() <= 0.0)
    return Fail(Error::kCorrupt, fmt::format("{}: lora_alpha must be a number above 0", config_file));
  for (const char* pattern : {"alpha_pattern", "rank_pattern"})
    if (config.contains(pattern) && !config[pattern].empty())
      return Fail(Error::kUnsupported, fmt::format("{}: {} per module is not supported", config_file, pattern));
  if (config.value("use_dora", false))
    return Fail(Error::kUnsupported, fmt::format("{}: DoRA adapters are not supported, only plain LoRA", config_file));
  is_rank_stabilized = config.value("use_rslora", false);
  return static_cast<float>(alpha->get<double>());
}

}  // namespace

Result<LoraAdapter> LoraAdapter::Open(const std::string& path) {
  LoraAdapter adapter;
  adapter.path_ = path;
  if (path.ends_with(".gguf")) {
    CACHETTE_TRY(GgufFile file, GgufFile::Open(path));
    CACHETTE_TRY(const std::string_view type, file.GetString("adapter.type", ""));
    if (type != "lora")
      return Fail(Error::kUnsupported, fmt::format("{}: not a LoRA adapter (adapter.type is '{}')", path, type));
    CACHETTE_TRY(const double alpha, file.GetFloat("adapter.lora.alpha"));
    adapter.alpha_ = static_cast<float>(alpha);
    adapter.file_ = std::make_shared<GgufFile>(std::move(file));
    CACHETTE_TRY(adapter.AddTensors(".lora_a", ".lora_b"));
    CACHETTE_TRY(adapter.CheckPairs());
    return adapter;
  }
  std::error_code ignored;
  const bool is_folder = fs::is_directory(path, ignored);
  const std::string file_path = is_folder ? (fs::path(path) / "adapter_model.safetensors").string() : path;
  CACHETTE_TRY(SafetensorsFile file, SafetensorsFile::Open(file_path));
  adapter.file_ = std::make_shared<SafetensorsFile>(std::move(file));
  const auto& tensors = adapter.file_->tensors();
  const bool is_peft = std::any_of(tensors.begin(), tensors.end(), [](const TensorInfo& tensor) {
    return tensor.name.ends_with(".lora_A.weight") || tensor.name.ends_with(".lora_B.weight");
  });
  if (is_peft) {
    CACHETTE_TRY(adapter.alpha_, PeftAlpha((fs::path(file_path).parent_path() / "adapter_config.json").string(),
                                           adapter.is_rank_stabilized_));
    adapter.row_order_ = RowOrder::kHalves;
    CACHETTE_TRY(adapter.AddTensors(".lora_A.weight", ".lora_B.weight"));
  } else {
    CACHETTE_TRY(adapter.AddTensors(".lora_a", ".lora_b"));
  }
  CACHETTE_TRY(adapter.CheckPairs());
  return adapter;
}

Result<void> LoraAdapter::AddTensors(std::string_view suffix_a, std::string_view suffix_b) {
  for (const TensorInfo& tensor : file_->tensors()) {
    const bool is_a = tensor.name.ends_with(suffix_a);
    if (!is_a && !tensor.name.ends_with(suffix_b))
      return Fail(Error::kUnsupported,
                  fmt::format("{}: tensor {} is neither *{} nor *{}", path_, tensor.name, suffix_a, suffix_b));
    const std::string weight = WeightName(tensor.name, is_a ? suffix_a : suffix_b);
    if (weight.empty())
      return Fail(Error::kUnsupported, fmt::format("{}: tensor {} changes no known matrix", path_, tensor.name));
    Pair& pair = pairs_[weight];
    (is_a ? pair.a : pair.b) = &tensor;
  }
  if (pairs_.empty()) return Fail(Error::kCorrupt, fmt::format("{}: holds no LoRA tensors", path_));
  return Ok();
}

Result<void> LoraAdapter::CheckPairs() const {
  for (const auto& [name, pair] : pairs_) {
    if (pair.a == nullptr || pair.b == nullptr)
      return Fail(Error::kCorrupt, fmt::format("{}: {} has only one of its two LoRA matrices", path_, name));
    if (pair.a->shape.size() != 2 || pair.b->shape.size() != 2 || pair.a->shape[0] != pair.b->shape[1] ||
        pair.a->shape[0] < 1)
      return Fail(Error::kCorrupt, fmt::format("{}: LoRA matrices of {} do not multiply", path_, name));
  }
  return Ok();
}

Result<void> LoraAdapter::Merge(std::string_view tensor_name, int64_t rows, int64_t cols, int head_dim,
                                bool model_has_adjacent_pairs, float* weights) const {
  const auto it = pairs_.find(std::string(tensor_name));
  if (it == pairs_.end()) return Ok();
  const Pair& pair = it->second;
  const int64_t rank = pair.a->shape[0];
  if (pair.a->shape[1] != cols || pair.b->shape[0] != rows)
    return Fail(
        Error::kInvalidArgument,
        fmt::format("{}: update of {} is [{}][{}], the model's matrix [{}][{}]; this adapter is for another model",
                    path_, tensor_name, pair.b->shape[0], pair.a->shape[1], rows, cols));
  const std::vector<float> a = ToFloats(*pair.a);
  const std::vector<float> b = ToFloats(*pair.b);
  float scale = scale_;
  if (alpha_ > 0.0f)
    scale = alpha_ / (is_rank_stabilized_ ? std::sqrt(static_cast<float>(rank)) : static_cast<float>(rank));
  const bool permutes = head_dim > 0 && row_order_ == RowOrder::kHalves && model_has_adjacent_pairs;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t b_row = permutes ? HalvesRow(row, head_dim) : row;
    float* out = weights + row * cols;
    for (int64_t r = 0; r < rank; ++r) {
      const float factor = scale * b[static_cast<size_t>(b_row * rank + r)];
      const float* a_row = a.data() + r * cols;
      for (int64_t col = 0; col < cols; ++col) out[col] += factor * a_row[col];
    }
  }
  return Ok();
}

Result<void> LoraAdapter::CheckAllUsed(const std::vector<std::string>& merged) const {
  for (const auto& [name, pair] : pairs_)
    if (std::find(merged.begin(), merged.end(), name) == merged.end())
      return Fail(Error::kInvalidArgument,
                  fmt::format("{}: the model has no matrix {}; this adapter is for another model", path_, name));
  return Ok();
}

}  // namespace cachette
