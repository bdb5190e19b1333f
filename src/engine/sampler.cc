#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace cachette {
namespace {

constexpr float kWorst = -std::numeric_limits<float>::infinity();

}  // namespace

Sampler::Sampler(const GenerateOptions& options)
    : temperature_(options.temperature),
      top_p_(options.top_p),
      min_p_(options.min_p),
      repetition_penalty_(static_cast<float>(options.repetition_penalty)),
      top_k_(static_cast<size_t>(options.top_k)),
      rng_(static_cast<uint64_t>(options.seed)) {}

void Sampler::Observe(int32_t token) {
  if (repetition_penalty_ == 1.0f || token < 0) return;
  if (static_cast<size_t>(token) >= is_seen_.size()) is_seen_.resize(static_cast<size_t>(token) + 1, 0);
  is_seen_[static_cast<size_t>(token)] = 1;
}

int32_t Sampler::Sample(std::span<const float> logits) {
  const auto adjusted = [&](size_t id) {
    const float logit = std::isnan(logits[id]) ? kWorst : logits[id];
    if (id >= is_seen_.size() || is_seen_[id] == 0) return logit;
    return logit > 0.0f ? logit / repetition_penalty_ : logit * repetition_penalty_;
  };
  if (temperature_ <= 0.0) {
    size_t best = 0;
    float best_logit = adjusted(0);
    for (size_t id = 1; id < logits.size(); ++id) {
      const float logit = adjusted(id);
      if (logit > best_logit) {
        best_logit = logit;
        best = id;
      }
    }
    return static_cast<int32_t>(best);
  }
  candidates_.clear();
  for (size_t id = 0; id < logits.size(); ++id)
    candidates_.push_back({static_cast<float>(adjusted(id) / temperature_), static_cast<int32_t>(id)});
  CutTopK();
  CutByProbability();
  double sum = 0.0;
  for (const double weight : weights_) sum += weight;
  double draw = rng_.Uniform() * sum;
  for (size_t i = 0; i < weights_.size(); ++i) {
    draw -= weights_[i];
    if (draw < 0.0) return candidates_[i].id;
  }
  return candidates_[weights_.size() - 1].id;
}

// Keeps the k best (all for k = 0), sorted best first.
void Sampler::CutTopK() {
  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  const size_t kept = top_k_ == 0 ? candidates_.size() : std::min(top_k_, candidates_.size());
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<int64_t>(kept), candidates_.end(), better);
  candidates_.resize(kept);
}

// Fills weights_ (unnormalised probabilities) and drops the tail that top-p and min-p exclude; the best always stays.
void Sampler::CutByProbability() {
  weights_.clear();
  double sum = 0.0;
  for (const Candidate& candidate : candidates_) {
    const double weight = std::exp(static_cast<double>(candidate.logit) - candidates_[0].logit);
    weights_.push_back(std::isnan(weight) ? 1.0 : weight);  // all logits -inf: uniform
    sum += weights_.back();
  }
  double mass = 0.0;
  size_t kept = 0;
  while (kept < weights_.size() && (kept == 0 || (mass < top_p_ * sum && weights_[kept] >= min_p_ * weights_[0])))
    mass += weights_[kept++];
  weights_.resize(kept);
}

}  // namespace cachette
