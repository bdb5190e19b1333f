#include "support/induction_model.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <utility>

#include "base/rng.h"
#include "io/safetensors.h"

namespace cachette::test {
namespace {

constexpr int kVocab = kInductionVocab;
constexpr int kHeadDim = 128;
constexpr int kPairs = kHeadDim / 2;
constexpr int kQHeads = 4;  // group of 2 per KV head
constexpr int kHidden = 256;
constexpr int kFfn = 32;
// The residual stream: identity of the token | identity of the one before | the answer | a constant.
constexpr int kIdentity = 0;
constexpr int kPrevious = kVocab;
constexpr int kAnswer = 2 * kVocab;
constexpr int kConstant = 3 * kVocab;
// Rotary frequencies fall from 1 to 1e-12: the slow half does not move within any context tested and carries content,
// the fast half tells distances apart.
constexpr double kRopeBase = 1e12;
constexpr float kPositionGain = 8.0f;
constexpr float kContentGain = 20.0f;

class Matrix {
 public:
  Matrix(int rows, int cols) : cols_(cols), data_(static_cast<size_t>(rows * cols), 0.0f) {}
  float& operator()(int row, int col) { return data_[static_cast<size_t>(row * cols_ + col)]; }
  std::span<const std::byte> bytes() const { return std::as_bytes(std::span(data_)); }

 private:
  int cols_;
  std::vector<float> data_;
};

// Pair i of a head in the half-split order: elements i and i + kPairs.
double Frequency(int pair) { return std::pow(kRopeBase, -static_cast<double>(pair) / kPairs); }

class Writer {
 public:
  void Add(const std::string& name, int rows, int cols, Matrix matrix) {
    matrices_.push_back(std::make_pair(name, std::move(matrix)));
    shapes_.push_back({rows, cols});
  }
  void AddOnes(const std::string& name, int dim) {
    Matrix ones(1, dim);
    for (int i = 0; i < dim; ++i) ones(0, i) = 1.0f;
    matrices_.push_back(std::make_pair(name, std::move(ones)));
    shapes_.push_back({dim});
  }
  void Write(const std::string& path) const {
    SafetensorsWriter writer;
    for (size_t i = 0; i < matrices_.size(); ++i)
      CACHETTE_CHECK(writer.Add(matrices_[i].first, Dtype::kF32, shapes_[i], matrices_[i].second.bytes()).ok());
    CACHETTE_CHECK(writer.Write(path).ok());
  }

 private:
  std::vector<std::pair<std::string, Matrix>> matrices_;
  std::vector<std::vector<int64_t>> shapes_;
};

// Layer 0, query head 0 and KV head 0: constant keys; the query is the key turned back by one position, so that the
// score sum of cos(frequency * (distance - 1)) peaks at distance 1.
void AddPreviousTokenHead(Matrix& q, Matrix& k, Matrix& v, Matrix& o) {
  for (int i = 0; i < kPairs; ++i) {
    k(i, kConstant) = kPositionGain;
    q(i, kConstant) = static_cast<float>(std::cos(-Frequency(i)));
    q(i + kPairs, kConstant) = static_cast<float>(std::sin(-Frequency(i)));
  }
  for (int token = 0; token < kVocab; ++token) {
    v(token, kIdentity + token) = 1.0f;
    o(kPrevious + token, token) = 1.0f;
  }
}

// Layer 1, query head 0 and KV head 0: the query is the token's identity, the key the previous token's, both in the
// slow half of the rotary pairs; the value is the token's identity.
void AddInductionHead(Matrix& q, Matrix& k, Matrix& v, Matrix& o) {
  for (int token = 0; token < kVocab; ++token) {
    const int pair = kPairs / 2 + token / 2;
    const int element = token % 2 == 0 ? pair : pair + kPairs;
    q(element, kIdentity + token) = kContentGain;
    k(element, kPrevious + token) = 1.0f;
    v(token, kIdentity + token) = 1.0f;
    o(kAnswer + token, token) = 4.0f;
  }
}

}  // namespace

std::string WriteInductionModel(const std::string& folder) {
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/config.json")
      << R"({"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 256, "num_attention_heads": 4,
 "num_key_value_heads": 2, "head_dim": 128, "intermediate_size": 32, "vocab_size": 64, "hidden_act": "silu",
 "max_position_embeddings": 16384, "rms_norm_eps": 1e-6, "rope_theta": 1e12, "tie_word_embeddings": false})";
  Writer writer;
  Matrix embedding(kVocab, kHidden), output(kVocab, kHidden);
  for (int token = 0; token < kVocab; ++token) {
    embedding(token, kIdentity + token) = 1.0f;
    embedding(token, kConstant) = 1.0f;
    output(token, kAnswer + token) = 1.0f;
  }
  writer.Add("model.embed_tokens.weight", kVocab, kHidden, std::move(embedding));
  writer.Add("lm_head.weight", kVocab, kHidden, std::move(output));
  writer.AddOnes("model.norm.weight", kHidden);
  for (int layer = 0; layer < kInductionLayers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    Matrix q(kQHeads * kHeadDim, kHidden), k(kInductionKvHeads * kHeadDim, kHidden),
        v(kInductionKvHeads * kHeadDim, kHidden), o(kHidden, kQHeads * kHeadDim);
    (layer == 0 ? AddPreviousTokenHead : AddInductionHead)(q, k, v, o);
    writer.Add(prefix + "self_attn.q_proj.weight", kQHeads * kHeadDim, kHidden, std::move(q));
    writer.Add(prefix + "self_attn.k_proj.weight", kInductionKvHeads * kHeadDim, kHidden, std::move(k));
    writer.Add(prefix + "self_attn.v_proj.weight", kInductionKvHeads * kHeadDim, kHidden, std::move(v));
    writer.Add(prefix + "self_attn.o_proj.weight", kHidden, kQHeads * kHeadDim, std::move(o));
    writer.Add(prefix + "mlp.gate_proj.weight", kFfn, kHidden, Matrix(kFfn, kHidden));
    writer.Add(prefix + "mlp.up_proj.weight", kFfn, kHidden, Matrix(kFfn, kHidden));
    writer.Add(prefix + "mlp.down_proj.weight", kHidden, kFfn, Matrix(kHidden, kFfn));
    writer.AddOnes(prefix + "input_layernorm.weight", kHidden);
    writer.AddOnes(prefix + "post_attention_layernorm.weight", kHidden);
  }
  writer.Write(folder + "/model.safetensors");
  return folder;
}

InductionPrompt MakeInductionPrompt(int num_pairs, int asked, int num_filler, uint64_t seed) {
  Rng rng(seed);
  const auto shuffled = [&](int first) {
    std::vector<int32_t> ids(20);
    std::iota(ids.begin(), ids.end(), first);
    for (size_t i = ids.size(); i > 1; --i) std::swap(ids[i - 1], ids[rng.Below(i)]);
    return ids;
  };
  const std::vector<int32_t> keys = shuffled(1), values = shuffled(21);
  InductionPrompt prompt;
  prompt.tokens.push_back(kInductionBos);
  for (int i = 0; i < num_pairs; ++i) {
    prompt.tokens.push_back(keys[static_cast<size_t>(i)]);
    if (i == asked) {
      prompt.answer = values[static_cast<size_t>(i)];
      prompt.answer_position = static_cast<int64_t>(prompt.tokens.size());
    }
    prompt.tokens.push_back(values[static_cast<size_t>(i)]);
  }
  for (int i = 0; i < num_filler; ++i) prompt.tokens.push_back(static_cast<int32_t>(41 + rng.Below(23)));
  prompt.tokens.push_back(keys[static_cast<size_t>(asked)]);
  return prompt;
}

}  // namespace cachette::test
