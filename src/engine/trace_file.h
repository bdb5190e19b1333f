#pragma once

#include <string>

#include "engine/engine.h"

namespace cachette {

// Writes what a session's retrieval did at each decode step and layer, for replay and pictures: JSON lines, a header
// with the run and a line for each RetrievalTraceLine since Session::TraceRetrieval. docs/cli.md has the fields.
// Replaces path whole or not at all. The session's recipe retrieves. prompt_tokens: of the last prompt.
// Errors: those of WriteFile.
Result<void> WriteTraceFile(const std::string& path, const Engine& engine, const Session& session,
                            const GenerateOptions& options, int64_t prompt_tokens);

}  // namespace cachette
