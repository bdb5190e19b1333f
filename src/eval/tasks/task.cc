#include "eval/tasks/task.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/nearest.h"
#include "eval/tasks/families.h"

namespace cachette {
namespace {

// Tokens a reply may have beyond its answer: room for the space or newline in front and for the end to show.
constexpr int64_t kReplySlackTokens = 4;

// Seeds a sample's own stream from everything that names it.
Rng SampleRng(const Task& task, const SampleRequest& request) {
  Rng rng(static_cast<uint64_t>(request.seed));
  const auto mix = [&rng](uint64_t value) { rng = Rng(rng.Next() ^ value); };
  for (const char* c = task.name; *c != 0; ++c) mix(static_cast<uint64_t>(static_cast<unsigned char>(*c)));
  mix(static_cast<uint64_t>(request.length));
  mix(static_cast<uint64_t>(request.idx));
  return Rng(rng.Next());
}

Result<std::vector<int32_t>> EncodeText(const Tokenizer& tokenizer, const std::string& text) {
  CACHETTE_TRY(const std::vector<int32_t> ids, tokenizer.Encode(text, {.add_special = false, .parse_special = false}));
  std::vector<int32_t> all;
  all.reserve(ids.size() + 1);
  if (tokenizer.bos_id() >= 0) all.push_back(tokenizer.bos_id());
  all.insert(all.end(), ids.begin(), ids.end());
  return all;
}

// Context and questions are cut where their common tokens end, so that a prompt in two pieces is the prompt in one even
// where a token would reach across the border.
Result<EncodedSample> Encode(const Task& task, const Tokenizer& tokenizer, Sample sample) {
  EncodedSample encoded;
  CACHETTE_TRY(encoded.context, EncodeText(tokenizer, sample.context));
  std::vector<std::vector<int32_t>> prompts;
  for (const Question& question : sample.questions) {
    CACHETTE_TRY(prompts.emplace_back(), EncodeText(tokenizer, sample.context + question.text));
    const auto [end, ignored] =
        std::mismatch(encoded.context.begin(), encoded.context.end(), prompts.back().begin(), prompts.back().end());
    encoded.context.erase(end, encoded.context.end());
    int64_t limit = task.reply_tokens;
    if (limit == 0) {
      CACHETTE_TRY(const std::vector<int32_t> answer,
                   tokenizer.Encode(question.answer, {.add_special = false, .parse_special = false}));
      limit = static_cast<int64_t>(answer.size()) + kReplySlackTokens;
    }
    encoded.reply_limits.push_back(limit);
  }
  for (const std::vector<int32_t>& prompt : prompts)
    encoded.questions.emplace_back(prompt.begin() + static_cast<int64_t>(encoded.context.size()), prompt.end());
  encoded.text = std::move(sample);
  return encoded;
}

struct SampleTokens {
  int64_t length = 0;  // in the sense of length_of
  int64_t total = 0;   // prompt and reply
};

SampleTokens Count(const Task& task, const EncodedSample& sample, bool is_in_turn) {
  SampleTokens most;
  int64_t said = 0;  // before the question
  for (size_t i = 0; i < sample.questions.size(); ++i) {
    const int64_t prompt = sample.PromptTokens(i) + said;
    const int64_t total = prompt + sample.reply_limits[i];
    if (is_in_turn) said = total - static_cast<int64_t>(sample.context.size());
    most.length = std::max(most.length, task.length_of == LengthOf::kPrompt ? prompt : total);
    most.total = std::max(most.total, total);
  }
  return most;
}

Result<EncodedSample> Draft(const Task& task, const Tokenizer& tokenizer, const SampleRequest& request,
                            int64_t num_items) {
  Rng rng = SampleRng(task, request);
  return Encode(task, tokenizer, task.draft(rng, num_items, request.num_questions));
}

bool Fits(const Task& task, const SampleRequest& request, const EncodedSample& sample) {
  const SampleTokens tokens = Count(task, sample, request.is_in_turn);
  return tokens.length <= request.length && tokens.total <= request.max_tokens;
}

Result<EncodedSample> Smallest(const Task& task, const Tokenizer& tokenizer, const SampleRequest& request) {
  CACHETTE_TRY(EncodedSample sample, Draft(task, tokenizer, request, task.min_items(request.num_questions)));
  if (Fits(task, request, sample)) return sample;
  return Fail(Error::kInvalidArgument,
              fmt::format("task {} with {} question{} needs at least {} tokens ({} with its reply): more than the "
                          "length of {} allows; raise --lengths or ask less",
                          task.name, request.num_questions, request.num_questions == 1 ? "" : "s",
                          Count(task, sample, request.is_in_turn).length, Count(task, sample, request.is_in_turn).total,
                          std::min(request.length, request.max_tokens)));
}

}  // namespace

std::span<const Task> AllTasks() {
  static const std::vector<Task> tasks = {
      KvTask(),           NiahTask(),        PathTask(),        WalkTask(),          TsvTask(),
      NiahSingle1Task(),  NiahSingle2Task(), NiahSingle3Task(), NiahMultikey1Task(), NiahMultikey2Task(),
      NiahMultikey3Task()};
  return tasks;
}

Result<const Task*> FindTask(std::string_view name) {
  std::vector<std::string> names;
  for (const Task& task : AllTasks()) {
    if (name == task.name) return &task;
    names.emplace_back(task.name);
  }
  const std::string nearest = NearestName(name, names);
  return Fail(Error::kInvalidArgument,
              fmt::format("unknown task '{}'{} (one of {})", name,
                          nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest), fmt::join(names, ", ")));
}

Result<EncodedSample> MakeSample(const Task& task, const Tokenizer& tokenizer, const SampleRequest& request) {
  int64_t low = task.min_items(request.num_questions);  // fits
  CACHETTE_TRY(EncodedSample best, Smallest(task, tokenizer, request));
  int64_t high = low;  // does not fit
  while (true) {
    high = 2 * high + 1;
    CACHETTE_TRY(EncodedSample larger, Draft(task, tokenizer, request, high));
    if (!Fits(task, request, larger)) break;
    low = high;
    best = std::move(larger);
  }
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    CACHETTE_TRY(EncodedSample other, Draft(task, tokenizer, request, middle));
    if (Fits(task, request, other)) {
      low = middle;
      best = std::move(other);
    } else {
      high = middle;
    }
  }
  return best;
}

Result<void> CheckFits(const Task& task, const Tokenizer& tokenizer, const SampleRequest& request) {
  CACHETTE_TRY(Smallest(task, tokenizer, request));
  return Ok();
}

Result<std::vector<int32_t>> EncodeReply(const Tokenizer& tokenizer, const Question& question) {
  const char last = question.text.empty() ? '\n' : question.text.back();
  const bool has_space = last == ':' || (last >= 'a' && last <= 'z');
  return tokenizer.Encode((has_space ? " " : "") + question.answer + "\n",
                          {.add_special = false, .parse_special = false});
}

}  // namespace cachette
