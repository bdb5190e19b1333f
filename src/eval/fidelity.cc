#include "eval/fidelity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/clock.h"

namespace cachette {
namespace {

size_t Argmax(std::span<const float> logits) {
  return static_cast<size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

double LogSumExp(std::span<const float> logits) {
  const double max = logits[Argmax(logits)];
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - max);
  return max + std::log(sum);
}

Result<void> Check(const FidelityOptions& options) {
  if (options.text_tokens < 0)
    return Fail(Error::kInvalidArgument, fmt::format("text_tokens is {}; it must be at least 0", options.text_tokens));
  if (options.decode_tokens < 1)
    return Fail(Error::kInvalidArgument,
                fmt::format("decode_tokens is {}; it must be at least 1", options.decode_tokens));
  return Ok();
}

}  // namespace

double KlDivergence(std::span<const float> p_logits, std::span<const float> q_logits) {
  const double p_norm = LogSumExp(p_logits), q_norm = LogSumExp(q_logits);
  double sum = 0;
  for (size_t i = 0; i < p_logits.size(); ++i) {
    const double p_log = static_cast<double>(p_logits[i]) - p_norm;
    sum += std::exp(p_log) * (p_log - (static_cast<double>(q_logits[i]) - q_norm));
  }
  return std::max(sum, 0.0);  // rounding may take equal rows below 0
}

Result<Fidelity> MeasureFidelity(Engine& engine, const std::shared_ptr<const Recipe>& recipe, std::string_view text,
                                 const FidelityOptions& options, int64_t prefill_chunk,
                                 const GenerateCallbacks& callbacks) {
  CACHETTE_TRY(Check(options));
  CACHETTE_TRY(const Tokenizer* const tokenizer, engine.tokenizer());
  CACHETTE_TRY(const std::vector<int32_t> ids, tokenizer->Encode(text, {.add_special = false, .parse_special = false}));
  std::vector<int32_t> tokens;
  if (tokenizer->bos_id() >= 0) tokens.push_back(tokenizer->bos_id());
  tokens.insert(tokens.end(), ids.begin(), ids.end());
  // The token after the last one fed is needed too: it is what the perplexities ask for.
  const int64_t wanted = std::min(options.text_tokens == 0 ? engine.config().context_tokens : options.text_tokens,
                                  engine.config().context_tokens);
  tokens.resize(std::min(tokens.size(), static_cast<size_t>(wanted)));
  const auto num_tokens = static_cast<int64_t>(tokens.size());
  const int64_t num_prompt = num_tokens - options.decode_tokens - 1;
  if (num_prompt < 1)
    return Fail(Error::kInvalidArgument,
                fmt::format("{} tokens of text are too few to prefill some and compare {}; give a longer text, raise "
                            "--text-tokens or lower --decode-tokens to {} or less",
                            num_tokens, options.decode_tokens, std::max<int64_t>(num_tokens - 2, 1)));

  const Clock::time_point start = Clock::now();
  CACHETTE_TRY(const std::shared_ptr<const Recipe> full, engine.MakeRecipe("full", {}));
  const std::unique_ptr<Session> full_session = engine.NewSession(full);
  const std::unique_ptr<Session> own_session = engine.NewSession(recipe);
  Fidelity out;
  out.prompt_tokens = num_prompt;
  const std::span<const int32_t> all(tokens);
  for (Session* session : {full_session.get(), own_session.get()}) {
    GenerateCallbacks own = callbacks;
    if (callbacks.on_prefill)
      own.on_prefill = [&, is_second = session == own_session.get()](int64_t num_done, int64_t num_total) {
        callbacks.on_prefill(num_done + (is_second ? num_total : 0), 2 * num_total);
      };
    CACHETTE_TRY(const int64_t num_done,
                 engine.Prefill(*session, all.first(static_cast<size_t>(num_prompt)), prefill_chunk, nullptr, own));
    out.is_cancelled |= num_done < num_prompt;
  }

  const auto vocab = static_cast<size_t>(engine.config().vocab_size);
  std::vector<float> logits(2 * vocab);  // [full, own][vocab_size]
  const std::span<const float> p(logits.data(), vocab), q(logits.data() + vocab, vocab);
  Session* const sessions[] = {full_session.get(), own_session.get()};
  std::vector<double> kls;
  double nll_full = 0, nll = 0;
  int64_t num_agreements = 0;
  for (int64_t t = num_prompt; t + 1 < num_tokens && !out.is_cancelled; ++t) {
    const int32_t token = tokens[static_cast<size_t>(t)];
    const int32_t both[] = {token, token};
    CACHETTE_TRY(engine.DecodeStep(sessions, both, logits.data()));
    const auto next = static_cast<size_t>(tokens[static_cast<size_t>(t) + 1]);
    kls.push_back(KlDivergence(p, q));
    num_agreements += Argmax(p) == Argmax(q);
    nll_full += LogSumExp(p) - static_cast<double>(p[next]);
    nll += LogSumExp(q) - static_cast<double>(q[next]);
    out.is_cancelled = callbacks.cancel != nullptr && callbacks.cancel->load(std::memory_order_relaxed);
  }
  out.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  out.footprint = own_session->cache().ledger().Footprint();
  out.peak = own_session->cache().ledger().Peak();
  out.compared_tokens = static_cast<int64_t>(kls.size());
  if (kls.empty()) return out;
  const auto count = static_cast<double>(kls.size());
  for (const double kl : kls) out.kl_mean += kl / count;
  std::sort(kls.begin(), kls.end());
  const auto quantile = [&](double share) {
    return kls[static_cast<size_t>(std::ceil(share * count)) - 1];  // the smallest with that share at or below it
  };
  out.kl_median = quantile(0.5);
  out.kl_p90 = quantile(0.9);
  out.kl_p99 = quantile(0.99);
  out.kl_max = kls.back();
  out.top1_agreement = static_cast<double>(num_agreements) / count;
  out.perplexity_full = std::exp(nll_full / count);
  out.perplexity = std::exp(nll / count);
  return out;
}

}  // namespace cachette
