#pragma once
// What a generation was and what it cost: one JSON object for machines, a few lines for people. The command line, the
// server and the evaluation report through here, so that a number has one name and one meaning.

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "engine/engine.h"
#include "engine/machine.h"

namespace cachette {

// "94.1 MiB": three significant digits, binary units.
std::string HumanBytes(int64_t num_bytes);

// Every option in force by its declared name: engine, generation and recipe ("protect.sinks"), flat. Automatic choices
// are reported as chosen, fast_kv_bytes as the limit they led to.
nlohmann::ordered_json OptionsJson(const Engine& engine, const Recipe& recipe, const GenerateOptions& generate);
// {"file", "sha256", "name", "family"}; sha256 is null for a synthetic model. Reads the file once and remembers.
// Errors: kIo, kNotFound when the file has gone.
Result<nlohmann::ordered_json> ModelJson(const Engine& engine);
nlohmann::ordered_json MachineJson(const Machine& machine);
nlohmann::ordered_json BuildJson();
// Per tier {"bytes_now", "bytes_peak", "bytes_limit"}: "host", and "arena" or "disk" once a recipe retrieves, with its
// "reader" and the bytes written and read.
nlohmann::ordered_json TiersJson(const Engine& engine);
// The figures of stats; null where nothing was decoded. docs/cli.md has the fields.
nlohmann::ordered_json RetrievalJson(const RetrievalStats& stats);

// One generation, with what only its caller knows.
struct RunReport {
  std::string text;
  Generation generation;
  double startup_seconds = 0.0;  // start of the program to the first token; 0: unknown
};

// Seconds and rates that were never measured (no token was generated) are null.
// session: the one that generated; footprint and peak are of everything it has seen. Errors: those of ModelJson.
Result<nlohmann::ordered_json> ReportJson(const Engine& engine, const Session& session, const GenerateOptions& options,
                                          const RunReport& report);

// "model SmolLM2...gguf, backend avx512bf16, ...": what will run, in one line without a newline.
std::string DescribeRun(const Engine& engine, const Recipe& recipe);
// The same facts as ReportJson's numbers, in three lines, or four of a recipe that retrieves.
std::string SummaryText(const Engine& engine, const Session& session, const Generation& generation);

}  // namespace cachette
