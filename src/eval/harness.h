#pragma once
// Runs tasks on an engine with a recipe: every sample's questions asked, replies scored, footprints taken from the
// sessions' ledgers.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/options.h"
#include "base/result.h"
#include "engine/engine.h"
#include "eval/tasks/task.h"

namespace cachette {

// Where the question enters. kInPrompt: prefilled with the context, so that a recipe may evict by it. kAsDecode: the
// context is prefilled once; each question is fed token by token through the decode path of a fork of that session.
// kInTurn: the same without forks, a conversation: each question follows the last one's reply.
enum class Protocol : uint8_t { kInPrompt, kAsDecode, kInTurn };

// Who writes the reply. kFree: the model, greedily; the answer counts as a whole. kForced: the reference is fed
// whatever the model would say, and each of its items (hop, row, line, number) counts by itself: right when every one
// of its tokens was the likeliest. So one early slip does not decide over a long answer.
enum class ReplyMode : uint8_t { kFree, kForced };

struct EvalOptions {
  std::vector<std::string> tasks = {"kv", "niah", "path", "walk", "tsv"};
  std::vector<int64_t> lengths = {1024};
  int64_t samples = 8;
  int64_t questions = 1;
  int64_t seed = 1;
  std::string protocol = "in-prompt";
  std::string reply = "free";
  int64_t forced_tokens = 0;
  int64_t prefill_chunk = 512;

  void VisitOptions(OptionVisitor& v) {
    v(samples, "samples", "contexts for each task and length");
    v(questions, "questions", "questions asked on each context");
    v(seed, "seed", "of the samples: the same seed gives the same texts");
    v(protocol, "protocol",
      "in-prompt: prefill context and question together; as-decode: prefill the context, then feed each question "
      "token by token to a fork of it; in-turn: as as-decode, but each question follows the reply to the one before");
    v(reply, "reply",
      "free: the model writes, an answer counts as a whole; forced: the reference is fed, and each of its items (hop, "
      "row, "
      "line) counts by itself");
    v(forced_tokens, "forced_tokens", "most tokens of a forced reply; items cut by it do not count; 0: all");
    v(prefill_chunk, "prefill_chunk", "prompt tokens per prefill pass");
  }
};

enum class ReplyStop : uint8_t { kAnswerComplete, kEndToken, kMaxNewTokens };
const char* ReplyStopName(ReplyStop stop);

// One question asked: what was said and what it cost.
struct AnswerRecord {
  std::string id;  // "kv-4096-17-2": task, length, sample, question
  const Task* task = nullptr;
  int64_t length = 0;
  int64_t sample_idx = 0;
  std::string question, reply, reference;
  double depth = -1;             // where in the context the answer stands, 0 to 1; -1: not as it is
  int64_t prefilled_tokens = 0;  // not kInPrompt: of the context
  int64_t prompt_tokens = 0;     // context and question; kInTurn: and what was said in between
  int64_t generated_tokens = 0;  // all are written to the cache
  ReplyStop stop = ReplyStop::kAnswerComplete;
  double exact = 0, prefix_share = 0;  // score.h; forced: the share of right items, and of right tokens
  int64_t num_items = 1;               // of a forced reply
  double footprint = 0, peak = 0;      // of the session that answered, over prompt and reply
  double prefill_seconds = 0;          // not kInPrompt: of the context, shared by its questions
  double question_seconds = 0;         // not kInPrompt: of the question's decode steps
  double ttft_seconds = 0;             // prompt to first token
  double decode_seconds = 0;           // first to last token
  // Of a recipe that retrieves: while question and reply were decoded. The first question on a context prefilled once
  // has the context's part too, so that sums over records count everything once.
  std::optional<RetrievalStats> retrieval;
};

struct EvalResult {
  std::vector<AnswerRecord> records;
  double seconds = 0;
  bool is_cancelled = false;  // records then hold what was done before
};

struct EvalCallbacks {
  std::function<void(const AnswerRecord& record, int64_t num_done, int64_t num_total)> on_answer;
  const std::atomic<bool>* cancel = nullptr;
};

// Errors: kInvalidArgument, naming the option, its value and its range (unknown task or protocol, counts below 1,
// lengths too small for a task or past the model's context); kOutOfMemory; what the model's tokenizer says. Options
// are checked before the first pass.
Result<EvalResult> RunEval(Engine& engine, const std::shared_ptr<const Recipe>& recipe, const EvalOptions& options,
                           const EvalCallbacks& callbacks = {});

// What can be checked without a model. Errors: as RunEval.
Result<void> Validate(const EvalOptions& options);

// No length passes max_tokens, the context of a model that is stretched by rope_scale. Errors: kInvalidArgument.
Result<void> CheckLengths(const EvalOptions& options, int64_t max_tokens, double rope_scale);

}  // namespace cachette
