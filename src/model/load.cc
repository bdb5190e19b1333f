// Binding a checkpoint's tensors to the layers of a Transformer.

#include <fmt/format.h>

#include "base/half.h"
#include "model/transformer.h"
#include "ops/quant/dequantize.h"

namespace cachette {

class TransformerLoader {
 public:
  TransformerLoader(Context& cx, const Checkpoint& checkpoint, std::span<const LoraAdapter> adapters,
                    Transformer& model)
      : cx_(cx), checkpoint_(checkpoint), adapters_(adapters), model_(model), config_(checkpoint.config()) {}

  Result<void> Run() {
    model_.config_ = config_;
    const int64_t hidden = config_.hidden_dim;
    CACHETTE_TRY(Matrix(model_.embedding_, "token_embd.weight", config_.vocab_size, hidden));
    model_.has_tied_output_ = checkpoint_.Find("output.weight") == nullptr;
    if (!model_.has_tied_output_) CACHETTE_TRY(Matrix(model_.output_, "output.weight", config_.vocab_size, hidden));
    CACHETTE_TRY(Vector(model_.output_norm_, "output_norm.weight", hidden, true));
    model_.layers_.resize(static_cast<size_t>(config_.num_layers));
    for (int i = 0; i < config_.num_layers; ++i) CACHETTE_TRY(LoadLayer(i));
    for (const LoraAdapter& adapter : adapters_) CACHETTE_TRY(adapter.CheckAllUsed(matrices_));
    return Ok();
  }

 private:
  Result<void> LoadLayer(int layer_idx) {
    Transformer::Layer& layer = model_.layers_[static_cast<size_t>(layer_idx)];
    const std::string prefix = fmt::format("blk.{}.", layer_idx);
    const int64_t hidden = config_.hidden_dim;
    const int64_t ffn = config_.ffn_dim;
    const int64_t q_dim = static_cast<int64_t>(config_.num_q_heads) * config_.head_dim;
    const int64_t kv_dim = static_cast<int64_t>(config_.num_kv_heads) * config_.head_dim;
    CACHETTE_TRY(Matrix(layer.q, prefix + "attn_q.weight", q_dim, hidden, config_.head_dim));
    CACHETTE_TRY(Matrix(layer.k, prefix + "attn_k.weight", kv_dim, hidden, config_.head_dim));
    CACHETTE_TRY(Matrix(layer.v, prefix + "attn_v.weight", kv_dim, hidden));
    CACHETTE_TRY(Matrix(layer.o, prefix + "attn_output.weight", hidden, q_dim));
    CACHETTE_TRY(Matrix(layer.gate, prefix + "ffn_gate.weight", ffn, hidden));
    CACHETTE_TRY(Matrix(layer.up, prefix + "ffn_up.weight", ffn, hidden));
    CACHETTE_TRY(Matrix(layer.down, prefix + "ffn_down.weight", hidden, ffn));
    CACHETTE_TRY(Vector(layer.q_bias, prefix + "attn_q.bias", q_dim, false));
    CACHETTE_TRY(Vector(layer.k_bias, prefix + "attn_k.bias", kv_dim, false));
    CACHETTE_TRY(Vector(layer.v_bias, prefix + "attn_v.bias", kv_dim, false));
    CACHETTE_TRY(Vector(layer.o_bias, prefix + "attn_output.bias", hidden, false));
    CACHETTE_TRY(Vector(layer.attention_norm, prefix + "attn_norm.weight", hidden, true));
    CACHETTE_TRY(Vector(layer.ffn_norm, prefix + "ffn_norm.weight", hidden, true));
    CACHETTE_TRY(Vector(layer.q_norm, prefix + "attn_q_norm.weight", config_.head_dim, config_.has_qk_norm));
    CACHETTE_TRY(Vector(layer.k_norm, prefix + "attn_k_norm.weight", config_.head_dim, config_.has_qk_norm));
    CACHETTE_TRY(
        Vector(layer.post_attention_norm, prefix + "post_attention_norm.weight", hidden, config_.has_post_norms));
    CACHETTE_TRY(Vector(layer.post_ffn_norm, prefix + "post_ffw_norm.weight", hidden, config_.has_post_norms));
    for (const char* unknown : {"ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"})
      if (checkpoint_.Find(prefix + unknown) != nullptr)
        return Fail(Error::kUnsupported, fmt::format("{}: feed-forward biases ({}{}) are not supported",
                                                     checkpoint_.path(), prefix, unknown));
    return Ok();
  }

  // head_dim > 0 where rows are rotated pairs of heads.
  Result<void> Matrix(ops::Weight& weight, const std::string& name, int64_t rows, int64_t cols, int head_dim = 0) {
    CACHETTE_TRY(const TensorInfo* tensor, checkpoint_.Get(name));
    if (tensor->shape != std::vector<int64_t>{rows, cols})
      return Fail(Error::kCorrupt, fmt::format("{}: tensor {} has shape [{}], the model's fields say [{}, {}]",
                                               checkpoint_.path(), name, fmt::join(tensor->shape, ", "), rows, cols));
    model_.num_parameters_ += rows * cols;
    matrices_.push_back(name);
    ops::MatrixView view{tensor->bytes.data(), tensor->dtype, rows, cols};
    CACHETTE_TRY(const bool is_merged, MergeAdapters(name, head_dim, view));
    CACHETTE_TRY(weight, ops::Weight::Bind(cx_, view));
    if (cx_.isa() != Isa::kRef) {
      if (is_merged) model_.merged_.pop_back();
      checkpoint_.Drop(*tensor);
    }
    return Ok();
  }

  // Points view at an f16 copy with the updates when an adapter changes the tensor; true then.
  Result<bool> MergeAdapters(const std::string& name, int head_dim, ops::MatrixView& view) {
    std::vector<float> weights;
    for (const LoraAdapter& adapter : adapters_) {
      if (!adapter.Touches(name)) continue;
      if (weights.empty()) {
        weights.resize(static_cast<size_t>(view.rows * view.cols));
        ops::Dequantize(view.dtype, view.data, view.rows * view.cols, weights.data());
      }
      CACHETTE_TRY(
          adapter.Merge(name, view.rows, view.cols, head_dim, checkpoint_.has_adjacent_pairs(), weights.data()));
    }
    if (weights.empty()) return false;
    std::vector<std::byte>& merged = model_.merged_.emplace_back(weights.size() * sizeof(F16));
    ops::Quantize(Dtype::kF16, weights.data(), view.rows * view.cols, merged.data());
    view.data = merged.data();
    view.dtype = Dtype::kF16;
    return true;
  }

  Result<void> Vector(std::vector<float>& out, const std::string& name, int64_t dim, bool is_required) {
    const TensorInfo* tensor = checkpoint_.Find(name);
    if (tensor == nullptr && !is_required) return Ok();
    if (tensor == nullptr) return Fail(Error::kNotFound, fmt::format("{} has no tensor {}", checkpoint_.path(), name));
    if (tensor->num_elements() != dim || tensor->shape.size() != 1)
      return Fail(Error::kCorrupt, fmt::format("{}: tensor {} has shape [{}], the model's fields say [{}]",
                                               checkpoint_.path(), name, fmt::join(tensor->shape, ", "), dim));
    out.resize(static_cast<size_t>(dim));
    ops::Dequantize(tensor->dtype, tensor->bytes.data(), dim, out.data());
    model_.num_parameters_ += dim;
    return Ok();
  }

  Context& cx_;
  const Checkpoint& checkpoint_;
  std::span<const LoraAdapter> adapters_;
  Transformer& model_;
  const ModelConfig& config_;
  std::vector<std::string> matrices_;
};

Result<Transformer> Transformer::Load(Context& cx, const Checkpoint& checkpoint,
                                      std::span<const LoraAdapter> adapters) {
  Transformer model;
  CACHETTE_TRY(TransformerLoader(cx, checkpoint, adapters, model).Run());
  return model;
}

int64_t Transformer::owned_bytes() const {
  size_t sum = embedding_.owned_bytes() + output_.owned_bytes();
  for (const Layer& layer : layers_)
    for (const ops::Weight* weight : {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down})
      sum += weight->owned_bytes();
  return static_cast<int64_t>(sum);
}

int64_t Transformer::decode_read_bytes() const {
  size_t sum = (has_tied_output_ ? embedding_ : output_).read_bytes();
  for (const Layer& layer : layers_)
    for (const ops::Weight* weight : {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down})
      sum += weight->read_bytes();
  return static_cast<int64_t>(sum);
}

}  // namespace cachette
