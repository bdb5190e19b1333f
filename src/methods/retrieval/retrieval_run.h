#pragma once
// A retrieval recipe at work on one sequence. Entries that leave for the slow tier become units (unit_maker.h); at
// decode the trigger decides when, the index what, and attention reads sinks, the working set and the recent window.

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "cache/layer_observer.h"
#include "methods/recipe.h"
#include "methods/retrieval/retrieval_stats.h"
#include "methods/retrieval/unit_maker.h"
#include "methods/retrieval/unit_selection.h"

namespace cachette {

// What happened in one layer at one decode step, for replay and pictures.
struct RetrievalTraceLine {
  int64_t step = 0;  // position of the token
  int layer = 0;
  float cosine_previous = 0, cosine_last = 0, coverage = 0;
  bool is_retrieval = false;
  std::vector<std::vector<int32_t>> recalled;  // [num_kv_heads] first positions of the units brought in
  std::vector<float> queries;                  // [num_q_heads * head_dim] when they are kept, else empty
};

class RetrievalRun {
 public:
  RetrievalRun(std::shared_ptr<const Recipe> recipe, const CacheShape& shape);

  // Opens a pass: makes room for it (resident_room.h).
  void BeforePass(SequenceCache& cache, const PassInfo& pass);
  // The same for num_bytes, of a pass that several sequences share.
  void MakeRoom(SequenceCache& cache, size_t num_bytes);
  Result<void> BeforeAttention(Context& cx, SequenceCache& cache, const LayerQueries& queries);
  Result<void> AfterAttention(Context& cx, SequenceCache& cache, const LayerQueries& queries);
  // A rehearsal of the next layer's choice (rehearsal.cc), as LayerObserver has it.
  bool WantsNextQueries(const SequenceCache& cache, const LayerQueries& next) const;
  Result<void> NextQueries(Context& cx, SequenceCache& cache, const LayerQueries& next);

  const RetrievalStats& stats() const { return stats_; }
  // A decode pass took this long.
  void AddDecodeSeconds(double seconds) { stats_.decode_seconds += seconds; }
  // Keeps a line per layer and decode step from now on, with the layer's queries if they are wanted.
  void set_tracing(bool is_tracing, bool keeps_queries = false) {
    is_tracing_ = is_tracing;
    keeps_queries_ = keeps_queries;
  }
  std::span<const RetrievalTraceLine> trace() const { return trace_; }

 private:
  // One KV head at one step.
  struct HeadStep {
    std::vector<float> weights;  // [num_units rounded up to 16]
    std::vector<int32_t> best;   // in descending weight, within the budget
    double best_weight = 0;
    double resident_weight = 0;
    std::vector<int32_t> chosen;  // by a retrieval, best first
    int64_t last_entries = 0;     // of the last chosen unit; 0: all
    int64_t missing_blocks = 0;   // of the chosen units that are not resident
  };
  struct LayerState {
    bool has_selection = false;
    int64_t last_retrieval = 0;      // step
    std::vector<float> previous_q;   // [num_q_heads * head_dim]
    std::vector<float> retrieval_q;  // as previous_q
  };

  bool Retrieves(const LayerQueries& queries) const;
  Result<void> DecodeView(Context& cx, SequenceCache& cache, const LayerQueries& queries);
  RetrievalMoment Look(Context& cx, const SequenceCache& cache, const LayerQueries& queries);
  void Decide(Context& cx, SequenceCache& cache, const LayerQueries& queries);
  Result<void> ReadAhead(SequenceCache& cache, int layer);
  void SwapRehearsed();
  bool NeedsRanks() const;
  void ViewSelection(Context& cx, SequenceCache& cache, int layer);
  void ViewHead(SequenceCache& cache, int layer, int head);
  Result<void> AskOracle(Context& cx, SequenceCache& cache, const LayerQueries& queries);
  bool LacksWhatFits(const SequenceCache& cache, int layer) const;
  void ScoreHeads(Context& cx, const SequenceCache& cache, const LayerQueries& queries);
  template <class Body>
  void ForHeads(Context& cx, const SequenceCache& cache, int layer, const Body& body) const;
  void RankHead(const SequenceCache& cache, int layer, int head);
  void StampBest(SequenceCache& cache, int layer);
  Result<void> Retrieve(SequenceCache& cache, int layer);
  std::vector<SequenceCache::UnitRef> MissingUnits(const SequenceCache& cache, int layer) const;
  int64_t BookCopies(const SequenceCache& cache, int layer, std::span<const SequenceCache::UnitRef> units);
  void ChooseHead(const SequenceCache& cache, int layer, int head);
  void StampChosen(SequenceCache& cache, int layer);
  Result<void> FitLayer(SequenceCache& cache, int layer);
  int64_t TrimPools(SequenceCache& cache, int layer);
  int64_t DropIdle(SequenceCache& cache, int layer, std::pair<int, int> heads, int64_t num_blocks);
  int64_t GiveUpOne(SequenceCache& cache, int layer, int head);
  void Select(int layer, int head);
  void ChooseAttended(SequenceCache& cache, int layer, int head, UnitSelection& selection);
  Result<void> StartGuesses(Context& cx, SequenceCache& cache, const LayerQueries& queries);
  void BookPass(SequenceCache& cache);
  UnitSelection& SelectionOf(int layer, int head) {
    return selections_[static_cast<size_t>(int64_t{layer} * num_kv_heads_ + head)];
  }

  std::shared_ptr<const Recipe> recipe_;
  UnitMaker unit_maker_;
  int num_kv_heads_;
  int head_dim_;
  PassInfo pass_;
  std::vector<LayerState> layers_;
  std::vector<UnitSelection> selections_;  // [num_layers][num_kv_heads]
  std::vector<HeadStep> heads_;            // [num_kv_heads], of the layer under way
  bool is_retrieving_ = false;             // the layer under way
  bool brings_ = false;                    // as is_retrieving_, also where the trigger did not fire
  std::vector<HeadStep> next_heads_;       // heads_, is_retrieving_ and brings_ of the next layer's rehearsal
  bool next_is_retrieving_ = false, next_brings_ = false;
  int decided_layer_ = -1;  // by its rehearsal; -1: none
  Clock::time_point attention_start_;
  RetrievalStats stats_;
  bool is_tracing_ = false;
  bool keeps_queries_ = false;  // in the trace
  std::vector<RetrievalTraceLine> trace_;
};

}  // namespace cachette
