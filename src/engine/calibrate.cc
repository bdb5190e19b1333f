#include "engine/calibrate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <optional>

#include "io/write_file.h"
#include "methods/retrieval/mean_cosine.h"

namespace cachette {
namespace {

bool IsCancelled(const CalibrateCallbacks& callbacks) {
  return callbacks.cancel != nullptr && callbacks.cancel->load(std::memory_order_relaxed);
}

// Of the queries of one layer and text, each with each earlier one: row t holds steps 0 to t - 1.
class CosineTable {
 public:
  void Add(const std::vector<const float*>& queries, int num_heads, int head_dim) {
    num_steps_ = queries.size();
    cosines_.reserve(num_steps_ * (num_steps_ - 1) / 2);
    for (size_t t = 1; t < num_steps_; ++t)
      for (size_t s = 0; s < t; ++s) cosines_.push_back(MeanCosine(queries[t], queries[s], num_heads, head_dim));
  }
  int64_t num_steps() const { return static_cast<int64_t>(num_steps_); }
  // The first step always retrieves.
  int64_t NumRetrievals(float tau, bool against_last) const {
    if (num_steps_ == 0) return 0;
    int64_t count = 1;
    size_t last = 0;
    for (size_t t = 1; t < num_steps_; ++t) {
      const size_t other = against_last ? last : t - 1;
      if (!(cosines_[t * (t - 1) / 2 + other] < tau)) continue;
      ++count;
      last = t;
    }
    return count;
  }

 private:
  size_t num_steps_ = 0;
  std::vector<float> cosines_;  // [num_steps * (num_steps - 1) / 2]
};

// Prefills a text and feeds its continuation, tracing; null when cancelled.
Result<std::unique_ptr<Session>> Feed(Engine& engine, const std::shared_ptr<const Recipe>& recipe,
                                      const CalibrationText& text, int64_t chunk, const CalibrateCallbacks& callbacks) {
  std::unique_ptr<Session> session = engine.NewSession(recipe);
  session->TraceRetrieval(/*keeps_queries=*/true);
  GenerateCallbacks own;
  own.cancel = callbacks.cancel;
  CACHETTE_TRY(const int64_t num_done, engine.Prefill(*session, text.prompt, chunk, nullptr, own));
  if (num_done < static_cast<int64_t>(text.prompt.size())) return std::unique_ptr<Session>();
  Session* const sessions[] = {session.get()};
  for (const int32_t token : text.continuation) {
    CACHETTE_TRY(engine.DecodeStep(sessions, {&token, 1}, nullptr));
    if (IsCancelled(callbacks)) return std::unique_ptr<Session>();
  }
  return session;
}

LayerThreshold Bisect(std::span<const CosineTable> tables, double wanted, bool against_last) {
  int64_t num_steps = 0;
  for (const CosineTable& table : tables) num_steps += table.num_steps();
  if (num_steps == 0) return {};
  LayerThreshold best{.retrieves = true, .tau = -1.0, .expected_rate = 0};
  double low = -1.0, high = 1.0, least_gap = INFINITY;
  for (int round = 0; round < 24; ++round) {  // finer than the six digits of the file
    const double tau = std::round((low + high) / 2 * 1e6) / 1e6;
    int64_t count = 0;
    for (const CosineTable& table : tables) count += table.NumRetrievals(static_cast<float>(tau), against_last);
    const double rate = static_cast<double>(count) / static_cast<double>(num_steps);
    if (std::abs(rate - wanted) < least_gap) {
      least_gap = std::abs(rate - wanted);
      best.tau = tau;
      best.expected_rate = rate;
    }
    (rate < wanted ? low : high) = tau;
  }
  return best;
}

// One run of all texts, as both sides of a round need it.
struct Recording {
  std::vector<std::vector<CosineTable>> tables;  // [num_layers][num_texts]
  std::vector<int64_t> num_retrievals;           // [num_layers]
};

Result<std::optional<Recording>> Record(Engine& engine, const std::shared_ptr<const Recipe>& recipe,
                                        std::span<const CalibrationText> texts, int64_t chunk,
                                        const CalibrateCallbacks& callbacks) {
  const auto num_layers = static_cast<size_t>(engine.config().num_layers);
  Recording out{std::vector(num_layers, std::vector<CosineTable>(texts.size())), std::vector<int64_t>(num_layers)};
  for (size_t i = 0; i < texts.size(); ++i) {
    CACHETTE_TRY(const std::unique_ptr<Session> session, Feed(engine, recipe, texts[i], chunk, callbacks));
    if (session == nullptr) return std::optional<Recording>();
    std::vector<std::vector<const float*>> queries(num_layers);
    for (const RetrievalTraceLine& line : session->retrieval()->trace()) {
      queries[static_cast<size_t>(line.layer)].push_back(line.queries.data());
      out.num_retrievals[static_cast<size_t>(line.layer)] += line.is_retrieval ? 1 : 0;
    }
    engine.context().ParallelFor(engine.config().num_layers, [&](int64_t layer) {
      const auto at = static_cast<size_t>(layer);
      if (!queries[at].empty())
        out.tables[at][i].Add(queries[at], engine.config().num_q_heads, engine.config().head_dim);
    });
    if (callbacks.on_text) callbacks.on_text(static_cast<int64_t>(i) + 1, static_cast<int64_t>(texts.size()));
  }
  return std::optional(std::move(out));
}

Result<void> Check(const CalibrateOptions& options) {
  if (options.trigger != "prev" && options.trigger != "last")
    return Fail(Error::kInvalidArgument,
                fmt::format("trigger '{}' has no thresholds to calibrate; it must be prev or last", options.trigger));
  if (!(options.rate > 0.0 && options.rate <= 1.0))
    return Fail(Error::kInvalidArgument, fmt::format("rate {} is outside (0, 1]", options.rate));
  if (options.rounds < 1)
    return Fail(Error::kInvalidArgument, fmt::format("rounds {} must be 1 or more", options.rounds));
  if (options.prefill_chunk < 1)
    return Fail(Error::kInvalidArgument, fmt::format("prefill_chunk {} must be 1 or more", options.prefill_chunk));
  return Ok();
}

// Mean over the layers that retrieve.
double GapOf(std::span<const LayerThreshold> layers, double wanted) {
  double gap = 0, count = 0;
  for (const LayerThreshold& layer : layers) {
    if (!layer.retrieves) continue;
    gap += std::abs(layer.achieved_rate - wanted);
    count += 1;
  }
  return gap / count;
}

Result<void> WriteThresholds(const std::string& path, std::span<const LayerThreshold> layers,
                             std::span<const std::string> notes) {
  std::string text;
  for (const std::string& note : notes) fmt::format_to(std::back_inserter(text), "# {}\n", note);
  for (const LayerThreshold& layer : layers) fmt::format_to(std::back_inserter(text), "{:.6f}\n", layer.tau);
  return WriteFile(path, std::as_bytes(std::span(text)));
}

// A file that goes with the scope.
struct ScratchFile {
  explicit ScratchFile(std::string name) : path(std::move(name)) {}
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  ~ScratchFile() {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
  }
  std::string path;
};

}  // namespace

Result<std::vector<LayerThreshold>> Calibrate(Engine& engine, const std::string& recipe_name,
                                              const std::map<std::string, std::string>& recipe_options,
                                              std::span<const CalibrationText> texts, const CalibrateOptions& options,
                                              const std::string& path, std::span<const std::string> notes,
                                              const CalibrateCallbacks& callbacks) {
  CACHETTE_TRY(Check(options));
  CACHETTE_TRY(const Recipe plain, Recipe::Create(recipe_name, recipe_options));
  if (!plain.retrieves())
    return Fail(Error::kInvalidArgument,
                fmt::format("recipe {} retrieves nothing, so it has no thresholds; calibrate louis", recipe_name));
  std::map<std::string, std::string> own = recipe_options;
  own["trigger.kind"] = options.trigger;
  own[fmt::format("trigger.{}_tau", options.trigger)] = "0.7";
  const ScratchFile trying(path + ".part");
  CalibrateCallbacks of_run = callbacks;
  const auto record = [&](int64_t round) -> Result<std::optional<Recording>> {
    if (callbacks.on_text)
      of_run.on_text = [&, round](int64_t num_done, int64_t num_total) {
        callbacks.on_text(round * num_total + num_done, (options.rounds + 1) * num_total);
      };
    CACHETTE_TRY(const std::shared_ptr<const Recipe> recipe, engine.MakeRecipe(recipe_name, own));
    return Record(engine, recipe, texts, options.prefill_chunk, of_run);
  };

  CACHETTE_TRY(std::optional<Recording> recording, record(0));
  std::vector<LayerThreshold> best;
  for (int64_t round = 1; round <= options.rounds && recording; ++round) {
    std::vector<LayerThreshold> layers;
    for (const std::vector<CosineTable>& of_layer : recording->tables)
      layers.push_back(Bisect(of_layer, options.rate, options.trigger == "last"));
    if (std::none_of(layers.begin(), layers.end(), [](const LayerThreshold& layer) { return layer.retrieves; }))
      return Fail(
          Error::kInvalidArgument,
          fmt::format("no text is so long that recipe {} has anything to retrieve; give longer ones than its {} "
                      "sinks and recent entries",
                      recipe_name, plain.num_sink_blocks() * ops::kBlockTokens + plain.recent_window()));
    CACHETTE_TRY(WriteThresholds(trying.path, layers, notes));
    own[fmt::format("trigger.{}_taus", options.trigger)] = trying.path;
    CACHETTE_TRY(recording, record(round));
    if (!recording) break;
    for (size_t layer = 0; layer < layers.size(); ++layer) {
      int64_t num_steps = 0;
      for (const CosineTable& table : recording->tables[layer]) num_steps += table.num_steps();
      if (num_steps > 0)
        layers[layer].achieved_rate =
            static_cast<double>(recording->num_retrievals[layer]) / static_cast<double>(num_steps);
    }
    if (best.empty() || GapOf(layers, options.rate) < GapOf(best, options.rate)) best = std::move(layers);
  }
  if (!recording) return std::vector<LayerThreshold>();
  CACHETTE_TRY(WriteThresholds(path, best, notes));
  return best;
}

std::string ThresholdFileOf(const std::string& model_path, std::span<const std::string> loras,
                            std::string_view trigger) {
  if (model_path.starts_with("synthetic:")) return "";
  std::string path = model_path;
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  for (const std::string& lora : loras) path += "." + std::filesystem::path(lora).stem().string();
  return fmt::format("{}.{}-taus", path, trigger);
}

}  // namespace cachette
