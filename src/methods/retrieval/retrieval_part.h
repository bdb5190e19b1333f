#pragma once
// The kinds of part a retrieval recipe is made of: what is retrieved together, how it is found again, and when. Nothing
// is lost: entries rest in the slow tier, and attention reads those of a working set.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "methods/choice.h"
#include "methods/part.h"
#include "ops/retrieval/unit_scores.h"

namespace cachette {

// Keys of one KV head that become units together.
struct KeyGroup {
  const float* keys = nullptr;  // [num_keys][head_dim]
  int64_t num_keys = 0;
  std::vector<int32_t> labels;  // [num_keys], to be filled: the unit of each key, 0, 1, ... in any order
};

// The oldest entries of a stream that are neither sinks nor in the recent window.
struct AgedEntries {
  int64_t first_position = 0;
  int64_t num_entries = 0;
  // Positions at which the layer's trigger fired, ascending: each begins a segment.
  std::span<const int32_t> boundaries;
};

// Which entries are retrieved together?
class UnitBuilder : public Part {
 public:
  // Prompt entries that are grouped together, a multiple of a page; 0: the whole prompt, at its end.
  virtual int64_t prompt_window() const = 0;
  // How many of the oldest aged entries of the output become units now; 0: none yet.
  virtual int64_t NumToClose(const AgedEntries& aged) const = 0;
  // The most aged entries that NumToClose may leave open.
  virtual int64_t most_open_entries() const = 0;
  // The most entries of a unit; 0: no limit of its own, units that are longer than the budget's blocks are cut.
  virtual int64_t longest_unit() const = 0;
  // The most blocks that units of so many entries take beyond full ones.
  virtual int64_t most_padding_blocks(int64_t /*num_entries*/) const { return 0; }
  // Entries of a unit when it is a run of neighbours, a multiple of a page or (of the output) all that close together;
  // 0: Group decides.
  virtual int64_t run_entries() const { return 0; }
  virtual void Group(Context&, std::span<KeyGroup>, int /*head_dim*/) const {}
};

// What of a unit stays in the fast tier, and how is it scored against a query?
class UnitIndex : public Part {
 public:
  virtual ops::UnitBound bound() const = 0;
  virtual ops::GroupReduce reduce() const = 0;
  // keys [num_keys][head_dim] -> first [head_dim], second [head_dim] (kBox only).
  virtual void Summarise(const float* keys, int64_t num_keys, int head_dim, float* first, float* second) const = 0;
};

// What a trigger is asked about: one layer at one decode step, never the first one after a prompt.
struct RetrievalMoment {
  int layer = 0;
  int64_t steps_since = 0;    // decode steps since the layer's last retrieval
  float cosine_previous = 1;  // mean over query heads of cos(q, the previous token's q)
  float cosine_last = 1;      // the same with q of the layer's last retrieval
  float coverage = 1;         // weight of the resident units over that of the best units within the budget
};

// When is the working set chosen anew?
class RetrievalTrigger : public Part {
 public:
  virtual bool Fires(const RetrievalMoment& moment) const = 0;
  virtual bool needs_cosines() const { return false; }
  virtual bool needs_coverage() const { return false; }
};

}  // namespace cachette
