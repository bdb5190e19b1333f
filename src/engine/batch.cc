// Several requests at once: prompts are prefilled one after the other, decode steps are shared.

#include <algorithm>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/sampler.h"

namespace cachette {
namespace {

// A request between its first token and its last.
struct Running {
  size_t request_idx;
  Sampler sampler;
  int64_t limit;  // of new tokens
  int32_t last_token = 0;
  Clock::time_point first_token_time;
};

}  // namespace

Result<std::vector<Generation>> Engine::GenerateBatch(std::span<BatchRequest> requests,
                                                      const std::atomic<bool>* cancel) {
  for (const BatchRequest& request : requests) {
    CACHETTE_TRY(Validate(request.options));
    CACHETTE_TRY(CheckPrompt(*request.session, request.prompt));
  }
  CACHETTE_TRY(CheckFastTier(requests));
  std::vector<Generation> results(requests.size());
  std::vector<Running> running;
  const auto vocab = static_cast<size_t>(config().vocab_size);
  std::vector<float> logits(vocab);
  GenerateCallbacks callbacks;
  callbacks.cancel = cancel;

  // Takes the next token of a request from its logits; true while the request goes on.
  const auto take_token = [&](Running& run, std::span<const float> own_logits) {
    const BatchRequest& request = requests[run.request_idx];
    Generation& result = results[run.request_idx];
    run.last_token = run.sampler.Sample(own_logits);
    run.sampler.Observe(run.last_token);
    const Clock::time_point now = Clock::now();
    if (result.tokens.empty()) run.first_token_time = now;
    result.tokens.push_back(run.last_token);
    result.decode_seconds = SecondsBetween(run.first_token_time, now);
    if (IsEndToken(run.last_token, request.options)) {
      result.stop = StopReason::kEndToken;
      return false;
    }
    if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) {
      result.stop = StopReason::kCancelled;
      return false;
    }
    return static_cast<int64_t>(result.tokens.size()) < run.limit;
  };
  const auto step = [&](std::span<Running> runs, float* step_logits) {
    std::vector<Session*> sessions;
    std::vector<int32_t> tokens;
    for (const Running& run : runs) {
      sessions.push_back(requests[run.request_idx].session);
      tokens.push_back(run.last_token);
    }
    return DecodeStep(sessions, tokens, step_logits);
  };

  std::vector<Running> finished;  // their last token is still to be written
  for (size_t i = 0; i < requests.size(); ++i) {
    BatchRequest& request = requests[i];
    Generation& result = results[i];
    const Clock::time_point start = Clock::now();
    CACHETTE_TRY(result.prompt_tokens,
                 Prefill(*request.session, request.prompt, request.options.prefill_chunk, logits.data(), callbacks));
    result.prefill_seconds = SecondsBetween(start, Clock::now());
    if (result.prompt_tokens < static_cast<int64_t>(request.prompt.size())) {
      result.stop = StopReason::kCancelled;
      continue;
    }
    Running run{i, Sampler(request.options), OutputLimit(*request.session, 0, request.options.max_new_tokens), 0,
                start};
    result.stop = run.limit < request.options.max_new_tokens ? StopReason::kContext : StopReason::kMaxNewTokens;
    if (run.limit <= 0) continue;
    for (const int32_t token : request.prompt) run.sampler.Observe(token);
    const bool goes_on = take_token(run, logits);
    result.ttft_seconds = SecondsBetween(start, Clock::now());
    (goes_on ? running : finished).push_back(std::move(run));
  }
  while (!running.empty()) {
    logits.resize(running.size() * vocab);
    CACHETTE_TRY(step(running, logits.data()));
    std::vector<Running> next;
    for (size_t i = 0; i < running.size(); ++i) {
      const bool goes_on = take_token(running[i], std::span(logits).subspan(i * vocab, vocab));
      (goes_on ? next : finished).push_back(std::move(running[i]));
    }
    running = std::move(next);
  }
  if (!finished.empty()) CACHETTE_TRY(step(finished, nullptr));
  return results;
}

}  // namespace cachette
