#pragma once

#include "methods/part.h"

namespace cachette {

// A score without meaning, the control every other scorer has to beat: a hash of seed, layer, KV head and position.
class RandomScore final : public Scorer {
 public:
  const char* name() const override { return "random_score"; }
  void VisitOptions(OptionVisitor& v) override { v(seed, "seed", "which random order"); }

  void Score(Context&, const LayerView& view, std::span<std::vector<float>> scores) const override {
    for (size_t head = 0; head < scores.size(); ++head) {
      const HeadStream& stream = view.cache.stream(view.layer, static_cast<int>(head));
      for (size_t i = 0; i < scores[head].size(); ++i) {
        const auto position = static_cast<uint64_t>(stream.positions()[static_cast<size_t>(view.slots[head][i])]);
        const uint64_t stream_idx = static_cast<uint64_t>(view.layer) * scores.size() + head;
        scores[head][i] = static_cast<float>(Mix(Mix(Mix(static_cast<uint64_t>(seed)) ^ stream_idx) ^ position) >> 40);
      }
    }
  }

  int64_t seed = 0;

 private:
  // The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
  static uint64_t Mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }
};

}  // namespace cachette
