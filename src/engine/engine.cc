#include "engine/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/clock.h"
#include "engine/calibrate.h"
#include "engine/report.h"
#include "engine/sampler.h"

namespace cachette {
namespace {

bool IsCancelled(const std::atomic<bool>* cancel) {
  return cancel != nullptr && cancel->load(std::memory_order_relaxed);
}

}  // namespace

const char* StopReasonName(StopReason reason) {
  switch (reason) {
    case StopReason::kEndToken: return "end_token";
    case StopReason::kMaxNewTokens: return "max_new_tokens";
    case StopReason::kContext: return "context";
    case StopReason::kCancelled: return "cancelled";
  }
  return "unknown";
}

CacheShape Engine::ShapeFor(const Recipe& recipe) const {
  UnitShape units = recipe.unit_shape();
  units.whole_layers.resize(static_cast<size_t>(config().num_layers), false);
  for (size_t layer = 0; layer < units.whole_layers.size(); ++layer)  // a layer's own window bounds what it reads
    if (config().layers[layer].attention_window != 0) units.whole_layers[layer] = true;
  return {.num_layers = config().num_layers,
          .num_kv_heads = config().num_kv_heads,
          .format = kv_format_,
          .rope_positions = recipe.rope_positions(),
          .has_scores = recipe.has_running_score(),
          .codec = recipe.codec(),
          .units = std::move(units)};
}

// The thresholds that cachette calibrate has left beside the model, for a recipe that asks for some and was given none.
std::optional<std::pair<std::string, std::string>> Engine::CalibratedOption(
    const Recipe& recipe, const std::map<std::string, std::string>& given) const {
  if (!recipe.retrieves()) return std::nullopt;
  const std::string trigger = recipe.parts().retrieval->trigger->name();
  if (trigger != "prev" && trigger != "last") return std::nullopt;
  for (const auto& [key, value] : given) {
    std::string name = key;
    std::replace(name.begin(), name.end(), '-', '_');
    if (name.ends_with(trigger + "_tau") || name.ends_with(trigger + "_taus")) return std::nullopt;
  }
  const std::string path = ThresholdFileOf(model_path_, options_.loras, trigger);
  std::error_code ignored;
  if (path.empty() || !std::filesystem::is_regular_file(path, ignored)) return std::nullopt;
  return std::pair(fmt::format("trigger.{}_taus", trigger), path);
}

Result<std::shared_ptr<const Recipe>> Engine::MakeRecipe(std::string_view name,
                                                         const std::map<std::string, std::string>& options) {
  CACHETTE_TRY(Recipe recipe, Recipe::Create(name, options));
  if (const auto calibrated = CalibratedOption(recipe, options)) {
    std::map<std::string, std::string> all = options;
    all.insert(*calibrated);
    CACHETTE_TRY(recipe, Recipe::Create(name, all));
  }
  CACHETTE_TRY(recipe.Prepare(ShapeFor(recipe)));
  if (recipe.retrieves() && slow_tier_ == nullptr) {
    const size_t limit =
        options_.slow_kv_bytes == 0 ? RecordStore::kUnlimited : static_cast<size_t>(options_.slow_kv_bytes);
    CACHETTE_TRY(slow_tier_, RecordStore::Create(options_.slow_tier, kv_format_.block_bytes(), limit));
  }
  return std::shared_ptr<const Recipe>(std::make_shared<Recipe>(std::move(recipe)));
}

std::unique_ptr<Session> Engine::NewSession(std::shared_ptr<const Recipe> recipe) {
  const CacheShape shape = ShapeFor(*recipe);
  return std::unique_ptr<Session>(new Session(*tier_, shape, slow_tier_.get(), std::move(recipe)));
}

Result<std::unique_ptr<Session>> Engine::Fork(const Session& session) {
  CACHETTE_TRY(SequenceCache cache, session.cache_.Clone());
  std::unique_ptr<Session> copy(new Session(std::move(cache), session.run_));
  copy->rope_context_tokens_ = session.rope_context_tokens_;
  return copy;
}

Result<void> Engine::CheckTokens(std::span<const int32_t> tokens) const {
  for (const int32_t token : tokens)
    if (token < 0 || token >= config().vocab_size)
      return Fail(Error::kInvalidArgument,
                  fmt::format("token {} is outside the model's vocabulary of {}", token, config().vocab_size));
  return Ok();
}

Result<void> Engine::CheckPrompt(const Session& session, std::span<const int32_t> prompt) const {
  if (prompt.empty()) return Fail(Error::kInvalidArgument, "the prompt is empty; give at least one token");
  CACHETTE_TRY(CheckTokens(prompt));
  const int64_t needed = session.num_tokens() + static_cast<int64_t>(prompt.size()) + 1;
  if (needed > config().context_tokens && session.recipe().rope_positions() == RopePositions::kOriginal)
    return Fail(
        Error::kInvalidArgument,
        fmt::format("{} tokens and one to generate pass the model's context of {}; shorten the input, or stretch "
                    "it with --rope-scale {:.1f}",
                    needed - 1, config().context_tokens,
                    std::max(1.1, 0.1 + static_cast<double>(needed) /
                                            (static_cast<double>(config().context_tokens) / options_.rope_scale))));
  return Ok();
}

Result<void> Engine::RunPass(std::span<Session* const> sessions, std::span<SequenceInput> inputs, const PassInfo& pass,
                             float* logits) {
  const Clock::time_point start = Clock::now();
  // All sessions' room is checked before any of them opens its pass, and promised to them then: a step that does not
  // fit leaves every session as it was, less what its recipe evicted.
  size_t new_bytes = 0;
  for (Session* session : sessions) {
    PassInfo own = pass;
    own.first_token = session->num_tokens();
    session->run_.BeforePass(*cx_, session->cache_, own);
    new_bytes += session->cache_.BytesForPass(own);
  }
  if (sessions.size() > 1 && new_bytes > tier_->room_bytes()) {  // each alone would fit
    for (Session* session : sessions)
      if (RetrievalRun* const retrieval = session->run_.retrieval()) retrieval->MakeRoom(session->cache_, new_bytes);
    new_bytes = 0;
    for (Session* session : sessions) new_bytes += session->cache_.BytesForPass(pass);
  }
  CACHETTE_TRY(tier_->CheckRoom(new_bytes));
  for (size_t i = 0; i < sessions.size(); ++i) {
    Session& session = *sessions[i];
    PassInfo own = pass;
    own.first_token = session.num_tokens();
    CACHETTE_TRY(session.cache_.BeginPass(own));
    inputs[i].cache = &session.cache_;
    inputs[i].observer = session.run_.observes() ? &session.run_ : nullptr;
    inputs[i].first_position = own.first_token;
    inputs[i].rope_context_tokens =
        std::max(session.rope_context_tokens_, own.first_token + own.num_tokens + own.num_transient);
  }
  CACHETTE_TRY(model_.Forward(*cx_, {pass.phase, inputs, gemm_, logits}));
  for (Session* session : sessions) session->cache_.EndPass();
  if (pass.phase == Phase::kDecode)
    for (Session* session : sessions)
      if (RetrievalRun* const retrieval = session->run_.retrieval()) retrieval->AddDecodeSeconds(SecondsSince(start));
  return Ok();
}

// What a session needs of the fast tier; nothing where its recipe does not retrieve.
std::optional<FastNeed> Engine::NeedOf(const Session& session, int64_t num_prompt, int64_t num_output,
                                       int64_t chunk) const {
  const Recipe& recipe = session.recipe();
  if (!recipe.retrieves()) return std::nullopt;
  const UnitShape& units = session.cache().shape().units;
  FastNeedParams p = {.num_kv_heads = config().num_kv_heads,
                      .block_bytes = static_cast<int64_t>(kv_format_.block_bytes()),
                      .protected_entries = recipe.parts().retrieval->protect->least_entries(),
                      .local_entries = units.local_entries,
                      .least_blocks = units.least_blocks,
                      .num_held = session.num_tokens(),
                      .num_prompt = num_prompt,
                      .num_output = num_output,
                      .chunk = chunk,
                      .stages_layer = slow_tier_ != nullptr && slow_tier_->kind() == TierKind::kDisk};
  for (int layer = 0; layer < config().num_layers; ++layer) {
    if (units.KeepsAll(layer)) continue;
    ++p.num_retrieving_layers;
    int64_t padding = 0;
    for (int head = 0; head < p.num_kv_heads; ++head) padding += session.cache().units(layer, head).padding_blocks();
    p.most_padding_blocks = std::max(p.most_padding_blocks, padding);
  }
  p.num_dense_layers = config().num_layers - p.num_retrieving_layers;
  if (const UnitBuilder& builder = **recipe.parts().retrieval->units; builder.prompt_window() > 0)
    p.most_padding_blocks += p.num_kv_heads * builder.most_padding_blocks(num_prompt);
  return ComputeFastNeed(p);
}

// A limit that a recipe that retrieves may not be able to keep is found before the first pass.
Result<void> Engine::CheckFastTier(const Session& session, int64_t num_prompt, int64_t num_output,
                                   int64_t chunk) const {
  const std::optional<FastNeed> need = NeedOf(session, num_prompt, num_output, chunk);
  if (!need.has_value() || static_cast<size_t>(need->bytes()) <= tier_->limit_bytes()) return Ok();
  const Recipe& recipe = session.recipe();
  return Fail(
      Error::kOutOfMemory,
      fmt::format("the fast tier may hold {}, and recipe {} needs at least {} for {} tokens with a budget of {} "
                  "and prefill chunks of {}; raise --fast-kv-bytes, lower --budget or --prefill-chunk",
                  HumanBytes(static_cast<int64_t>(tier_->limit_bytes())), recipe.row().name, HumanBytes(need->bytes()),
                  session.num_tokens() + num_prompt + (num_output > 1 ? num_output : 0), recipe.options().budget,
                  chunk));
}

// The same for sequences that are prefilled one after the other and then decoded together.
Result<void> Engine::CheckFastTier(std::span<const BatchRequest> requests) const {
  int64_t decode_bytes = 0, more_in_prefill = 0, num_retrieving = 0;
  for (const BatchRequest& request : requests) {
    const auto num_prompt = static_cast<int64_t>(request.prompt.size());
    const int64_t num_output = OutputLimit(*request.session, num_prompt, request.options.max_new_tokens);
    CACHETTE_TRY(CheckFastTier(*request.session, num_prompt, num_output, request.options.prefill_chunk));
    const auto need = NeedOf(*request.session, num_prompt, num_output, request.options.prefill_chunk);
    if (!need.has_value()) continue;
    ++num_retrieving;
    decode_bytes += need->decode_bytes;
    more_in_prefill = std::max(more_in_prefill, need->bytes() - need->decode_bytes);
  }
  const int64_t need_bytes = decode_bytes + more_in_prefill;
  if (num_retrieving == 0 || static_cast<size_t>(need_bytes) <= tier_->limit_bytes()) return Ok();
  return Fail(
      Error::kOutOfMemory,
      fmt::format("the fast tier may hold {}, and the {} requests of this batch whose recipes retrieve need at "
                  "least {} together; raise --fast-kv-bytes, lower --budget or send fewer at once",
                  HumanBytes(static_cast<int64_t>(tier_->limit_bytes())), num_retrieving, HumanBytes(need_bytes)));
}

// Tokens that a session may generate after a prompt, by the context and by the caller.
int64_t Engine::OutputLimit(const Session& session, int64_t num_prompt, int64_t max_new_tokens) const {
  if (session.recipe().rope_positions() == RopePositions::kCacheIndex) return max_new_tokens;
  return std::min(max_new_tokens, config().context_tokens - session.num_tokens() - num_prompt);
}

// Calls after_chunk(tokens done so far) after each chunk; it returns false to stop.
template <class AfterChunk>
Result<int64_t> Engine::PrefillChunks(Session& session, std::span<const int32_t> tokens, int64_t chunk,
                                      std::span<const int64_t> rows, float* logits, const AfterChunk& after_chunk) {
  CACHETTE_TRY(CheckTokens(tokens));
  const int64_t num_patch = session.recipe().num_patch_tokens();
  if (num_patch > chunk)
    return Fail(Error::kInvalidArgument,
                fmt::format("trigger.patch {} tokens is longer than a prefill chunk of {}; lower it or raise "
                            "--prefill-chunk",
                            num_patch, chunk));
  if (const Recipe& recipe = session.recipe();
      recipe.parts().scorer != nullptr && recipe.parts().trigger->acts_per_chunk() && recipe.options().budget == 0) {
    const double kept = recipe.options().keep_fraction * static_cast<double>(chunk);
    if (std::nearbyint(kept) < 1 && recipe.options().keep_extra == 0)
      return Fail(Error::kInvalidArgument,
                  fmt::format("keep_fraction {} of a prefill chunk of {} tokens rounds to no entry at all; raise "
                              "--keep-fraction or --prefill-chunk",
                              recipe.options().keep_fraction, chunk));
  }
  CACHETTE_TRY(CheckFastTier(session, static_cast<int64_t>(tokens.size()), 1, chunk));
  session.rope_context_tokens_ = session.num_tokens() + static_cast<int64_t>(tokens.size());
  Session* const sessions[] = {&session};
  size_t begin = 0, next_row = 0;
  std::vector<int32_t> patched;
  while (begin < tokens.size()) {
    const size_t count = std::min(static_cast<size_t>(chunk), tokens.size() - begin);
    const bool is_last = begin + count == tokens.size();
    SequenceInput input;
    input.tokens = tokens.subspan(begin, count);
    if (!is_last && num_patch > 0) {
      patched.assign(input.tokens.begin(), input.tokens.end());
      const auto patch = tokens.last(std::min(static_cast<size_t>(num_patch), tokens.size()));
      patched.insert(patched.end(), patch.begin(), patch.end());
      input.tokens = patched;
    }
    const size_t first_row = next_row;
    while (next_row < rows.size() && rows[next_row] < static_cast<int64_t>(begin + count))
      input.logit_rows.push_back(rows[next_row++] - static_cast<int64_t>(begin));
    const PassInfo pass{.phase = Phase::kPrefill,
                        .first_token = 0,
                        .num_tokens = static_cast<int64_t>(count),
                        .is_last_prefill_chunk = is_last,
                        .num_transient = static_cast<int64_t>(input.tokens.size() - count)};
    CACHETTE_TRY(RunPass(sessions, {&input, 1}, pass,
                         logits == nullptr ? nullptr : logits + static_cast<int64_t>(first_row) * config().vocab_size));
    begin += count;
    if (!after_chunk(static_cast<int64_t>(begin))) break;
  }
  return static_cast<int64_t>(begin);
}

Result<void> Engine::PrefillLogits(Session& session, std::span<const int32_t> tokens, int64_t chunk,
                                   std::span<const int64_t> rows, float* logits) {
  CACHETTE_TRY(PrefillChunks(session, tokens, chunk, rows, logits, [](int64_t) { return true; }));
  return Ok();
}

Result<int64_t> Engine::Prefill(Session& session, std::span<const int32_t> tokens, int64_t chunk, float* logits,
                                const GenerateCallbacks& callbacks) {
  if (IsCancelled(callbacks.cancel)) return int64_t{0};
  const auto num_tokens = static_cast<int64_t>(tokens.size());
  const int64_t last_row[] = {num_tokens - 1};
  return PrefillChunks(session, tokens, chunk, {last_row, logits == nullptr ? size_t{0} : size_t{1}}, logits,
                       [&](int64_t num_done) {
                         if (callbacks.on_prefill) callbacks.on_prefill(num_done, num_tokens);
                         return !IsCancelled(callbacks.cancel);
                       });
}

Result<void> Engine::DecodeStep(std::span<Session* const> sessions, std::span<const int32_t> tokens, float* logits) {
  CACHETTE_CHECK(sessions.size() == tokens.size());
  CACHETTE_TRY(CheckTokens(tokens));
  std::vector<SequenceInput> inputs(sessions.size());
  for (size_t i = 0; i < sessions.size(); ++i) {
    inputs[i].tokens = tokens.subspan(i, 1);
    if (logits != nullptr) inputs[i].logit_rows = {0};
  }
  return RunPass(sessions, inputs, {Phase::kDecode, 0, 1, false}, logits);
}

bool Engine::IsEndToken(int32_t token, const GenerateOptions& options) {
  if (options.ignore_eos) return false;
  const Result<const Tokenizer*> own = tokenizer();
  return own.ok() && (*own)->IsEndOfGeneration(token);
}

Result<Generation> Engine::Generate(Session& session, std::span<const int32_t> prompt, const GenerateOptions& options,
                                    const GenerateCallbacks& callbacks) {
  CACHETTE_TRY(Validate(options));
  CACHETTE_TRY(CheckPrompt(session, prompt));
  const auto num_prompt = static_cast<int64_t>(prompt.size());
  const int64_t limit = OutputLimit(session, num_prompt, options.max_new_tokens);
  CACHETTE_TRY(CheckFastTier(session, num_prompt, limit, options.prefill_chunk));
  Generation result;
  Sampler sampler(options);
  for (const int32_t token : prompt) sampler.Observe(token);
  std::vector<float> logits(static_cast<size_t>(config().vocab_size));

  const Clock::time_point start = Clock::now();
  CACHETTE_TRY(result.prompt_tokens, Prefill(session, prompt, options.prefill_chunk, logits.data(), callbacks));
  result.prefill_seconds = SecondsSince(start);
  if (result.prompt_tokens < num_prompt) {
    result.stop = StopReason::kCancelled;
    return result;
  }
  Session* const sessions[] = {&session};
  Clock::time_point first_token_time = start;
  result.stop = limit < options.max_new_tokens ? StopReason::kContext : StopReason::kMaxNewTokens;
  for (int64_t i = 0; i < limit; ++i) {
    const int32_t token = sampler.Sample(logits);
    sampler.Observe(token);
    result.tokens.push_back(token);
    if (i == 0) {
      result.ttft_seconds = SecondsSince(start);
      first_token_time = Clock::now();
    }
    result.decode_seconds = SecondsSince(first_token_time);
    if (callbacks.on_token) callbacks.on_token(token);
    const bool is_end = IsEndToken(token, options);
    const bool is_cancelled = IsCancelled(callbacks.cancel);
    const bool is_last = is_end || is_cancelled || i + 1 == limit;
    // The last token is written too: the session then holds everything that was said.
    CACHETTE_TRY(DecodeStep(sessions, {&token, 1}, is_last ? nullptr : logits.data()));
    if (is_end) result.stop = StopReason::kEndToken;
    if (is_cancelled && !is_end) result.stop = StopReason::kCancelled;
    if (is_end || is_cancelled) break;
  }
  return result;
}

}  // namespace cachette
