#pragma once
// Results of an evaluation as JSON for machines and as a table for people.

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>

#include "eval/fidelity.h"
#include "eval/harness.h"

namespace cachette {

// One line of a records file.
nlohmann::ordered_json RecordJson(const AnswerRecord& record, const EvalOptions& options);

// Per family exact_match, prefix_share, samples, answers, prompt_tokens_median, footprint, peak, retrieval, timings;
// under "lengths" the same for each length. Footprint and peak are means of the answers' own (mean of ratios);
// retrieval is of all decode steps together, those of the questions included (RetrievalJson).
nlohmann::ordered_json TasksJson(std::span<const AnswerRecord> records);
// The same figures over all records.
nlohmann::ordered_json TotalsJson(std::span<const AnswerRecord> records);

nlohmann::ordered_json FidelityJson(const Fidelity& fidelity);

// Every option in force by its declared name: engine, recipe, evaluation.
nlohmann::ordered_json EvalOptionsJson(const Engine& engine, const Recipe& recipe, const EvalOptions& options);

// A line for each family and length under a heading; last, what retrieval did over all of them.
std::string TasksTable(std::span<const AnswerRecord> records);
std::string FidelityText(const Fidelity& fidelity);

}  // namespace cachette
