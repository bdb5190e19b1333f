#pragma once
// How far a recipe moves the model's predictions from the full cache's, on any text and with any model: both caches
// side by side, fed the same tokens.

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "base/options.h"
#include "base/result.h"
#include "engine/engine.h"

namespace cachette {

struct FidelityOptions {
  int64_t text_tokens = 0;
  int64_t decode_tokens = 256;

  void VisitOptions(OptionVisitor& v) {
    v(text_tokens, "text_tokens", "most tokens of the text to use; 0: as many as the model's context holds");
    v(decode_tokens, "decode_tokens", "how many of them, the last ones, are fed one by one and compared");
  }
};

// Logarithms are natural; p is the full cache's distribution of the next token, q the recipe's.
struct Fidelity {
  int64_t prompt_tokens = 0;  // prefilled with the recipe, chunk by chunk
  int64_t compared_tokens = 0;
  double kl_mean = 0, kl_median = 0, kl_p90 = 0, kl_p99 = 0, kl_max = 0;  // KL(p || q) of a step, nats
  double top1_agreement = 0;                                              // share of steps; ties: lowest id
  double perplexity_full = 0, perplexity = 0;                             // of the text's next token
  double footprint = 0, peak = 0;                                         // of the recipe's session
  double seconds = 0;
  bool is_cancelled = false;  // the figures then are of the steps done before
};

// text is tokenized without special tokens around it, behind the vocabulary's bos. Errors: kInvalidArgument (counts,
// text too short), kOutOfMemory; what the model's tokenizer says.
Result<Fidelity> MeasureFidelity(Engine& engine, const std::shared_ptr<const Recipe>& recipe, std::string_view text,
                                 const FidelityOptions& options, int64_t prefill_chunk,
                                 const GenerateCallbacks& callbacks = {});

// KL(p || q) of the softmaxes of two rows of logits, nats; never below 0. Sums in double.
double KlDivergence(std::span<const float> p_logits, std::span<const float> q_logits);

}  // namespace cachette
