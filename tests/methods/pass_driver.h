#pragma once
// Passes of a sequence without a model: the recipe acts as in the engine, while queries, keys and values that are
// random, or given, stand in for the forward pass.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/rng.h"
#include "cache/sequence_cache.h"
#include "methods/recipe_run.h"

namespace cachette {

// What one layer computes in a pass, transient rows last.
struct LayerRows {
  std::vector<float> q;     // [rows][num_kv_heads][group_size][head_dim]
  std::vector<float> keys;  // [rows][num_kv_heads][head_dim]
};

class PassDriver {
 public:
  static constexpr int kGroupSize = 2;  // of random rows

  PassDriver(Recipe recipe, SequenceCache& cache, const Backend& backend = AllBackends()[0])
      : cx_(backend, 1), run_(std::make_shared<Recipe>(std::move(recipe)), cache.shape()), cache_(cache) {}

  // The same run on a copy of its cache.
  PassDriver(const PassDriver& other, SequenceCache& cache)
      : cx_(other.cx_.backend(), 1), run_(other.run_), cache_(cache), rng_(other.rng_), rows_(other.rows_) {}

  void Pass(const PassInfo& pass) {
    run_.BeforePass(cx_, cache_, pass);
    Write(pass);
  }

  // A pass with the given rows [num_layers]; values are the keys.
  void Pass(const PassInfo& pass, std::span<const LayerRows> layers, int group_size, float scale) {
    const int64_t stride = cache_.shape().num_kv_heads * cache_.shape().format.head_dim;
    run_.BeforePass(cx_, cache_, pass);
    CACHETTE_CHECK(cache_.BeginPass(pass).ok());
    for (int layer = 0; layer < cache_.shape().num_layers; ++layer) {
      const LayerRows& rows = layers[static_cast<size_t>(layer)];
      CACHETTE_CHECK(cache_.Append(cx_, layer, rows.keys.data(), stride, rows.keys.data(), stride).ok());
      if (!run_.observes()) continue;
      const LayerQueries queries{.layer = layer,
                                 .q = rows.q.data(),
                                 .q_stride = stride * group_size,
                                 .num_rows = pass.num_tokens + pass.num_transient,
                                 .group_size = group_size,
                                 .scale = scale};
      CACHETTE_CHECK(run_.BeforeAttention(cx_, cache_, queries).ok());
      CACHETTE_CHECK(run_.AfterAttention(cx_, cache_, queries).ok());
    }
    cache_.EndPass();
  }

  // The second half of Pass.
  void Write(const PassInfo& pass) {
    const CacheShape& shape = cache_.shape();
    const int64_t num_rows = pass.num_tokens + pass.num_transient;
    const int64_t stride = shape.num_kv_heads * shape.format.head_dim;
    const int64_t width = run_.observes() ? stride * kGroupSize : stride;
    while (static_cast<int64_t>(rows_.size()) < (num_rows + 1) * width)
      rows_.push_back(static_cast<float>(rng_.Normal()));
    CACHETTE_CHECK(cache_.BeginPass(pass).ok());
    for (int layer = 0; layer < shape.num_layers; ++layer) {
      CACHETTE_CHECK(cache_.Append(cx_, layer, rows_.data() + stride, stride, rows_.data(), stride).ok());
      if (!run_.observes()) continue;
      const LayerQueries queries{.layer = layer,
                                 .q = rows_.data(),
                                 .q_stride = stride * kGroupSize,
                                 .num_rows = num_rows,
                                 .group_size = kGroupSize};
      CACHETTE_CHECK(run_.BeforeAttention(cx_, cache_, queries).ok());
      CACHETTE_CHECK(run_.AfterAttention(cx_, cache_, queries).ok());
    }
    cache_.EndPass();
  }

  void Prefill(int64_t num_tokens, int64_t chunk_tokens) {
    for (int64_t begin = 0; begin < num_tokens; begin += chunk_tokens) {
      const int64_t count = std::min(chunk_tokens, num_tokens - begin);
      const bool is_last = begin + count == num_tokens;
      Pass({.phase = Phase::kPrefill,
            .first_token = cache_.num_tokens(),
            .num_tokens = count,
            .is_last_prefill_chunk = is_last,
            .num_transient = is_last ? 0 : std::min(run_.recipe().num_patch_tokens(), num_tokens)});
    }
  }

  void Decode(int64_t num_tokens) {
    for (int64_t i = 0; i < num_tokens; ++i)
      Pass({.phase = Phase::kDecode, .first_token = cache_.num_tokens(), .num_tokens = 1});
  }

  Context& cx() { return cx_; }
  RecipeRun& run() { return run_; }

 private:
  Context cx_;
  RecipeRun run_;
  SequenceCache& cache_;
  Rng rng_{1};
  std::vector<float> rows_;  // random keys; values are the same rows, one earlier
};

}  // namespace cachette
