#pragma once
// The kinds of part a recipe is made of. A part has one duty, declares its options once, and knows neither the model
// nor the other parts; the recipe runner (recipe_run.h) connects them. Parts are immutable once prepared: what a
// sequence accumulates lives in its cache's score slots and in the runner.

#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/options.h"
#include "base/result.h"
#include "cache/layer_observer.h"
#include "cache/pass.h"
#include "cache/sequence_cache.h"

namespace cachette {

// Half-open range of ranks: rank 0 is the oldest of the entries under consideration.
struct RankRange {
  int64_t begin = 0;
  int64_t end = 0;
};

// What all kinds share.
class Part {
 public:
  virtual ~Part() = default;
  virtual const char* name() const = 0;
  // Declares every option; called with the values in force.
  virtual void VisitOptions(OptionVisitor&) {}
  // Checks options and loads files they name, once the cache's shape is known.
  virtual Result<void> Prepare(const CacheShape&) { return Ok(); }
};

// The moment a trigger is asked about.
struct Moment {
  PassInfo pass;
  int64_t num_decoded = 0;  // tokens decoded since the last prefill, this pass included
};

// When do we act?
class Trigger : public Part {
 public:
  // Before a pass, when only older entries are in the cache.
  virtual bool FiresBefore(const PassInfo&) const { return false; }
  // After each layer's attention of a pass.
  virtual bool FiresAfter(const Moment&) const { return false; }
  // Last prompt tokens appended to every prefill chunk but the last as transient rows, to be scored with.
  virtual int64_t num_patch_tokens() const { return 0; }
  // Do the entries of one prefill chunk compete among themselves, rather than those of the whole prompt?
  virtual bool acts_per_chunk() const { return false; }
  virtual bool acts_in_decode() const { return false; }
};

// What may never go? Ranges of ranks, in order and disjoint, among num_entries competing entries of a KV head of which
// num_kept stay.
class Protect : public Part {
 public:
  virtual void Ranges(int64_t num_entries, int64_t num_kept, std::vector<RankRange>& out) const = 0;
  // Entries it protects whatever the budget is: a smaller budget is refused.
  virtual int64_t least_entries() const = 0;
};

// A layer's entries compete for the places that the recipe's budget leaves.
struct LayerContest {
  int layer = 0;
  int num_layers = 0;
  int64_t num_places = 0;  // per KV head on average
  int64_t num_window = 0;  // of them, for recent entries that are kept anyway
  // Tokens that the contest is about, those evicted earlier included: before the window, and in all, transient ones
  // too.
  int64_t num_tokens_before_window = 0;
  int64_t num_tokens = 0;
  // [num_kv_heads], one score per competing entry, oldest first; +infinity where protected. Empty without a scorer.
  std::span<const std::vector<float>> scores = {};
};

// How many entries may each KV head keep?
class Allocator : public Part {
 public:
  static constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();
  // Fills num_kept [num_kv_heads], protected entries included; at most as many as a head has, or kUnlimited.
  virtual void Share(const LayerContest& contest, std::span<int64_t> num_kept) const = 0;
};

// What a scorer looks at: the competing entries of a layer's KV heads and the last queries.
struct LayerView {
  const SequenceCache& cache;
  int layer = 0;
  std::span<const std::vector<int64_t>> slots;  // [num_kv_heads], live competing slots, oldest first
  LayerQueries queries;                         // its rows are the last queries, transient ones included
  std::span<const int32_t> positions;           // [queries.num_rows]
};

// How useful is each entry?
class Scorer : public Part {
 public:
  // Last queries it wants to see, across passes.
  virtual int64_t query_window() const { return 0; }
  // Are the entries of those queries kept whatever their score?
  virtual bool keeps_query_window() const { return true; }
  // Does every entry carry a running score (HeadStream::scores)?
  virtual bool has_running_score() const { return false; }
  // Updates running scores after each layer's attention.
  virtual void Accumulate(Context&, SequenceCache&, const LayerQueries&) const {}
  // Fills scores [num_kv_heads], one per competing entry, higher = keep.
  virtual void Score(Context& cx, const LayerView& view, std::span<std::vector<float>> scores) const = 0;
};

// Who stays, given scores and numbers?
class Select : public Part {
 public:
  // The losing ranks, sorted and disjoint. scores and positions [num_entries].
  virtual std::vector<RankRange> Losers(std::span<const float> scores, std::span<const int32_t> positions,
                                        int64_t num_kept, std::span<const RankRange> protected_ranges) const = 0;
  // Consecutive layers that share the choice of the first of them.
  virtual int64_t layers_per_choice() const { return 1; }
};

// What happens to the losers, the live entries in sorted disjoint ranges of slots?
class Fate : public Part {
 public:
  virtual void Apply(SequenceCache& cache, int layer, int kv_head, std::span<const SlotRange> losers,
                     EvictTime time) const = 0;
};

}  // namespace cachette
