#pragma once
// A recipe at work on one sequence: asks the trigger, lets the scorer look, shares out the places, evicts, and encodes
// what stays.

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cache/layer_observer.h"
#include "methods/recipe.h"
#include "methods/retrieval/retrieval_run.h"

namespace cachette {

class RecipeRun final : public LayerObserver {
 public:
  RecipeRun(std::shared_ptr<const Recipe> recipe, const CacheShape& shape);

  // Opens a pass: evicts what the recipe drops before it, and remembers it for AfterAttention.
  void BeforePass(Context& cx, SequenceCache& cache, const PassInfo& pass);

  // A recipe that retrieves chooses what attention reads.
  Result<void> BeforeAttention(Context& cx, SequenceCache& cache, const LayerQueries& queries) override;
  bool WantsNextQueries(const SequenceCache& cache, const LayerQueries& next) const override;
  Result<void> NextQueries(Context& cx, SequenceCache& cache, const LayerQueries& next) override;

  // Observes and, when the trigger fires, evicts from the layer; takes its transient entries back in any case. With a
  // codec, encodes the layer's older entries once the recipe has had its say on them.
  Result<void> AfterAttention(Context& cx, SequenceCache& cache, const LayerQueries& queries) override;

  const Recipe& recipe() const { return *recipe_; }
  // Null unless the recipe retrieves.
  RetrievalRun* retrieval() { return retrieval_.has_value() ? &*retrieval_ : nullptr; }
  const RetrievalRun* retrieval() const { return retrieval_.has_value() ? &*retrieval_ : nullptr; }
  // Does AfterAttention have anything to do? If not, the forward pass need not call it.
  bool observes() const;

 private:
  // The last queries of one layer, across passes.
  struct QueryRing {
    std::vector<float> q;            // [rows][q_stride], oldest first
    std::vector<int32_t> positions;  // [rows]
  };

  // One layer's eviction on its way.
  struct Contest {
    std::vector<std::vector<int64_t>> slots;  // [num_kv_heads], live competing slots
    std::vector<std::vector<float>> scores;   // as slots; empty without a scorer
    int64_t num_tokens = 0;                   // that the places are for, those evicted earlier included
    int64_t num_places = 0;                   // per KV head on average
    // Entries from here on are kept by rule, the newest num_window of them if there are more.
    int32_t window_position = std::numeric_limits<int32_t>::max();
    int64_t num_window = 0;
    int64_t num_tokens_before_window = 0;
  };

  Result<void> EvictAfter(Context& cx, SequenceCache& cache, const LayerQueries& queries);
  bool MayEncode() const;
  void Remember(const LayerQueries& queries);
  Result<void> CheckPlain(const SequenceCache& cache, int layer, const Contest& contest) const;
  Contest OpenContest(const SequenceCache& cache, int layer) const;
  void Score(Context& cx, const SequenceCache& cache, const LayerQueries& queries, Contest& contest);
  void Settle(SequenceCache& cache, int layer, Contest& contest, EvictTime time);
  bool Follows(int layer, const Contest& contest) const;
  void Evict(SequenceCache& cache, int layer, const Contest& contest, EvictTime time) const;
  std::vector<int64_t> NumKept(int layer, const Contest& contest) const;

  std::shared_ptr<const Recipe> recipe_;
  std::optional<RetrievalRun> retrieval_;
  int num_layers_;
  Moment moment_;
  int64_t prompt_begin_ = 0;                     // first token of the prompt that is, or was last, prefilled
  bool is_in_prompt_ = false;                    // between the chunks of a prompt
  std::vector<QueryRing> rings_;                 // [num_layers]
  std::vector<int64_t> kept_of_prompt_;          // [num_layers][num_kv_heads] live entries when the last prompt was in
  std::vector<std::vector<RankRange>> choices_;  // [num_kv_heads] losers of the last layer that chose for itself
  std::vector<size_t> choice_sizes_;             // [num_kv_heads] entries that competed there
};

}  // namespace cachette
