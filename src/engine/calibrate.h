#pragma once
// Thresholds of the query-cosine triggers, one per layer, for a wanted rate of retrievals. A threshold that suits one
// layer starves or floods another: queries of early layers turn at most tokens, those of others at few.

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/options.h"
#include "engine/engine.h"

namespace cachette {

// Tokens to prefill, and tokens to feed one by one behind them, whose queries count.
struct CalibrationText {
  std::vector<int32_t> prompt;
  std::vector<int32_t> continuation;
};

struct CalibrateOptions {
  std::string trigger = "prev";
  double rate = 0.25;
  int64_t rounds = 2;
  int64_t prefill_chunk = 512;

  void VisitOptions(OptionVisitor& v) {
    v(trigger, "trigger",
      "rule to calibrate: prev (cosine to the previous token's queries) or last (to the last retrieval's)");
    v(rate, "rate", "retrievals per token and layer that are wanted, in (0, 1]");
    v(rounds, "rounds", "times that thresholds are chosen, each on queries of a run with those before");
    v(prefill_chunk, "prefill_chunk", "prompt tokens per prefill pass");
  }
};

struct CalibrateCallbacks {
  std::function<void(int64_t num_done, int64_t num_total)> on_text;  // over all runs
  const std::atomic<bool>* cancel = nullptr;
};

struct LayerThreshold {
  bool retrieves = false;  // else its threshold is never asked for
  double tau = 0.7;
  double expected_rate = 0;  // on the recorded queries
  double achieved_rate = 0;  // in a run with the thresholds
};

// Runs every text with the recipe (which must retrieve), at first with the rule's default threshold, and keeps the
// queries of all decode steps. Then, per layer, bisection for the threshold with which the rule would have retrieved at
// the wanted rate on those queries, a text's first step (which always retrieves) included: for prev a quantile, for
// last a simulation, since each retrieval changes what the next queries are compared with. Other thresholds bring in
// other entries and so lead to other queries, of later layers above all; therefore the texts run again with the
// thresholds in force, which tells what they achieve and gives the next round its queries. The round nearest to the
// wanted rate, on average over the layers, is the result [num_layers]; empty when cancelled. recipe_options: without a
// trigger. notes: lines of a comment above the numbers. path: the file that --prev-taus and
// --last-taus read, one number a line, replaced at the end; "path.part" beside it meanwhile.
// Errors: kInvalidArgument (trigger, rate, a recipe that retrieves nothing, texts so short that no entry left the fast
// tier); those of the engine and of WriteFile. Memory: the queries of a text, and floats of half its steps squared per
// layer.
Result<std::vector<LayerThreshold>> Calibrate(Engine& engine, const std::string& recipe,
                                              const std::map<std::string, std::string>& recipe_options,
                                              std::span<const CalibrationText> texts, const CalibrateOptions& options,
                                              const std::string& path, std::span<const std::string> notes,
                                              const CalibrateCallbacks& callbacks = {});

// Where thresholds of a model and its adapters are looked for: beside the model, "model.gguf.recall.prev-taus"; "" for
// a synthetic model.
std::string ThresholdFileOf(const std::string& model_path, std::span<const std::string> loras,
                            std::string_view trigger);

}  // namespace cachette
