#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/rng.h"
#include "engine/options.h"

namespace cachette {

// Chooses the next token from logits. Order: repetition penalty, then greedy (temperature 0), or temperature, top-k,
// top-p, min-p and a draw. Deterministic: the same options, seed and logits give the same tokens on every machine.
// Sources: top-p arXiv:1904.09751; min-p arXiv:2407.01082; repetition penalty arXiv:1909.05858.
class Sampler {
 public:
  explicit Sampler(const GenerateOptions& options);

  // Marks a token of the prompt or output as seen, for the penalty.
  void Observe(int32_t token);
  // logits [vocab_size]; ties go to the lower id. NaN logits are never chosen unless nothing else is left.
  int32_t Sample(std::span<const float> logits);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  void CutTopK();
  void CutByProbability();

  double temperature_, top_p_, min_p_;
  float repetition_penalty_;
  size_t top_k_;
  Rng rng_;
  std::vector<uint8_t> is_seen_;       // [vocab_size], grown on demand
  std::vector<Candidate> candidates_;  // scratch
  std::vector<double> weights_;        // scratch, of candidates_
};

}  // namespace cachette
