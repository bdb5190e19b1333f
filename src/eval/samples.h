#pragma once
// The samples of an evaluation as data: for training an adapter on them, or for asking another engine.

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>

#include "base/result.h"
#include "eval/harness.h"
#include "eval/tasks/task.h"

namespace cachette {

struct NamedSample {
  const Task& task;
  const SampleRequest& request;
  const EncodedSample& sample;
};

// Calls f for every sample that RunEval asks with these options, in its order, until f returns false. max_tokens and
// rope_scale: the model's context, already stretched, and by how much. Runs no model. Errors: as RunEval, before the
// first call; those of f.
Result<void> ForEachSample(const Tokenizer& tokenizer, int64_t max_tokens, double rope_scale,
                           const EvalOptions& options, const std::function<Result<bool>(const NamedSample&)>& f);

// One line of a samples file: task, length, sample, seed, context_tokens and questions, each with question,
// question_tokens, answer and answer_tokens (EncodeReply). Errors: those of the tokenizer.
Result<nlohmann::ordered_json> SampleJson(const NamedSample& named, const Tokenizer& tokenizer);

}  // namespace cachette
