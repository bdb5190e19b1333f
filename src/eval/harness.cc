#include "eval/harness.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/clock.h"
#include "base/nearest.h"
#include "engine/sampler.h"
#include "eval/score.h"

namespace cachette {
namespace {

const std::vector<std::string> kProtocolNames = {"in-prompt", "as-decode", "in-turn"};

Result<Protocol> ParseProtocol(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  for (size_t i = 0; i < kProtocolNames.size(); ++i)
    if (name == kProtocolNames[i]) return static_cast<Protocol>(i);
  const std::string nearest = NearestName(name, kProtocolNames);
  return Fail(Error::kInvalidArgument, fmt::format("unknown protocol '{}'{} (one of {})", name,
                                                   nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest),
                                                   fmt::join(kProtocolNames, ", ")));
}

const std::vector<std::string> kReplyNames = {"free", "forced"};

Result<ReplyMode> ParseReply(const std::string& name) {
  for (size_t i = 0; i < kReplyNames.size(); ++i)
    if (name == kReplyNames[i]) return static_cast<ReplyMode>(i);
  return Fail(Error::kInvalidArgument,
              fmt::format("unknown reply mode '{}' (one of {})", name, fmt::join(kReplyNames, ", ")));
}

// What stands between the items of an answer.
std::string_view ItemEnd(AnswerForm form) {
  switch (form) {
    case AnswerForm::kLine: return "->";
    case AnswerForm::kLines: return "\n";
    case AnswerForm::kNumber:
    case AnswerForm::kContained: break;
  }
  return "";
}

// One sample's questions put to the engine.
class SampleRun {
 public:
  SampleRun(Engine& engine, const Tokenizer& tokenizer, std::shared_ptr<const Recipe> recipe,
            const EvalOptions& options, const std::atomic<bool>* cancel)
      : engine_(engine), tokenizer_(tokenizer), recipe_(std::move(recipe)), options_(options), cancel_(cancel) {}

  // Answers question i in record, whose names and texts are set. False when it was cancelled.
  Result<bool> AskInPrompt(const EncodedSample& sample, size_t i, AnswerRecord& record);
  // Prefills what all questions share; then one of the next two for each. False when it was cancelled.
  Result<bool> PrefillContext(const EncodedSample& sample);
  Result<bool> AskAsDecode(const EncodedSample& sample, size_t i, AnswerRecord& record);
  Result<bool> AskInTurn(const EncodedSample& sample, size_t i, AnswerRecord& record);

 private:
  bool EndsLine(int32_t token) const {
    return !tokenizer_.IsControl(token) && std::string_view(tokenizer_.TokenBytes(token)).ends_with('\n');
  }
  bool IsCancelled() const { return cancel_ != nullptr && cancel_->load(std::memory_order_relaxed); }
  Result<bool> FeedQuestion(Session& session, const EncodedSample& sample, size_t i, AnswerRecord& record);
  Result<bool> Reply(Session& session, const EncodedSample& sample, size_t i, Clock::time_point start,
                     AnswerRecord& record);
  Result<bool> FreeReply(Session& session, int64_t limit, Clock::time_point start, AnswerRecord& record);
  Result<bool> ForcedReply(Session& session, const Question& question, Clock::time_point start, AnswerRecord& record);

  Engine& engine_;
  const Tokenizer& tokenizer_;
  std::shared_ptr<const Recipe> recipe_;
  const EvalOptions& options_;
  const std::atomic<bool>* cancel_;
  std::unique_ptr<Session> context_;
  double context_seconds_ = 0;
  bool is_line_begun_ = false;  // the last reply ended its line
  std::vector<float> logits_;   // [vocab_size], of the last token seen
};

Result<bool> SampleRun::Reply(Session& session, const EncodedSample& sample, size_t i, Clock::time_point start,
                              AnswerRecord& record) {
  CACHETTE_TRY(const bool is_done, options_.reply == kReplyNames[static_cast<size_t>(ReplyMode::kForced)]
                                       ? ForcedReply(session, sample.text.questions[i], start, record)
                                       : FreeReply(session, sample.reply_limits[i], start, record));
  record.footprint = session.cache().ledger().Footprint();
  record.peak = session.cache().ledger().Peak();
  if (session.retrieval() != nullptr) record.retrieval = session.retrieval()->stats();
  return is_done;
}

// The reference, token by token; record.reply is what the model would have said at each.
Result<bool> SampleRun::ForcedReply(Session& session, const Question& question, Clock::time_point start,
                                    AnswerRecord& record) {
  CACHETTE_TRY(std::vector<int32_t> tokens, EncodeReply(tokenizer_, question));
  const auto num_all = static_cast<int64_t>(tokens.size());
  if (options_.forced_tokens > 0 && options_.forced_tokens < num_all)
    tokens.resize(static_cast<size_t>(options_.forced_tokens));
  const std::string_view item_end = ItemEnd(record.task->form);
  Sampler sampler({});
  Session* const sessions[] = {&session};
  std::string said;  // of the reference so far
  int64_t num_right_tokens = 0, num_right_items = 0, num_items = 0;
  bool is_item_right = true;
  const Clock::time_point first_time = Clock::now();
  record.ttft_seconds = SecondsBetween(start, first_time);
  for (const int32_t token : tokens) {
    const int32_t likeliest = sampler.Sample(logits_);
    if (!tokenizer_.IsControl(likeliest)) record.reply += tokenizer_.TokenBytes(likeliest);
    num_right_tokens += likeliest == token;
    is_item_right = is_item_right && likeliest == token;
    said += tokenizer_.TokenBytes(token);
    ++record.generated_tokens;
    const bool is_last = record.generated_tokens == static_cast<int64_t>(tokens.size());
    const bool ends_item = (!item_end.empty() && said.find(item_end) != std::string::npos) ||
                           (is_last && record.generated_tokens == num_all);
    if (ends_item) {
      ++num_items;
      num_right_items += is_item_right;
      is_item_right = true;
      said.clear();
    }
    CACHETTE_TRY(engine_.DecodeStep(sessions, {&token, 1}, is_last ? nullptr : logits_.data()));
    is_line_begun_ = EndsLine(token);
    if (IsCancelled() && !is_last) return false;
  }
  record.decode_seconds = SecondsBetween(first_time, Clock::now());
  record.stop = record.generated_tokens == num_all ? ReplyStop::kAnswerComplete : ReplyStop::kMaxNewTokens;
  record.num_items = num_items;
  record.exact = num_items > 0 ? static_cast<double>(num_right_items) / static_cast<double>(num_items) : 0.0;
  record.prefix_share = static_cast<double>(num_right_tokens) / static_cast<double>(tokens.size());
  return true;
}

// Greedy, from logits_ on, until the answer is complete. Every token is written, the last one too.
Result<bool> SampleRun::FreeReply(Session& session, int64_t limit, Clock::time_point start, AnswerRecord& record) {
  Sampler sampler({});
  Session* const sessions[] = {&session};
  Clock::time_point first_time = start;
  record.stop = ReplyStop::kMaxNewTokens;
  while (record.generated_tokens < limit) {
    const int32_t token = sampler.Sample(logits_);
    const Clock::time_point now = Clock::now();
    if (record.generated_tokens++ == 0) {
      first_time = now;
      record.ttft_seconds = SecondsBetween(start, now);
    }
    record.decode_seconds = SecondsBetween(first_time, now);
    if (tokenizer_.IsEndOfGeneration(token)) {
      record.stop = ReplyStop::kEndToken;
    } else if (!tokenizer_.IsControl(token)) {
      record.reply += tokenizer_.TokenBytes(token);
      if (IsAnswerComplete(record.task->form, record.reply, record.reference)) record.stop = ReplyStop::kAnswerComplete;
    }
    const bool is_last = record.stop != ReplyStop::kMaxNewTokens || record.generated_tokens == limit;
    CACHETTE_TRY(engine_.DecodeStep(sessions, {&token, 1}, is_last ? nullptr : logits_.data()));
    is_line_begun_ = EndsLine(token);
    if (is_last) break;
    if (IsCancelled()) return false;
  }
  const Score score = ScoreReply(record.task->form, record.reply, record.reference);
  record.exact = score.exact;
  record.prefix_share = score.prefix_share;
  return true;
}

Result<bool> SampleRun::AskInPrompt(const EncodedSample& sample, size_t i, AnswerRecord& record) {
  std::vector<int32_t> prompt = sample.context;
  prompt.insert(prompt.end(), sample.questions[i].begin(), sample.questions[i].end());
  const std::unique_ptr<Session> session = engine_.NewSession(recipe_);
  logits_.resize(static_cast<size_t>(engine_.config().vocab_size));
  GenerateCallbacks callbacks;
  callbacks.cancel = cancel_;
  const Clock::time_point start = Clock::now();
  CACHETTE_TRY(const int64_t num_done,
               engine_.Prefill(*session, prompt, options_.prefill_chunk, logits_.data(), callbacks));
  if (num_done < static_cast<int64_t>(prompt.size())) return false;
  record.prefill_seconds = SecondsBetween(start, Clock::now());
  record.prefilled_tokens = num_done;
  return Reply(*session, sample, i, start, record);
}

Result<bool> SampleRun::PrefillContext(const EncodedSample& sample) {
  context_ = engine_.NewSession(recipe_);
  logits_.resize(static_cast<size_t>(engine_.config().vocab_size));
  GenerateCallbacks callbacks;
  callbacks.cancel = cancel_;
  const Clock::time_point start = Clock::now();
  CACHETTE_TRY(const int64_t num_done,
               engine_.Prefill(*context_, sample.context, options_.prefill_chunk, nullptr, callbacks));
  context_seconds_ = SecondsBetween(start, Clock::now());
  return num_done == static_cast<int64_t>(sample.context.size());
}

Result<bool> SampleRun::AskAsDecode(const EncodedSample& sample, size_t i, AnswerRecord& record) {
  CACHETTE_TRY(const std::unique_ptr<Session> session, engine_.Fork(*context_));
  CACHETTE_TRY(const bool is_done, FeedQuestion(*session, sample, i, record));
  if (is_done && record.retrieval && i > 0) record.retrieval = record.retrieval->Since(context_->retrieval()->stats());
  return is_done;
}

Result<bool> SampleRun::AskInTurn(const EncodedSample& sample, size_t i, AnswerRecord& record) {
  std::optional<RetrievalStats> before;
  if (i > 0) {
    if (context_->retrieval() != nullptr) before = context_->retrieval()->stats();
    if (!is_line_begun_) {
      CACHETTE_TRY(const std::vector<int32_t> line_end,
                   tokenizer_.Encode("\n", {.add_special = false, .parse_special = false}));
      Session* const sessions[] = {context_.get()};
      for (const int32_t token : line_end) CACHETTE_TRY(engine_.DecodeStep(sessions, {&token, 1}, nullptr));
    }
    record.prompt_tokens = context_->cache().num_tokens() + static_cast<int64_t>(sample.questions[i].size());
  }
  CACHETTE_TRY(const bool is_done, FeedQuestion(*context_, sample, i, record));
  if (is_done && before) record.retrieval = record.retrieval->Since(*before);
  return is_done;
}

// The question, then the reply, token by token.
Result<bool> SampleRun::FeedQuestion(Session& session, const EncodedSample& sample, size_t i, AnswerRecord& record) {
  Session* const sessions[] = {&session};
  const std::vector<int32_t>& question = sample.questions[i];
  const Clock::time_point start = Clock::now();
  for (size_t t = 0; t < question.size(); ++t) {
    if (IsCancelled()) return false;
    CACHETTE_TRY(engine_.DecodeStep(sessions, {&question[t], 1}, t + 1 == question.size() ? logits_.data() : nullptr));
  }
  record.prefill_seconds = context_seconds_;
  record.prefilled_tokens = static_cast<int64_t>(sample.context.size());
  record.question_seconds = SecondsBetween(start, Clock::now());
  CACHETTE_TRY(const bool is_done, Reply(session, sample, i, start, record));
  record.ttft_seconds += context_seconds_;
  return is_done;
}

// The model's context, and no bound for recipes that renumber positions.
int64_t MaxTokens(const Engine& engine, const Recipe& recipe) {
  return recipe.rope_positions() == RopePositions::kCacheIndex ? SampleRequest::kUnlimited
                                                               : engine.config().context_tokens;
}

AnswerRecord NewRecord(const Task& task, const SampleRequest& request, const EncodedSample& sample, size_t i) {
  AnswerRecord record;
  record.id = fmt::format("{}-{}-{}-{}", task.name, request.length, request.idx, i);
  record.task = &task;
  record.length = request.length;
  record.sample_idx = request.idx;
  record.question = sample.text.questions[i].text;
  record.reference = sample.text.questions[i].answer;
  const size_t found = sample.text.context.find(record.reference);
  if (found != std::string::npos)
    record.depth = static_cast<double>(found) / static_cast<double>(sample.text.context.size());
  record.prompt_tokens = sample.PromptTokens(i);
  return record;
}

}  // namespace

const char* ReplyStopName(ReplyStop stop) {
  switch (stop) {
    case ReplyStop::kAnswerComplete: return "answer_complete";
    case ReplyStop::kEndToken: return "end_token";
    case ReplyStop::kMaxNewTokens: return "max_new_tokens";
  }
  return "unknown";
}

namespace {

// Errors: kInvalidArgument, naming the first element that comes twice.
template <class T>
Result<void> CheckDistinct(const char* what, const std::vector<T>& list) {
  for (size_t i = 1; i < list.size(); ++i)
    if (std::find(list.begin(), list.begin() + static_cast<int64_t>(i), list[i]) !=
        list.begin() + static_cast<int64_t>(i))
      return Fail(Error::kInvalidArgument, fmt::format("{} {} is named twice; name it once", what, list[i]));
  return Ok();
}

}  // namespace

Result<void> Validate(const EvalOptions& options) {
  if (options.tasks.empty()) return Fail(Error::kInvalidArgument, "no task is named; give at least one with --tasks");
  for (const std::string& name : options.tasks) CACHETTE_TRY(FindTask(name));
  CACHETTE_TRY(CheckDistinct("task", options.tasks));
  if (options.lengths.empty())
    return Fail(Error::kInvalidArgument, "no length is named; give at least one with --lengths");
  const auto check = [](const char* name, int64_t value) -> Result<void> {
    if (value >= 1) return Ok();
    return Fail(Error::kInvalidArgument, fmt::format("{} is {}; it must be at least 1", name, value));
  };
  for (const int64_t length : options.lengths) CACHETTE_TRY(check("a length", length));
  CACHETTE_TRY(CheckDistinct("length", options.lengths));
  CACHETTE_TRY(check("samples", options.samples));
  CACHETTE_TRY(check("questions", options.questions));
  CACHETTE_TRY(check("prefill_chunk", options.prefill_chunk));
  CACHETTE_TRY(ParseProtocol(options.protocol));
  CACHETTE_TRY(ParseReply(options.reply));
  if (options.forced_tokens < 0)
    return Fail(Error::kInvalidArgument,
                fmt::format("forced_tokens {} must be 0 (all) or more", options.forced_tokens));
  return Ok();
}

Result<void> CheckLengths(const EvalOptions& options, int64_t max_tokens, double rope_scale) {
  for (const int64_t length : options.lengths)
    if (length > max_tokens)
      return Fail(
          Error::kInvalidArgument,
          fmt::format("a length of {} tokens passes the model's context of {}; ask for less, or stretch it with "
                      "--rope-scale {:.1f}",
                      length, max_tokens,
                      0.1 + static_cast<double>(length) * rope_scale / static_cast<double>(max_tokens)));
  return Ok();
}

Result<EvalResult> RunEval(Engine& engine, const std::shared_ptr<const Recipe>& recipe, const EvalOptions& options,
                           const EvalCallbacks& callbacks) {
  CACHETTE_TRY(Validate(options));
  CACHETTE_TRY(const Protocol protocol, ParseProtocol(options.protocol));
  CACHETTE_TRY(const Tokenizer* const tokenizer, engine.tokenizer());
  CACHETTE_TRY(CheckLengths(options, MaxTokens(engine, *recipe), engine.options().rope_scale));
  struct Cell {
    const Task* task;
    SampleRequest request;
  };
  std::vector<Cell> cells;
  int64_t num_total = 0;
  for (const std::string& name : options.tasks) {
    CACHETTE_TRY(const Task* const task, FindTask(name));
    for (const int64_t length : options.lengths) {
      cells.push_back({task,
                       {.length = length,
                        .max_tokens = MaxTokens(engine, *recipe),
                        .num_questions = options.questions,
                        .seed = options.seed,
                        .is_in_turn = protocol == Protocol::kInTurn}});
      // A length that does not do is known before the first pass.
      CACHETTE_TRY(const EncodedSample first, MakeSample(*task, *tokenizer, cells.back().request));
      num_total += options.samples * static_cast<int64_t>(first.questions.size());
    }
  }
  EvalResult result;
  const Clock::time_point start = Clock::now();
  // False when it was cancelled.
  const auto run_sample = [&](const Task& task, const SampleRequest& request) -> Result<bool> {
    CACHETTE_TRY(const EncodedSample sample, MakeSample(task, *tokenizer, request));
    SampleRun run(engine, *tokenizer, recipe, options, callbacks.cancel);
    if (protocol != Protocol::kInPrompt) {
      CACHETTE_TRY(const bool is_done, run.PrefillContext(sample));
      if (!is_done) return false;
    }
    for (size_t i = 0; i < sample.questions.size(); ++i) {
      AnswerRecord record = NewRecord(task, request, sample, i);
      CACHETTE_TRY(const bool is_done, protocol == Protocol::kInPrompt   ? run.AskInPrompt(sample, i, record)
                                       : protocol == Protocol::kAsDecode ? run.AskAsDecode(sample, i, record)
                                                                         : run.AskInTurn(sample, i, record));
      if (!is_done) return false;
      result.records.push_back(std::move(record));
      if (callbacks.on_answer)
        callbacks.on_answer(result.records.back(), static_cast<int64_t>(result.records.size()), num_total);
    }
    return true;
  };
  for (Cell& cell : cells) {
    for (cell.request.idx = 0; cell.request.idx < options.samples && !result.is_cancelled; ++cell.request.idx) {
      CACHETTE_TRY(const bool is_done, run_sample(*cell.task, cell.request));
      result.is_cancelled = !is_done;
    }
  }
  result.seconds = SecondsBetween(start, Clock::now());
  return result;
}

}  // namespace cachette
