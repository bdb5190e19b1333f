#pragma once
// The forward pass of every supported family: a decoder-only transformer described by ModelConfig.

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "cache/layer_observer.h"
#include "cache/sequence_cache.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/lora.h"
#include "ops/linear/linear.h"
#include "tensor/context.h"

namespace cachette {

// What one sequence brings to a pass. Its cache is between BeginPass and EndPass.
struct SequenceInput {
  SequenceCache* cache = nullptr;
  std::span<const int32_t> tokens;    // of the pass, then its transient ones
  int64_t first_position = 0;         // of tokens[0]
  int64_t rope_context_tokens = 0;    // longest position in use + 1; what dynamic RoPE scaling adapts to
  std::vector<int64_t> logit_rows;    // indices into tokens whose logits are wanted, ascending
  LayerObserver* observer = nullptr;  // hears of every layer; null: none, at no cost
};

struct ForwardPass {
  Phase phase = Phase::kPrefill;
  std::span<SequenceInput> sequences;  // decode: one token each
  ops::GemmDtype gemm = ops::GemmDtype::kF32;
  float* logits = nullptr;  // [sum of logit_rows.size()][vocab_size], sequence by sequence
};

class Transformer {
 public:
  // Binds (and on fast backends repacks) all weights, merging the adapters in order. Merged matrices are kept in f16.
  // The checkpoint must outlive the Transformer on Isa::kRef; elsewhere its pages are dropped as they are repacked.
  // Errors: kNotFound (tensor), kCorrupt (shape that contradicts the config), kInvalidArgument (adapter does not fit).
  static Result<Transformer> Load(Context& cx, const Checkpoint& checkpoint, std::span<const LoraAdapter> adapters);

  // Runs all layers: appends keys and values to each sequence's cache, attends, and fills pass.logits.
  // Errors: kOutOfMemory from the caches; they are then in an undefined state and must be dropped.
  Result<void> Forward(Context& cx, const ForwardPass& pass) const;

  const ModelConfig& config() const { return config_; }
  int64_t owned_bytes() const;        // memory of bound weights
  int64_t decode_read_bytes() const;  // of weights, per decoded token
  int64_t num_parameters() const { return num_parameters_; }

 private:
  struct Layer {
    ops::Weight q, k, v, o, gate, up, down;
    std::vector<float> q_bias, k_bias, v_bias, o_bias;      // empty: none
    std::vector<float> attention_norm, ffn_norm;            // [hidden_dim]
    std::vector<float> q_norm, k_norm;                      // [head_dim] or empty
    std::vector<float> post_attention_norm, post_ffn_norm;  // [hidden_dim] or empty
  };
  friend class TransformerLoader;
  friend class ForwardRun;

  ModelConfig config_;
  ops::Weight embedding_;
  ops::Weight output_;
  bool has_tied_output_ = false;
  std::vector<float> output_norm_;
  std::vector<Layer> layers_;
  std::deque<std::vector<std::byte>> merged_;  // f16 matrices that only Isa::kRef still reads
  int64_t num_parameters_ = 0;
};

}  // namespace cachette
