// One forward pass: projections over all tokens of the pass, attention sequence by sequence.

#include <algorithm>
#include <cmath>
#include <numeric>

#include "model/transformer.h"
#include "ops/activation/gated.h"
#include "ops/attention/decode.h"
#include "ops/attention/prefill.h"
#include "ops/norm/rms_norm.h"
#include "ops/rope/rope.h"

namespace cachette {
namespace {

using ops::kBlockTokens;

// Few rows of logits go through the mat-vec (reads the packed weights once), many through the GEMM.
constexpr int64_t kMaxMatVecLogitRows = 8;

// First slot that a query at position sees when it sees positions > position - window only.
int64_t FirstSlotInWindow(const HeadStream& stream, int64_t position, int32_t window) {
  int64_t first = stream.num_slots();
  for (int64_t slot = stream.num_slots() - 1; slot >= 0; --slot) {
    if (!stream.IsLive(slot)) continue;
    if (stream.positions()[static_cast<size_t>(slot)] <= position - window) break;
    first = slot;
  }
  return first;
}

}  // namespace

class ForwardRun {
 public:
  ForwardRun(Context& cx, const Transformer& model, const ForwardPass& pass)
      : cx_(cx), model_(model), config_(model.config_), pass_(pass), scope_(cx.scratch()) {
    for (const SequenceInput& sequence : pass.sequences) num_tokens_ += static_cast<int64_t>(sequence.tokens.size());
    hidden_ = Floats(config_.hidden_dim);
    normed_ = Floats(std::max(config_.hidden_dim, config_.num_q_heads * config_.head_dim));
    q_ = Floats(config_.num_q_heads * config_.head_dim);
    k_ = Floats(config_.num_kv_heads * config_.head_dim);
    v_ = Floats(config_.num_kv_heads * config_.head_dim);
    attended_ = Floats(config_.num_q_heads * config_.head_dim);
    if (pass.phase == Phase::kDecode) next_q_ = Floats(config_.num_q_heads * config_.head_dim);
    gate_ = Floats(config_.ffn_dim);
    up_ = Floats(config_.ffn_dim);
  }

  Result<void> Run() {
    Embed();
    PrepareRope();
    for (int layer = 0; layer < config_.num_layers; ++layer) {
      CACHETTE_TRY(AttentionBlock(layer));
      FeedForwardBlock(layer);
    }
    Logits();
    return Ok();
  }

 private:
  float* Floats(int64_t per_token) {
    return cx_.scratch().Array<float>(static_cast<size_t>(num_tokens_ * per_token)).data();
  }

  ops::LinearMode mode() const {
    return pass_.phase == Phase::kDecode ? ops::LinearMode::kDecode : ops::LinearMode::kPrefill;
  }

  void Embed() {
    int64_t row = 0;
    for (const SequenceInput& sequence : pass_.sequences)
      for (const int32_t token : sequence.tokens)
        ops::WeightRow(model_.embedding_, token, hidden_ + row++ * config_.hidden_dim);
    if (config_.embedding_scale != 1.0f)
      for (int64_t i = 0; i < num_tokens_ * config_.hidden_dim; ++i) hidden_[i] *= config_.embedding_scale;
  }

  // The positions RoPE sees, and cos and sin for all tokens of the pass: shared by all layers and heads. Per sequence,
  // because dynamic scaling depends on a sequence's own length.
  void PrepareRope() {
    const bool has_local = std::any_of(config_.layers.begin(), config_.layers.end(),
                                       [](const LayerConfig& layer) { return layer.uses_local_rope; });
    for (const SequenceInput& sequence : pass_.sequences) {
      int64_t first = sequence.first_position;
      if (sequence.cache->shape().rope_positions == RopePositions::kCacheIndex)
        first = sequence.cache->stream(0, 0).num_live();  // all heads hold equally many: the recipe's promise
      std::vector<int32_t> positions(sequence.tokens.size());
      std::iota(positions.begin(), positions.end(), static_cast<int32_t>(first));
      tables_.push_back(ops::MakeRopeTable(config_.rope, sequence.rope_context_tokens));
      ops::ComputeRopeAngles(cx_, tables_.back(), positions, angles_.emplace_back());
      if (!has_local) continue;
      local_tables_.push_back(ops::MakeRopeTable(config_.rope_local, sequence.rope_context_tokens));
      ops::ComputeRopeAngles(cx_, local_tables_.back(), positions, local_angles_.emplace_back());
    }
  }

  void Norm(const float* x, int64_t num_rows, int64_t dim, const std::vector<float>& weight, float* out) {
    ops::RmsNorm(cx_, {.x = x,
                       .x_stride = dim,
                       .out = out,
                       .out_stride = dim,
                       .num_rows = num_rows,
                       .dim = dim,
                       .weight = weight.data(),
                       .eps = config_.rms_norm_eps,
                       .weight_offset = config_.norm_weight_offset});
  }

  Result<void> AttentionBlock(int layer_idx) {
    const Transformer::Layer& layer = model_.layers_[static_cast<size_t>(layer_idx)];
    const int64_t q_dim = static_cast<int64_t>(config_.num_q_heads) * config_.head_dim;
    const int64_t kv_dim = static_cast<int64_t>(config_.num_kv_heads) * config_.head_dim;
    const auto bias = [](const std::vector<float>& b) { return b.empty() ? nullptr : b.data(); };
    Norm(hidden_, num_tokens_, config_.hidden_dim, layer.attention_norm, normed_);
    const ops::LinearOutput projections[] = {{&layer.q, q_, q_dim, bias(layer.q_bias)},
                                             {&layer.k, k_, kv_dim, bias(layer.k_bias)},
                                             {&layer.v, v_, kv_dim, bias(layer.v_bias)}};
    ops::Linear(cx_, projections, normed_, num_tokens_, mode(), pass_.gemm);
    if (config_.has_qk_norm) {
      Norm(q_, num_tokens_ * config_.num_q_heads, config_.head_dim, layer.q_norm, q_);
      Norm(k_, num_tokens_ * config_.num_kv_heads, config_.head_dim, layer.k_norm, k_);
    }
    Rotate(layer_idx, q_, k_);

    int64_t row = 0;
    for (const SequenceInput& sequence : pass_.sequences) {
      CACHETTE_TRY(sequence.cache->Append(cx_, layer_idx, k_ + row * kv_dim, kv_dim, v_ + row * kv_dim, kv_dim));
      row += static_cast<int64_t>(sequence.tokens.size());
    }
    CACHETTE_TRY(ShowQueries(layer_idx, &LayerObserver::BeforeAttention));
    if (pass_.phase == Phase::kDecode) {
      CACHETTE_TRY(RehearseNext(layer_idx));
      AttendDecode(layer_idx);
    } else {
      AttendPrefill(layer_idx);
    }
    CACHETTE_TRY(ShowQueries(layer_idx, &LayerObserver::AfterAttention));
    Residual(layer.o, layer.o_bias, attended_, layer.post_attention_norm);
    return Ok();
  }

  // Shows the next layer's queries to those who want them, made of the residual stream as it enters this layer. Reads
  // W_q of every layer but the first once more: of SmolLM2-135M in Q4_1 6 MB beside the 96 MB of a decoded token.
  Result<void> RehearseNext(int layer_idx) {
    const int next_idx = layer_idx + 1;
    if (next_idx == config_.num_layers) return Ok();
    const auto wants = [&](const SequenceInput& sequence) {
      return sequence.observer != nullptr &&
             sequence.observer->WantsNextQueries(*sequence.cache, QueriesOf(next_idx, nullptr, 1));
    };
    if (std::none_of(pass_.sequences.begin(), pass_.sequences.end(), wants)) return Ok();
    const Transformer::Layer& next = model_.layers_[static_cast<size_t>(next_idx)];
    const int64_t q_dim = static_cast<int64_t>(config_.num_q_heads) * config_.head_dim;
    Norm(hidden_, num_tokens_, config_.hidden_dim, next.attention_norm, normed_);
    const ops::LinearOutput projection{&next.q, next_q_, q_dim, next.q_bias.empty() ? nullptr : next.q_bias.data()};
    ops::Linear(cx_, {&projection, 1}, normed_, num_tokens_, mode(), pass_.gemm);
    if (config_.has_qk_norm) Norm(next_q_, num_tokens_ * config_.num_q_heads, config_.head_dim, next.q_norm, next_q_);
    Rotate(next_idx, next_q_, nullptr);
    for (size_t i = 0; i < pass_.sequences.size(); ++i) {  // a row each
      const SequenceInput& sequence = pass_.sequences[i];
      if (!wants(sequence)) continue;
      const float* const q = next_q_ + static_cast<int64_t>(i) * q_dim;
      CACHETTE_TRY(sequence.observer->NextQueries(cx_, *sequence.cache, QueriesOf(next_idx, q, 1)));
    }
    return Ok();
  }

  // hidden += weight x (+ bias), through the post norm where the family has one.
  void Residual(const ops::Weight& weight, const std::vector<float>& bias, const float* x,
                const std::vector<float>& post_norm) {
    const bool is_direct = post_norm.empty();
    const ops::LinearOutput output{&weight, is_direct ? hidden_ : normed_, config_.hidden_dim,
                                   bias.empty() ? nullptr : bias.data(), is_direct};
    ops::Linear(cx_, {&output, 1}, x, num_tokens_, mode(), pass_.gemm);
    if (is_direct) return;
    Norm(normed_, num_tokens_, config_.hidden_dim, post_norm, normed_);
    for (int64_t i = 0; i < num_tokens_ * config_.hidden_dim; ++i) hidden_[i] += normed_[i];
  }

  // Queries, and keys where they are given, of all tokens.
  void Rotate(int layer_idx, float* q, float* k) {
    const bool is_local = config_.layers[static_cast<size_t>(layer_idx)].uses_local_rope;
    const int head_dim = config_.head_dim;
    const int64_t q_dim = static_cast<int64_t>(config_.num_q_heads) * head_dim;
    const int64_t kv_dim = static_cast<int64_t>(config_.num_kv_heads) * head_dim;
    int64_t row = 0;
    for (size_t i = 0; i < pass_.sequences.size(); ++i) {
      const SequenceInput& sequence = pass_.sequences[i];
      const ops::RopeAngles& angles = is_local ? local_angles_[i] : angles_[i];
      ops::ApplyRope(cx_, angles, q + row * q_dim, q_dim, config_.num_q_heads, head_dim);
      if (k != nullptr && sequence.cache->shape().rope_positions == RopePositions::kOriginal)
        ops::ApplyRope(cx_, angles, k + row * kv_dim, kv_dim, config_.num_kv_heads, head_dim);
      row += static_cast<int64_t>(sequence.tokens.size());
    }
  }

  // The row as attention reads it: the cache's own, or for kCacheIndex a scratch copy with keys rotated by rank.
  ops::KvRow AttendedRow(size_t sequence_idx, int layer_idx, int head) {
    const SequenceInput& sequence = pass_.sequences[sequence_idx];
    const HeadStream& stream = sequence.cache->stream(layer_idx, head);
    ops::KvRow row = sequence.cache->AttentionRow(layer_idx, head);
    if (sequence.cache->shape().rope_positions == RopePositions::kOriginal) return row;
    const auto num_blocks = static_cast<size_t>(stream.num_blocks());
    const std::span<int32_t> ranks = cx_.scratch().Array<int32_t>(static_cast<size_t>(stream.num_slots()));
    int32_t rank = 0;
    for (int64_t slot = 0; slot < stream.num_slots(); ++slot)
      ranks[static_cast<size_t>(slot)] = stream.IsLive(slot) ? rank++ : rank;
    const std::span<std::byte*> blocks = cx_.scratch().Array<std::byte*>(num_blocks);
    for (std::byte*& block : blocks) block = cx_.scratch().Allocate(row.format.block_bytes());
    const bool is_local = config_.layers[static_cast<size_t>(layer_idx)].uses_local_rope;
    ops::RopeAngles angles;
    ops::ComputeRopeAngles(cx_, is_local ? local_tables_[sequence_idx] : tables_[sequence_idx], ranks, angles);
    ops::RotateBlockKeys(cx_, angles, row, blocks.data());
    row.blocks = blocks.data();
    return row;
  }

  void AttendDecode(int layer_idx) {
    ScratchScope scope(cx_.scratch());
    const int group_dim = config_.group_size() * config_.head_dim;
    const int32_t window = config_.layers[static_cast<size_t>(layer_idx)].attention_window;
    decode_rows_.clear();
    for (size_t i = 0; i < pass_.sequences.size(); ++i) {
      const SequenceInput& sequence = pass_.sequences[i];
      for (int head = 0; head < config_.num_kv_heads; ++head) {
        const int64_t offset = (static_cast<int64_t>(i) * config_.num_kv_heads + head) * group_dim;
        ops::DecodeRow& row = decode_rows_.emplace_back();
        row.kv = AttendedRow(i, layer_idx, head);
        row.q = q_ + offset;
        row.out = attended_ + offset;
        row.state = nullptr;
        row.first_slot = 0;
        if (window > 0)
          row.first_slot = FirstSlotInWindow(sequence.cache->stream(layer_idx, head), sequence.first_position, window);
      }
    }
    ops::DecodeAttention(cx_, {.rows = decode_rows_,
                               .group_size = config_.group_size(),
                               .head_dim = config_.head_dim,
                               .scale = config_.attention_scale,
                               .softcap = config_.attention_softcap});
  }

  void AttendPrefill(int layer_idx) {
    const int64_t q_dim = static_cast<int64_t>(config_.num_q_heads) * config_.head_dim;
    const int group_dim = config_.group_size() * config_.head_dim;
    int64_t first_row = 0;
    for (size_t i = 0; i < pass_.sequences.size(); ++i) {
      const SequenceInput& sequence = pass_.sequences[i];
      ScratchScope scope(cx_.scratch());
      prefill_rows_.clear();
      for (int head = 0; head < config_.num_kv_heads; ++head) {
        const int64_t offset = first_row * q_dim + head * group_dim;
        prefill_rows_.push_back({AttendedRow(i, layer_idx, head), q_ + offset, attended_ + offset});
      }
      ops::PrefillAttention(cx_, {.rows = prefill_rows_,
                                  .num_queries = static_cast<int64_t>(sequence.tokens.size()),
                                  .q_stride = q_dim,
                                  .out_stride = q_dim,
                                  .group_size = config_.group_size(),
                                  .head_dim = config_.head_dim,
                                  .scale = config_.attention_scale,
                                  .softcap = config_.attention_softcap,
                                  .attention_window = config_.layers[static_cast<size_t>(layer_idx)].attention_window,
                                  .gemm = pass_.gemm});
      first_row += static_cast<int64_t>(sequence.tokens.size());
    }
  }

  LayerQueries QueriesOf(int layer_idx, const float* q, int64_t num_rows) const {
    return {.layer = layer_idx,
            .q = q,
            .q_stride = static_cast<int64_t>(config_.num_q_heads) * config_.head_dim,
            .num_rows = num_rows,
            .group_size = config_.group_size(),
            .scale = config_.attention_scale,
            .softcap = config_.attention_softcap,
            .attention_window = config_.layers[static_cast<size_t>(layer_idx)].attention_window};
  }

  Result<void> ShowQueries(int layer_idx,
                           Result<void> (LayerObserver::*moment)(Context&, SequenceCache&, const LayerQueries&)) {
    const int64_t q_dim = static_cast<int64_t>(config_.num_q_heads) * config_.head_dim;
    int64_t first_row = 0;
    for (const SequenceInput& sequence : pass_.sequences) {
      const auto num_rows = static_cast<int64_t>(sequence.tokens.size());
      if (sequence.observer != nullptr)
        CACHETTE_TRY(
            (sequence.observer->*moment)(cx_, *sequence.cache, QueriesOf(layer_idx, q_ + first_row * q_dim, num_rows)));
      first_row += num_rows;
    }
    return Ok();
  }

  void FeedForwardBlock(int layer_idx) {
    const Transformer::Layer& layer = model_.layers_[static_cast<size_t>(layer_idx)];
    Norm(hidden_, num_tokens_, config_.hidden_dim, layer.ffn_norm, normed_);
    const ops::LinearOutput projections[] = {{&layer.gate, gate_, config_.ffn_dim}, {&layer.up, up_, config_.ffn_dim}};
    ops::Linear(cx_, projections, normed_, num_tokens_, mode(), pass_.gemm);
    ops::GatedActivation(cx_, config_.activation, gate_, up_, gate_, num_tokens_ * config_.ffn_dim);
    Residual(layer.down, {}, gate_, layer.post_ffn_norm);
  }

  void Logits() {
    std::vector<int64_t> rows;
    int64_t first_row = 0;
    for (const SequenceInput& sequence : pass_.sequences) {
      for (const int64_t row : sequence.logit_rows) rows.push_back(first_row + row);
      first_row += static_cast<int64_t>(sequence.tokens.size());
    }
    if (rows.empty()) return;
    const auto count = static_cast<int64_t>(rows.size());
    const int64_t hidden = config_.hidden_dim;
    for (int64_t i = 0; i < count; ++i)  // normed_ has room: count <= num_tokens_
      std::copy_n(hidden_ + rows[static_cast<size_t>(i)] * hidden, hidden, normed_ + i * hidden);
    Norm(normed_, count, hidden, model_.output_norm_, normed_);
    const ops::LinearOutput output{model_.has_tied_output_ ? &model_.embedding_ : &model_.output_, pass_.logits,
                                   config_.vocab_size};
    const bool uses_matvec = pass_.phase == Phase::kDecode || count <= kMaxMatVecLogitRows;
    ops::Linear(cx_, {&output, 1}, normed_, count, uses_matvec ? ops::LinearMode::kDecode : ops::LinearMode::kPrefill,
                pass_.gemm);
    if (config_.logit_softcap > 0.0f)
      for (int64_t i = 0; i < count * config_.vocab_size; ++i)
        pass_.logits[i] = config_.logit_softcap * std::tanh(pass_.logits[i] / config_.logit_softcap);
  }

  Context& cx_;
  const Transformer& model_;
  const ModelConfig& config_;
  const ForwardPass& pass_;
  ScratchScope scope_;
  int64_t num_tokens_ = 0;
  float* hidden_ = nullptr;                             // [num_tokens][hidden_dim], the residual stream
  float* normed_ = nullptr;                             // [num_tokens][max(hidden_dim, q_dim)]
  float* q_ = nullptr;                                  // [num_tokens][num_q_heads][head_dim]
  float* k_ = nullptr;                                  // [num_tokens][num_kv_heads][head_dim]
  float* v_ = nullptr;                                  // as k_
  float* attended_ = nullptr;                           // as q_
  float* next_q_ = nullptr;                             // as q_, at decode
  float* gate_ = nullptr;                               // [num_tokens][ffn_dim]
  float* up_ = nullptr;                                 // as gate_
  std::vector<ops::RopeTable> tables_, local_tables_;   // [sequences]; local ones only where a layer uses them
  std::vector<ops::RopeAngles> angles_, local_angles_;  // as the tables
  std::vector<ops::DecodeRow> decode_rows_;
  std::vector<ops::PrefillRow> prefill_rows_;
};

Result<void> Transformer::Forward(Context& cx, const ForwardPass& pass) const {
  return ForwardRun(cx, *this, pass).Run();
}

}  // namespace cachette
