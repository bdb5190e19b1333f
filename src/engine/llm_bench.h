#pragma once
// Speed of a loaded model: prefill of so many tokens, decode of so many at a depth.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"

namespace cachette {

struct LlmBenchOptions {
  int64_t decode_tokens = 64;
  int64_t repetitions = 5;
  int64_t prefill_chunk = 512;
  bool reuse_prefill = false;

  void VisitOptions(OptionVisitor& v) {
    v(decode_tokens, "decode_tokens", "tokens of a decode test; 0: none");
    v(repetitions, "repetitions", "timed repetitions of each test");
    v(prefill_chunk, "prefill_chunk", "prompt tokens per prefill pass");
    v(reuse_prefill, "reuse_prefill",
      "prefill each depth once: repetition i of a decode test then starts i * n tokens deeper");
  }
};

// One line of the result. Rates and depths are by repetition.
struct LlmBenchTest {
  std::string name;        // "pp512", "tg64@d4096"
  int64_t num_tokens = 0;  // timed, per repetition
  int64_t depth = 0;       // tokens in the session before
  std::vector<double> seconds;
  std::vector<int64_t> start_depths;

  std::vector<double> TokensPerS() const;  // sorted ascending
  double MedianTokensPerS() const;
};

// A prefill test for each of prompt_tokens, a decode test for each of depths; zeros among prompt_tokens are skipped.
// Token ids are fixed pseudo-random ones: what a model does per token does not depend on the text. Every test is warmed
// up once, untimed. Each repetition runs in a session of its own, prefilled to the depth outside the timing (see
// reuse_prefill). Logits are computed as in generation: of the last prompt token, of each decoded token. on_test hears
// of each test as it ends. Errors: kInvalidArgument (counts; past the model's context), kOutOfMemory, kCancelled.
Result<std::vector<LlmBenchTest>> RunLlmBench(Engine& engine, std::shared_ptr<const Recipe> recipe,
                                              const std::vector<int64_t>& prompt_tokens,
                                              const std::vector<int64_t>& depths, const LlmBenchOptions& options,
                                              const std::function<void(const LlmBenchTest&)>& on_test,
                                              const std::atomic<bool>* cancel = nullptr);

}  // namespace cachette
