#pragma once
// Passes of a sequence without a model: the recipe acts, then random keys and values are appended to every layer.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "base/rng.h"
#include "cache/sequence_cache.h"
#include "methods/recipe.h"

namespace cachette {

class PassDriver {
 public:
  PassDriver(const Recipe& recipe, SequenceCache& cache) : cx_(AllBackends()[0], 1), recipe_(recipe), cache_(cache) {}

  void Pass(Phase phase, int64_t num_tokens, bool is_last_prefill_chunk = false) {
    const PassInfo pass{phase, cache_.num_tokens(), num_tokens, is_last_prefill_chunk};
    recipe_.BeforePass(cx_, cache_, pass);
    Write(pass);
  }

  // The second half of Pass.
  void Write(const PassInfo& pass) {
    const int64_t stride = cache_.shape().num_kv_heads * cache_.shape().format.head_dim;
    while (static_cast<int64_t>(rows_.size()) < (pass.num_tokens + 1) * stride)
      rows_.push_back(static_cast<float>(rng_.Normal()));
    CACHETTE_CHECK(cache_.BeginPass(pass).ok());
    for (int layer = 0; layer < cache_.shape().num_layers; ++layer)
      CACHETTE_CHECK(cache_.Append(cx_, layer, rows_.data() + stride, stride, rows_.data(), stride).ok());
    cache_.EndPass();
  }

  void Prefill(int64_t num_tokens, int64_t chunk_tokens) {
    for (int64_t begin = 0; begin < num_tokens; begin += chunk_tokens) {
      const int64_t count = std::min(chunk_tokens, num_tokens - begin);
      Pass(Phase::kPrefill, count, begin + count == num_tokens);
    }
  }

  void Decode(int64_t num_tokens) {
    for (int64_t i = 0; i < num_tokens; ++i) Pass(Phase::kDecode, 1);
  }

  Context& cx() { return cx_; }

 private:
  Context cx_;
  const Recipe& recipe_;
  SequenceCache& cache_;
  Rng rng_{1};
  std::vector<float> rows_;  // random keys; values are the same rows, one earlier
};

}  // namespace cachette
