#pragma once
// A retrieval recipe at work on one sequence. Prompt entries leave for the slow tier chunk by chunk and become units;
// at decode the trigger decides when, the index what, and attention reads sinks, the working set and the recent window.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cache/layer_observer.h"
#include "methods/recipe.h"

namespace cachette {

// Sums over layers (those that retrieve) and decode steps.
struct RetrievalStats {
  int64_t num_steps = 0;            // decode steps
  int64_t num_layer_steps = 0;      // of layers that had units to choose from
  int64_t num_retrievals = 0;       // layer-steps at which the trigger fired
  int64_t units_recalled = 0;       // over KV heads, guesses not counted
  int64_t entries_recalled = 0;     // over KV heads, guesses included
  int64_t bytes_recalled = 0;       // guesses included
  int64_t entries_selected = 0;     // by retrievals, over KV heads
  int64_t entries_reused = 0;       // of them, already resident
  int64_t resident_peak_bytes = 0;  // of units, guesses included
  double select_seconds = 0;        // trigger, scores, choice, view
  double recall_seconds = 0;        // waiting for the slow tier
  double attention_seconds = 0;     // of the layers that retrieve
  double close_seconds = 0;         // output entries becoming units
  double build_seconds = 0;         // prompt entries becoming units, in prefill
};

// What happened in one layer at one decode step, for replay and pictures.
struct RetrievalTraceLine {
  int64_t step = 0;  // position of the token
  int layer = 0;
  float cosine_previous = 0, cosine_last = 0, coverage = 0;
  bool is_retrieval = false;
  std::vector<std::vector<int32_t>> recalled;  // [num_kv_heads] first positions of the units brought in
};

class RetrievalRun {
 public:
  RetrievalRun(std::shared_ptr<const Recipe> recipe, const CacheShape& shape);

  void BeforePass(const PassInfo& pass);
  Result<void> BeforeAttention(Context& cx, SequenceCache& cache, const LayerQueries& queries);
  Result<void> AfterAttention(Context& cx, SequenceCache& cache, const LayerQueries& queries);

  const RetrievalStats& stats() const { return stats_; }
  // Keeps a line per layer and decode step from now on.
  void set_tracing(bool is_tracing) { is_tracing_ = is_tracing; }
  std::span<const RetrievalTraceLine> trace() const { return trace_; }

 private:
  // What attention reads of one KV head: units, and how many entries of the last of them (0: all).
  struct Selection {
    std::vector<int32_t> units;
    int64_t last_entries = 0;
  };
  // One KV head at one step.
  struct HeadStep {
    std::vector<float> weights;  // [num_units rounded up to 16]
    std::vector<int32_t> best;   // in descending weight, within the budget
    double best_weight = 0;
    double resident_weight = 0;
  };
  struct LayerState {
    bool has_selection = false;
    int64_t last_retrieval = 0;         // step
    std::vector<float> previous_q;      // [num_q_heads * head_dim]
    std::vector<float> retrieval_q;     // as previous_q
    std::vector<Selection> selections;  // [num_kv_heads]
    std::vector<int32_t> boundaries;    // positions at which the trigger fired, those of units dropped
  };

  bool Retrieves(const SequenceCache& cache, const LayerQueries& queries) const;
  Result<void> DecodeView(Context& cx, SequenceCache& cache, const LayerQueries& queries);
  void ScoreHeads(Context& cx, SequenceCache& cache, const LayerQueries& queries);
  void RankHead(SequenceCache& cache, int layer, int head);
  Result<void> Retrieve(SequenceCache& cache, int layer);
  void ChooseAttended(SequenceCache& cache, int layer, int head, Selection& selection);
  void DropForRoom(SequenceCache& cache, int layer, int head, int64_t incoming_entries);
  Result<void> Guess(Context& cx, SequenceCache& cache, const LayerQueries& queries);
  void ViewGuesses(SequenceCache& cache, int layer, int head);
  Result<void> OffloadPrompt(Context& cx, SequenceCache& cache, int layer);
  Result<void> BuildUnits(Context& cx, SequenceCache& cache, int layer, int64_t num_pages, const UnitBuilder& builder);
  Result<void> CloseOutput(Context& cx, SequenceCache& cache, int layer);
  void AddIndex(SequenceCache& cache, int layer, int head, int64_t unit_idx, const float* keys, int64_t num_keys);

  std::shared_ptr<const Recipe> recipe_;
  int num_kv_heads_;
  int head_dim_;
  PassInfo pass_;
  std::vector<LayerState> layers_;
  std::vector<HeadStep> heads_;  // [num_kv_heads], of the layer under way
  bool is_retrieving_ = false;   // the layer under way
  double attention_start_ = 0;
  RetrievalStats stats_;
  bool is_tracing_ = false;
  std::vector<RetrievalTraceLine> trace_;
};

}  // namespace cachette
