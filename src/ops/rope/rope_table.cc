#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/result.h"
#include "ops/rope/rope.h"

namespace cachette::ops {
namespace {

// The dynamic variant stretches the base so that the longest context in use spans the trained range of angles.
double BaseOf(const RopeConfig& c, int64_t context_tokens) {
  if (c.scaling != RopeScaling::kDynamic) return static_cast<double>(c.base);
  const auto trained = static_cast<double>(c.original_context_tokens);
  const double context = std::max(static_cast<double>(context_tokens), trained);
  const double factor = static_cast<double>(c.factor);
  const double dim = c.rotary_dim;
  return static_cast<double>(c.base) * std::pow(factor * context / trained - (factor - 1.0), dim / (dim - 2.0));
}

// llama3: long wavelengths are stretched by factor, short ones kept, those between blended.
double Llama3Freq(const RopeConfig& c, double inv_freq) {
  const auto trained = static_cast<double>(c.original_context_tokens);
  const double low = static_cast<double>(c.low_freq_factor), high = static_cast<double>(c.high_freq_factor);
  const double wavelength = 2.0 * std::numbers::pi / inv_freq;
  if (wavelength < trained / high) return inv_freq;
  if (wavelength > trained / low) return inv_freq / static_cast<double>(c.factor);
  const double kept = (trained / wavelength - low) / (high - low);
  return (1.0 - kept) * inv_freq / static_cast<double>(c.factor) + kept * inv_freq;
}

// yarn, section 3.2: the pair that turns num_rotations times over the trained context.
double YarnPair(const RopeConfig& c, double num_rotations) {
  return c.rotary_dim *
         std::log(static_cast<double>(c.original_context_tokens) / (num_rotations * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(static_cast<double>(c.base)));
}

double YarnFreq(const RopeConfig& c, int pair_idx, double inv_freq) {
  double low = YarnPair(c, static_cast<double>(c.beta_fast));
  double high = YarnPair(c, static_cast<double>(c.beta_slow));
  if (c.truncate_yarn_range) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, c.rotary_dim - 1.0);
  if (low == high) high += 0.001;  // as transformers does, against division by zero
  const double stretched = std::clamp((pair_idx - low) / (high - low), 0.0, 1.0);
  return inv_freq / static_cast<double>(c.factor) * stretched + inv_freq * (1.0 - stretched);
}

double ScaledFreq(const RopeConfig& c, int pair_idx, double inv_freq) {
  switch (c.scaling) {
    case RopeScaling::kNone:
    case RopeScaling::kDynamic: return inv_freq;
    case RopeScaling::kLinear: return inv_freq / static_cast<double>(c.factor);
    case RopeScaling::kLlama3: return Llama3Freq(c, inv_freq);
    case RopeScaling::kYarn: return YarnFreq(c, pair_idx, inv_freq);
  }
  return inv_freq;
}

float MagnitudeOf(const RopeConfig& c) {
  if (c.scaling != RopeScaling::kYarn) return 1.0f;
  if (c.attention_factor > 0.0f) return c.attention_factor;
  return c.factor > 1.0f ? static_cast<float>(0.1 * std::log(static_cast<double>(c.factor)) + 1.0) : 1.0f;
}

}  // namespace

RopeTable MakeRopeTable(const RopeConfig& config, int64_t context_tokens) {
  CACHETTE_CHECK(config.rotary_dim >= 2 && config.rotary_dim % 2 == 0 && config.base > 0.0f && config.factor > 0.0f);
  const bool needs_context = config.scaling == RopeScaling::kLlama3 || config.scaling == RopeScaling::kYarn ||
                             config.scaling == RopeScaling::kDynamic;
  CACHETTE_CHECK(!needs_context || config.original_context_tokens > 0);
  CACHETTE_CHECK(config.scaling != RopeScaling::kDynamic || config.rotary_dim > 2);
  const int num_pairs = config.rotary_dim / 2;
  CACHETTE_CHECK(config.freq_factors.empty() || config.freq_factors.size() == static_cast<size_t>(num_pairs));
  RopeTable table{config.pairing, config.rotary_dim, {}, MagnitudeOf(config)};
  const double base = BaseOf(config, context_tokens);
  for (int i = 0; i < num_pairs; ++i) {
    double inv_freq = ScaledFreq(config, i, std::pow(base, -2.0 * i / config.rotary_dim));
    if (!config.freq_factors.empty()) inv_freq /= static_cast<double>(config.freq_factors[static_cast<size_t>(i)]);
    table.inv_freq.push_back(static_cast<float>(inv_freq));
  }
  return table;
}

}  // namespace cachette::ops
