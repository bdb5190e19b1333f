#include "engine/trace_file.h"

#include <fmt/format.h>

#include <iterator>
#include <nlohmann/json.hpp>

#include "engine/report.h"
#include "io/write_file.h"

namespace cachette {

Result<void> WriteTraceFile(const std::string& path, const Engine& engine, const Session& session,
                            const GenerateOptions& options, int64_t prompt_tokens) {
  const nlohmann::ordered_json header = {{"format", "cachette-trace"},
                                         {"version", 1},
                                         {"model", engine.model_path()},
                                         {"recipe", session.recipe().row().name},
                                         {"layers", engine.config().num_layers},
                                         {"kv_heads", engine.config().num_kv_heads},
                                         {"prompt_tokens", prompt_tokens},
                                         {"session_tokens", session.num_tokens()},
                                         {"options", OptionsJson(engine, session.recipe(), options)}};
  std::string text = header.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  const auto to = std::back_inserter(text);
  for (const RetrievalTraceLine& line : session.retrieval()->trace()) {
    fmt::format_to(to,
                   R"({{"step":{},"layer":{},"cosine_previous":{:.6g},"cosine_last":{:.6g},"coverage":{:.6g},)"
                   R"("retrieval":{},"recalled":[)",
                   line.step, line.layer, line.cosine_previous, line.cosine_last, line.coverage, line.is_retrieval);
    for (size_t head = 0; head < line.recalled.size(); ++head)
      fmt::format_to(to, "{}[{}]", head == 0 ? "" : ",", fmt::join(line.recalled[head], ","));
    text += "]}\n";
  }
  return WriteFile(path, std::as_bytes(std::span(text)));
}

}  // namespace cachette
