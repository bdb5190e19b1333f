#pragma once
// The engine: a loaded model, its KV tier, and generation over sessions. This is the library's front door.

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cache/record_store.h"
#include "cache/tier.h"
#include "engine/fast_need.h"
#include "engine/options.h"
#include "engine/session.h"
#include "methods/recipe.h"
#include "model/transformer.h"
#include "text/tokenizer.h"

namespace cachette {

enum class StopReason : uint8_t { kEndToken, kMaxNewTokens, kContext, kCancelled };
const char* StopReasonName(StopReason reason);

// What to tell the caller while a generation runs. All optional.
struct GenerateCallbacks {
  std::function<void(int64_t num_done, int64_t num_total)> on_prefill;  // after each chunk
  std::function<void(int32_t token)> on_token;                          // each generated token, end token included
  const std::atomic<bool>* cancel = nullptr;  // set by another thread or a signal: stop at the next pass
};

struct Generation {
  std::vector<int32_t> tokens;  // generated, end token included
  StopReason stop = StopReason::kMaxNewTokens;
  int64_t prompt_tokens = 0;  // prefilled
  double prefill_seconds = 0.0;
  double ttft_seconds = 0.0;    // start of prefill to first token
  double decode_seconds = 0.0;  // first to last token
  double tpot_seconds() const {
    return tokens.size() > 1 ? decode_seconds / static_cast<double>(tokens.size() - 1) : 0.0;
  }
  double prefill_tokens_per_s() const {
    return prefill_seconds > 0 ? static_cast<double>(prompt_tokens) / prefill_seconds : 0.0;
  }
  double decode_tokens_per_s() const { return tokens.size() > 1 && decode_seconds > 0 ? 1.0 / tpot_seconds() : 0.0; }
};

// One request of a batch.
struct BatchRequest {
  Session* session = nullptr;
  std::vector<int32_t> prompt;
  GenerateOptions options;
};

// Not thread-safe: one call at a time.
class Engine {
 public:
  // Opens and binds the model. Errors: everything a file, option or too little memory can cause, in one sentence.
  static Result<std::unique_ptr<Engine>> Load(const EngineOptions& options);

  // A recipe ready for this model. options as in Recipe::Create; thresholds that cachette calibrate left beside the
  // model are taken where the recipe's trigger has some and options gives none.
  Result<std::shared_ptr<const Recipe>> MakeRecipe(std::string_view name,
                                                   const std::map<std::string, std::string>& options);
  std::unique_ptr<Session> NewSession(std::shared_ptr<const Recipe> recipe);
  // A copy of a session, cache and ledger included, that goes its own way. Errors: kOutOfMemory.
  Result<std::unique_ptr<Session>> Fork(const Session& session);

  // Prefills prompt into the session (after whatever it holds) and generates. Every generated token is also written to
  // the cache, so the session can go on and its ledger covers prompt_tokens + tokens.size() steps.
  // Errors: kInvalidArgument (empty prompt, token ids, options), kOutOfMemory, and when prompt + 1 token pass the
  // context: kInvalidArgument, saying what to do. A cancelled generation is not an error (stop = kCancelled).
  Result<Generation> Generate(Session& session, std::span<const int32_t> prompt, const GenerateOptions& options,
                              const GenerateCallbacks& callbacks = {});

  // The same for several sessions whose decode steps are shared. A request gives the same tokens alone and in a batch.
  Result<std::vector<Generation>> GenerateBatch(std::span<BatchRequest> requests,
                                                const std::atomic<bool>* cancel = nullptr);

  // Lower level. Prefill in chunks; logits [vocab_size] of the last token when not null. Stops early, after a whole
  // chunk, when cancel is set; returns the tokens done.
  Result<int64_t> Prefill(Session& session, std::span<const int32_t> tokens, int64_t chunk, float* logits,
                          const GenerateCallbacks& callbacks = {});
  // Prefill that returns logits of chosen tokens: rows (ascending indices into tokens) -> logits [rows][vocab_size].
  Result<void> PrefillLogits(Session& session, std::span<const int32_t> tokens, int64_t chunk,
                             std::span<const int64_t> rows, float* logits);
  // One token for each session; logits [sessions][vocab_size] or null.
  Result<void> DecodeStep(std::span<Session* const> sessions, std::span<const int32_t> tokens, float* logits);

  const ModelConfig& config() const { return model_.config(); }
  const Transformer& model() const { return model_; }
  const EngineOptions& options() const { return options_; }
  const std::string& model_path() const { return model_path_; }
  const std::string& weights_file() const { return checkpoint_->weights_file(); }
  // Errors: why this model has none; the model itself may still be usable with token ids.
  Result<const Tokenizer*> tokenizer();
  const Tier& kv_tier() const { return *tier_; }
  const RecordStore* slow_tier() const { return slow_tier_.get(); }  // null until a recipe retrieves
  Context& context() { return *cx_; }
  ops::GemmDtype gemm_dtype() const { return gemm_; }
  const ops::KvFormat& kv_format() const { return kv_format_; }
  int64_t kv_bytes_per_token() const;  // of the full cache
  int64_t weight_bytes() const { return checkpoint_->total_bytes(); }

 private:
  Engine() = default;
  CacheShape ShapeFor(const Recipe& recipe) const;
  template <class AfterChunk>
  Result<int64_t> PrefillChunks(Session& session, std::span<const int32_t> tokens, int64_t chunk,
                                std::span<const int64_t> rows, float* logits, const AfterChunk& after_chunk);
  Result<void> CheckPrompt(const Session& session, std::span<const int32_t> prompt) const;
  Result<void> CheckTokens(std::span<const int32_t> tokens) const;
  std::optional<FastNeed> NeedOf(const Session& session, int64_t num_prompt, int64_t num_output, int64_t chunk) const;
  Result<void> CheckFastTier(const Session& session, int64_t num_prompt, int64_t num_output, int64_t chunk) const;
  Result<void> CheckFastTier(std::span<const BatchRequest> requests) const;
  int64_t OutputLimit(const Session& session, int64_t num_prompt, int64_t max_new_tokens) const;
  std::optional<std::pair<std::string, std::string>> CalibratedOption(
      const Recipe& recipe, const std::map<std::string, std::string>& given) const;
  Result<void> RunPass(std::span<Session* const> sessions, std::span<SequenceInput> inputs, const PassInfo& pass,
                       float* logits);
  bool IsEndToken(int32_t token, const GenerateOptions& options);

  EngineOptions options_;
  std::string model_path_;
  std::unique_ptr<Context> cx_;
  std::unique_ptr<Checkpoint> checkpoint_;
  Transformer model_;
  std::optional<Result<Tokenizer>> tokenizer_;  // made when first asked for
  std::unique_ptr<Tier> tier_;
  std::unique_ptr<RecordStore> slow_tier_;  // made for the first recipe that retrieves
  ops::KvFormat kv_format_;
  ops::GemmDtype gemm_ = ops::GemmDtype::kF32;
};

}  // namespace cachette
