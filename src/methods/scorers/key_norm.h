#pragma once

#include <cmath>

#include "methods/part.h"
#include "ops/attention/kv_store.h"

namespace cachette {

// Keys of small norm receive much attention: the negative L2 norm of the key.
// Source: arXiv:2406.11430, section 3.
class KeyNorm final : public Scorer {
 public:
  const char* name() const override { return "key_norm"; }

  void Score(Context&, const LayerView& view, std::span<std::vector<float>> scores) const override {
    std::vector<float> key(static_cast<size_t>(view.cache.shape().format.head_dim));
    for (size_t head = 0; head < scores.size(); ++head) {
      const HeadStream& stream = view.cache.stream(view.layer, static_cast<int>(head));
      for (size_t i = 0; i < scores[head].size(); ++i) {
        ops::LoadEntry(stream.format(), stream.blocks(), view.slots[head][i], key.data(), nullptr);
        float squares = 0.0f;
        for (const float x : key) squares += x * x;
        scores[head][i] = -std::sqrt(squares);
      }
    }
  }
};

}  // namespace cachette
