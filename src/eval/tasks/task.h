#pragma once
// A task family: a generator of contexts with questions whose right answers are known. A sample is a function of (task,
// length, seed, index) and the tokenizer alone, on every machine.

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/rng.h"
#include "text/tokenizer.h"

namespace cachette {

struct Question {
  std::string text;  // follows the context at once; the reply follows it
  std::string answer;
};

// Questions are independent of each other: each can be asked on the context alone.
struct Sample {
  std::string context;
  std::vector<Question> questions;
};

// Which part of a reply is compared with the answer (score.h).
enum class AnswerForm : uint8_t {
  kNumber,     // its leading digits
  kLine,       // its first line
  kLines,      // as many lines as the answer has
  kContained,  // all of it, the answer being somewhere inside (RULER)
};

// What the wanted length is the length of.
enum class LengthOf : uint8_t { kPrompt, kPromptAndReply };

struct Task {
  const char* name;
  const char* scenario;  // LISO, SILO or LILO: long or short input, long or short output
  const char* summary;
  AnswerForm form;
  LengthOf length_of;
  int64_t reply_tokens;  // most tokens to generate; 0: those of the answer and a few more
  // A draft with num_items lines, pairs or steps: the size search looks for the most that fit. The first num_items of
  // a larger draft need not be the same. rng starts anew for every draft.
  int64_t (*min_items)(int64_t num_questions);
  Sample (*draft)(Rng& rng, int64_t num_items, int64_t num_questions);
};

std::span<const Task> AllTasks();
// Errors: kInvalidArgument with the nearest name.
Result<const Task*> FindTask(std::string_view name);

struct SampleRequest {
  static constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();
  int64_t length = 0;               // tokens, in the sense of the task's length_of; never passed
  int64_t max_tokens = kUnlimited;  // of prompt and reply together: the model's context
  int64_t num_questions = 1;        // a task may have fewer to ask (one, when its answer is the whole context)
  int64_t seed = 0;
  int64_t idx = 0;
  bool is_in_turn = false;  // a question's prompt holds the questions and replies before it too
};

// A sample as the model sees it. The prompt of question i is context, then questions[i].
struct EncodedSample {
  Sample text;
  std::vector<int32_t> context;                 // starts with the vocabulary's bos where it has one
  std::vector<std::vector<int32_t>> questions;  // [num_questions]
  std::vector<int64_t> reply_limits;            // [num_questions], most tokens to generate
  int64_t PromptTokens(size_t question) const {
    return static_cast<int64_t>(context.size() + questions[question].size());
  }
};

// The largest sample that fits. Errors: kInvalidArgument when not even the smallest does, those of Encode.
Result<EncodedSample> MakeSample(const Task& task, const Tokenizer& tokenizer, const SampleRequest& request);

// Errors: those of MakeSample, found out with its smallest draft alone.
Result<void> CheckFits(const Task& task, const Tokenizer& tokenizer, const SampleRequest& request);

// The shortest natural reply that scores 1 and shows its end: the answer, after a space where the question ends in a
// letter or colon (so that the answer's first word is cut into tokens as in the context), and a newline.
Result<std::vector<int32_t>> EncodeReply(const Tokenizer& tokenizer, const Question& question);

}  // namespace cachette
