#include "eval/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "engine/report.h"

namespace cachette {
namespace {

using Json = nlohmann::ordered_json;

// Means over a set of answers.
struct Figures {
  int64_t num_samples = 0;
  int64_t num_answers = 0;
  int64_t num_items = 0;             // that answers count by: one each, or those of a forced reply
  int64_t prompt_tokens_median = 0;  // over answers; the upper one of an even number
  double exact_match = 0, prefix_share = 0, footprint = 0, peak = 0;
  double prefill_s = 0, question_s = 0, ttft_s = 0, decode_s = 0;
  double prefill_tokens_per_s = 0, decode_tokens_per_s = 0;  // 0: not measured
  std::optional<RetrievalStats> retrieval;                   // sums, of a recipe that retrieves
};

using Records = std::vector<const AnswerRecord*>;

Figures FiguresOf(const Records& records) {
  Figures out;
  out.num_answers = static_cast<int64_t>(records.size());
  if (records.empty()) return out;
  std::set<std::tuple<const Task*, int64_t, int64_t>> samples;
  std::vector<int64_t> prompts;
  int64_t prefilled = 0, decoded = 0;
  for (const AnswerRecord* r : records) {
    samples.insert({r->task, r->length, r->sample_idx});
    prompts.push_back(r->prompt_tokens);
    prefilled += r->prefilled_tokens;
    decoded += r->generated_tokens - 1;
    out.exact_match += r->exact * static_cast<double>(r->num_items);
    out.num_items += r->num_items;
    out.prefix_share += r->prefix_share;
    out.footprint += r->footprint;
    out.peak += r->peak;
    out.prefill_s += r->prefill_seconds;
    out.question_s += r->question_seconds;
    out.ttft_s += r->ttft_seconds;
    out.decode_s += r->decode_seconds;
    if (!r->retrieval) continue;
    if (!out.retrieval) out.retrieval.emplace();
    *out.retrieval += *r->retrieval;
  }
  if (out.prefill_s > 0) out.prefill_tokens_per_s = static_cast<double>(prefilled) / out.prefill_s;
  if (out.decode_s > 0) out.decode_tokens_per_s = static_cast<double>(decoded) / out.decode_s;
  out.exact_match /= static_cast<double>(std::max<int64_t>(out.num_items, 1));
  for (double* sum :
       {&out.prefix_share, &out.footprint, &out.peak, &out.prefill_s, &out.question_s, &out.ttft_s, &out.decode_s})
    *sum /= static_cast<double>(records.size());
  out.num_samples = static_cast<int64_t>(samples.size());
  const auto middle = prompts.begin() + static_cast<int64_t>(prompts.size() / 2);
  std::nth_element(prompts.begin(), middle, prompts.end());
  out.prompt_tokens_median = *middle;
  return out;
}

Json ToJson(const Records& records) {
  const Figures f = FiguresOf(records);
  const auto or_null = [](double value) { return value > 0 ? Json(value) : Json(nullptr); };
  if (records.empty()) return {{"exact_match", nullptr}, {"samples", 0}, {"answers", 0}};
  return {{"exact_match", f.exact_match},
          {"prefix_share", f.prefix_share},
          {"samples", f.num_samples},
          {"answers", f.num_answers},
          {"items", f.num_items},
          {"prompt_tokens_median", f.prompt_tokens_median},
          {"footprint", f.footprint},
          {"peak", f.peak},
          {"retrieval", f.retrieval ? RetrievalJson(*f.retrieval) : Json(nullptr)},
          {"timings",
           {{"prefill_s", f.prefill_s},
            {"question_s", f.question_s},
            {"ttft_s", f.ttft_s},
            {"decode_s", f.decode_s},
            {"prefill_tokens_per_s", or_null(f.prefill_tokens_per_s)},
            {"decode_tokens_per_s", or_null(f.decode_tokens_per_s)}}}};
}

// In order of first appearance.
std::vector<std::pair<const Task*, Records>> ByTask(std::span<const AnswerRecord> records) {
  std::vector<std::pair<const Task*, Records>> groups;
  for (const AnswerRecord& record : records) {
    auto it = std::find_if(groups.begin(), groups.end(), [&](const auto& group) { return group.first == record.task; });
    if (it == groups.end()) it = groups.insert(groups.end(), {record.task, {}});
    it->second.push_back(&record);
  }
  return groups;
}

std::map<int64_t, Records> ByLength(const Records& records) {
  std::map<int64_t, Records> groups;
  for (const AnswerRecord* record : records) groups[record->length].push_back(record);
  return groups;
}

std::string HumanRate(double tokens_per_s) { return tokens_per_s > 0 ? fmt::format("{:.0f}", tokens_per_s) : "-"; }

}  // namespace

Json RecordJson(const AnswerRecord& record, const EvalOptions& options) {
  return {{"id", record.id},
          {"task", record.task->name},
          {"scenario", record.task->scenario},
          {"length", record.length},
          {"protocol", options.protocol},
          {"depth", record.depth >= 0 ? Json(record.depth) : Json(nullptr)},
          {"n", record.prompt_tokens},
          {"m", record.generated_tokens},
          {"question", record.question},
          {"output", record.reply},
          {"reference", record.reference},
          {"score", record.exact},
          {"items", record.num_items},
          {"prefix_share", record.prefix_share},
          {"stopped_by", ReplyStopName(record.stop)},
          {"footprint", record.footprint},
          {"peak", record.peak},
          {"retrievals_per_token", record.retrieval ? Json(record.retrieval->retrievals_per_token()) : Json(nullptr)},
          {"entries_copied_per_token",
           record.retrieval ? Json(record.retrieval->entries_copied_per_token()) : Json(nullptr)},
          {"timings",
           {{"prefill_s", record.prefill_seconds},
            {"question_s", record.question_seconds},
            {"ttft_s", record.ttft_seconds},
            {"decode_s", record.decode_seconds}}}};
}

Json TasksJson(std::span<const AnswerRecord> records) {
  Json out = Json::object();
  for (const auto& [task, own] : ByTask(records)) {
    Json& family = out[task->name] = ToJson(own);
    family["lengths"] = Json::object();
    for (const auto& [length, of_length] : ByLength(own))
      family["lengths"][fmt::format("{}", length)] = ToJson(of_length);
  }
  return out;
}

Json TotalsJson(std::span<const AnswerRecord> records) {
  Records all;
  for (const AnswerRecord& record : records) all.push_back(&record);
  return ToJson(all);
}

Json FidelityJson(const Fidelity& f) {
  return {{"prompt_tokens", f.prompt_tokens},
          {"compared_tokens", f.compared_tokens},
          {"kl_mean", f.kl_mean},
          {"kl_median", f.kl_median},
          {"kl_p90", f.kl_p90},
          {"kl_p99", f.kl_p99},
          {"kl_max", f.kl_max},
          {"top1_agreement", f.top1_agreement},
          {"perplexity_full", f.perplexity_full},
          {"perplexity", f.perplexity},
          {"footprint", f.footprint},
          {"peak", f.peak},
          {"seconds", f.seconds}};
}

Json EvalOptionsJson(const Engine& engine, const Recipe& recipe, const EvalOptions& options) {
  GenerateOptions generate;
  generate.prefill_chunk = options.prefill_chunk;
  Json out = OptionsJson(engine, recipe, generate);
  for (const char* unused :
       {"max_new_tokens", "ignore_eos", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"})
    out.erase(unused);  // replies are greedy and end with their answers
  out["tasks"] = options.tasks;
  out["lengths"] = options.lengths;
  EvalOptions own = options;
  std::vector<OptionInfo> list;
  ListOptions(own, "", list);
  for (const OptionInfo& option : list) std::visit([&](const auto& value) { out[option.name] = value; }, option.value);
  return out;
}

std::string TasksTable(std::span<const AnswerRecord> records) {
  std::string out = fmt::format("{:<16}{:>7}{:>8}{:>8}{:>8}{:>8}{:>11}{:>7}{:>11}{:>10}\n", "task", "length", "prompt",
                                "answers", "exact", "prefix", "footprint", "peak", "prefill/s", "decode/s");
  for (const auto& [task, own] : ByTask(records)) {
    for (const auto& [length, of_length] : ByLength(own)) {
      const Figures f = FiguresOf(of_length);
      out += fmt::format("{:<16}{:>7}{:>8}{:>8}{:>8.3f}{:>8.3f}{:>11.3f}{:>7.3f}{:>11}{:>10}\n", task->name, length,
                         f.prompt_tokens_median, f.num_answers, f.exact_match, f.prefix_share, f.footprint, f.peak,
                         HumanRate(f.prefill_tokens_per_s), HumanRate(f.decode_tokens_per_s));
    }
  }
  Records all;
  for (const AnswerRecord& record : records) all.push_back(&record);
  if (const auto retrieval = FiguresOf(all).retrieval)
    out += fmt::format(
        "\nretrieval  {:.3f} per token and layer, {:.1f} entries copied per token and KV head ({:.1f} after the first "
        "fill)\n",
        retrieval->retrievals_per_token(), retrieval->entries_copied_per_token(),
        retrieval->entries_copied_after_fill());
  return out;
}

std::string FidelityText(const Fidelity& f) {
  return fmt::format(
      "fidelity   {} tokens prefilled, {} compared with the full cache\n"
      "KL         mean {:.3g} nats, median {:.3g}, p90 {:.3g}, p99 {:.3g}, max {:.3g}\n"
      "top-1      {:.4f} agree\n"
      "perplexity {:.4f}, of the full cache {:.4f}\n"
      "KV cache   footprint {:.3f}, peak {:.3f}\n",
      f.prompt_tokens, f.compared_tokens, f.kl_mean, f.kl_median, f.kl_p90, f.kl_p99, f.kl_max, f.top1_agreement,
      f.perplexity, f.perplexity_full, f.footprint, f.peak);
}

}  // namespace cachette
