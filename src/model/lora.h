#pragma once
// LoRA adapters, merged into weights at load: W' = W + scale * b a.

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "io/tensor_file.h"

namespace cachette {

// Source: arXiv:2106.09685.
class LoraAdapter {
 public:
  // path: a folder with adapter_config.json and adapter_model.safetensors (PEFT), its .safetensors file, a GGUF
  // adapter, or a safetensors file named blk.{i}.{attn_q|...}.weight.lora_a / .lora_b (scale already in b, rows of
  // query and key matrices in the order of the GGUF it was made for).
  // Errors: those of the file formats; kCorrupt (a without b, shapes that do not multiply); kUnsupported (names that
  // are no known matrix, PEFT features other than plain LoRA).
  static Result<LoraAdapter> Open(const std::string& path);

  bool Touches(std::string_view tensor_name) const { return pairs_.contains(std::string(tensor_name)); }

  // Adds the update of tensor_name to weights [rows][cols]. head_dim > 0: the matrix is attn_q or attn_k of a model
  // whose row order (adjacent pairs or halves) may differ from the adapter's; rows are then permuted per head.
  // Errors: kInvalidArgument when the shapes differ.
  Result<void> Merge(std::string_view tensor_name, int64_t rows, int64_t cols, int head_dim,
                     bool model_has_adjacent_pairs, float* weights) const;

  // Names the adapter has but a model with these tensors does not: the adapter is for another model.
  Result<void> CheckAllUsed(const std::vector<std::string>& merged) const;

  const std::string& path() const { return path_; }

 private:
  enum class RowOrder : uint8_t { kAsModel, kHalves };
  struct Pair {
    const TensorInfo* a = nullptr;  // [rank][cols]
    const TensorInfo* b = nullptr;  // [rows][rank]
  };
  Result<void> AddTensors(std::string_view suffix_a, std::string_view suffix_b);
  Result<void> CheckPairs() const;

  std::string path_;
  std::shared_ptr<TensorFile> file_;
  std::map<std::string, Pair> pairs_;  // by canonical weight name
  float scale_ = 1.0f;
  float alpha_ = 0.0f;  // > 0: scale = alpha / rank (or / sqrt(rank))
  bool is_rank_stabilized_ = false;
  RowOrder row_order_ = RowOrder::kAsModel;
};

}  // namespace cachette
