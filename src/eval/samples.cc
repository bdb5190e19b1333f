#include "eval/samples.h"

#include <nlohmann/json.hpp>

namespace cachette {

using Json = nlohmann::ordered_json;

Result<void> ForEachSample(const Tokenizer& tokenizer, int64_t max_tokens, double rope_scale,
                           const EvalOptions& options, const std::function<Result<bool>(const NamedSample&)>& f) {
  CACHETTE_TRY(Validate(options));
  CACHETTE_TRY(CheckLengths(options, max_tokens, rope_scale));
  struct Cell {
    const Task* task;
    SampleRequest request;
  };
  std::vector<Cell> cells;
  for (const std::string& name : options.tasks) {
    CACHETTE_TRY(const Task* const task, FindTask(name));
    for (const int64_t length : options.lengths) {
      cells.push_back({task, {length, max_tokens, options.questions, options.seed, 0}});
      CACHETTE_TRY(CheckFits(*task, tokenizer, cells.back().request));
    }
  }
  for (Cell& cell : cells) {
    for (cell.request.idx = 0; cell.request.idx < options.samples; ++cell.request.idx) {
      CACHETTE_TRY(const EncodedSample sample, MakeSample(*cell.task, tokenizer, cell.request));
      CACHETTE_TRY(const bool goes_on, f({*cell.task, cell.request, sample}));
      if (!goes_on) return Ok();
    }
  }
  return Ok();
}

Result<Json> SampleJson(const NamedSample& named, const Tokenizer& tokenizer) {
  Json questions = Json::array();
  for (size_t i = 0; i < named.sample.questions.size(); ++i) {
    const Question& question = named.sample.text.questions[i];
    CACHETTE_TRY(const std::vector<int32_t> answer_tokens, EncodeReply(tokenizer, question));
    questions.push_back({{"question", question.text},
                         {"question_tokens", named.sample.questions[i]},
                         {"answer", question.answer},
                         {"answer_tokens", answer_tokens}});
  }
  return Json{
      {"task", named.task.name},    {"length", named.request.length},         {"sample", named.request.idx},
      {"seed", named.request.seed}, {"context_tokens", named.sample.context}, {"questions", std::move(questions)}};
}

}  // namespace cachette
