#include "engine/llm_bench.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/clock.h"
#include "base/rng.h"

namespace cachette {
namespace {

// One bench under way.
class LlmBench {
 public:
  LlmBench(Engine& engine, std::shared_ptr<const Recipe> recipe, const LlmBenchOptions& options,
           const std::atomic<bool>* cancel)
      : engine_(engine), recipe_(std::move(recipe)), options_(options), logits_(engine.config().vocab_size) {
    callbacks_.cancel = cancel;
  }

  Result<LlmBenchTest> Prefill(int64_t num_tokens);
  Result<LlmBenchTest> Decode(int64_t depth);
  Result<void> CheckFits(int64_t num_tokens) const;

 private:
  std::vector<int32_t> Tokens(int64_t count) {
    std::vector<int32_t> tokens(static_cast<size_t>(count));
    for (int32_t& token : tokens)
      token = static_cast<int32_t>(rng_.Below(static_cast<uint64_t>(engine_.config().vocab_size)));
    return tokens;
  }
  Result<double> TimePrefill(Session& session, const std::vector<int32_t>& tokens);
  Result<double> TimeDecode(Session& session, const std::vector<int32_t>& tokens);

  Engine& engine_;
  std::shared_ptr<const Recipe> recipe_;
  LlmBenchOptions options_;
  GenerateCallbacks callbacks_;
  Rng rng_{1};
  std::vector<float> logits_;  // [vocab_size]
};

Result<double> LlmBench::TimePrefill(Session& session, const std::vector<int32_t>& tokens) {
  const Clock::time_point start = Clock::now();
  CACHETTE_TRY(const int64_t done,
               engine_.Prefill(session, tokens, options_.prefill_chunk, logits_.data(), callbacks_));
  if (done < static_cast<int64_t>(tokens.size())) return Fail(Error::kCancelled, "the benchmark was interrupted");
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Result<double> LlmBench::TimeDecode(Session& session, const std::vector<int32_t>& tokens) {
  Session* const sessions[] = {&session};
  const Clock::time_point start = Clock::now();
  for (const int32_t token : tokens) {
    if (callbacks_.cancel != nullptr && callbacks_.cancel->load(std::memory_order_relaxed))
      return Fail(Error::kCancelled, "the benchmark was interrupted");
    CACHETTE_TRY(engine_.DecodeStep(sessions, {&token, 1}, logits_.data()));
  }
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Result<void> LlmBench::CheckFits(int64_t num_tokens) const {
  const int64_t context = engine_.config().context_tokens;
  if (recipe_->rope_positions() != RopePositions::kOriginal || num_tokens <= context) return Ok();
  return Fail(
      Error::kInvalidArgument,
      fmt::format("a test of {} tokens passes the model's context of {}; choose less, or stretch it with "
                  "--rope-scale {:.1f}",
                  num_tokens, context,
                  0.1 + engine_.options().rope_scale * static_cast<double>(num_tokens) / static_cast<double>(context)));
}

Result<LlmBenchTest> LlmBench::Prefill(int64_t num_tokens) {
  LlmBenchTest test{fmt::format("pp{}", num_tokens), num_tokens, 0, {}, {}};
  const std::vector<int32_t> tokens = Tokens(num_tokens);
  for (int64_t i = -1; i < options_.repetitions; ++i) {  // -1: the warm-up
    const std::unique_ptr<Session> session = engine_.NewSession(recipe_);
    CACHETTE_TRY(const double seconds, TimePrefill(*session, tokens));
    if (i < 0) continue;
    test.seconds.push_back(seconds);
    test.start_depths.push_back(0);
  }
  return test;
}

Result<LlmBenchTest> LlmBench::Decode(int64_t depth) {
  const int64_t count = options_.decode_tokens;
  LlmBenchTest test{fmt::format("tg{}@d{}", count, depth), count, depth, {}, {}};
  const std::vector<int32_t> before = Tokens(depth);
  const std::vector<int32_t> tokens = Tokens(count);
  {  // the warm-up, at depth 0: the prefill to the depth warms what is particular to it
    const std::unique_ptr<Session> session = engine_.NewSession(recipe_);
    CACHETTE_TRY(TimeDecode(*session, tokens));
  }
  std::unique_ptr<Session> session;
  for (int64_t i = 0; i < options_.repetitions; ++i) {
    if (session == nullptr || !options_.reuse_prefill) {
      session.reset();  // its memory first
      session = engine_.NewSession(recipe_);
      if (depth > 0) CACHETTE_TRY(TimePrefill(*session, before));
    }
    test.start_depths.push_back(session->num_tokens());
    CACHETTE_TRY(const double seconds, TimeDecode(*session, tokens));
    test.seconds.push_back(seconds);
  }
  return test;
}

}  // namespace

std::vector<double> LlmBenchTest::TokensPerS() const {
  std::vector<double> rates;
  for (const double s : seconds) rates.push_back(static_cast<double>(num_tokens) / s);
  std::sort(rates.begin(), rates.end());
  return rates;
}

double LlmBenchTest::MedianTokensPerS() const {
  const std::vector<double> rates = TokensPerS();
  if (rates.empty()) return 0.0;
  return 0.5 * (rates[(rates.size() - 1) / 2] + rates[rates.size() / 2]);
}

Result<std::vector<LlmBenchTest>> RunLlmBench(Engine& engine, std::shared_ptr<const Recipe> recipe,
                                              const std::vector<int64_t>& prompt_tokens,
                                              const std::vector<int64_t>& depths, const LlmBenchOptions& options,
                                              const std::function<void(const LlmBenchTest&)>& on_test,
                                              const std::atomic<bool>* cancel) {
  GenerateOptions chunked;
  chunked.prefill_chunk = options.prefill_chunk;
  CACHETTE_TRY(Validate(chunked));
  if (options.repetitions < 1)
    return Fail(Error::kInvalidArgument, fmt::format("{} repetitions; give at least 1", options.repetitions));
  if (options.decode_tokens < 0)
    return Fail(Error::kInvalidArgument, fmt::format("{} decode tokens; give 0 or more", options.decode_tokens));
  for (const std::vector<int64_t>* list : {&prompt_tokens, &depths})
    for (const int64_t count : *list)
      if (count < 0) return Fail(Error::kInvalidArgument, fmt::format("{} tokens; give 0 or more", count));

  LlmBench bench(engine, std::move(recipe), options, cancel);
  for (const int64_t count : prompt_tokens) CACHETTE_TRY(bench.CheckFits(count));
  const int64_t decoded = options.decode_tokens * (options.reuse_prefill ? options.repetitions : 1);
  if (options.decode_tokens > 0)
    for (const int64_t depth : depths) CACHETTE_TRY(bench.CheckFits(depth + decoded));

  std::vector<LlmBenchTest> tests;
  const auto add = [&](LlmBenchTest test) {
    if (on_test) on_test(test);
    tests.push_back(std::move(test));
  };
  for (const int64_t count : prompt_tokens) {
    if (count == 0) continue;
    CACHETTE_TRY(LlmBenchTest test, bench.Prefill(count));
    add(std::move(test));
  }
  if (options.decode_tokens > 0) {
    for (const int64_t depth : depths) {
      CACHETTE_TRY(LlmBenchTest test, bench.Decode(depth));
      add(std::move(test));
    }
  }
  return tests;
}

}  // namespace cachette
