#pragma once
// The kinds of part a recipe is made of. A part has one duty, declares its options once, and knows neither the model
// nor the other parts; the recipe runner (recipe.h) connects them.

#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/options.h"
#include "base/result.h"
#include "cache/pass.h"
#include "cache/sequence_cache.h"

namespace cachette {

// Half-open range of ranks: rank 0 is the oldest live entry of a KV head.
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

// When do we act? Asked before each pass, when only older entries are in the cache.
class Trigger : public Part {
 public:
  virtual bool FiresBefore(const PassInfo& pass) const = 0;
};

// What may never go? Ranges of ranks, in order and disjoint, of a KV head with num_live entries.
class Protect : public Part {
 public:
  virtual void Ranges(int64_t num_live, std::vector<RankRange>& out) const = 0;
};

// How many entries may a KV head hold, protected ones included?
class Allocator : public Part {
 public:
  static constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();
  virtual int64_t BudgetEntries(int layer, int kv_head) const = 0;
};

// How useful is each entry? Fills scores [num_live], higher = keep.
class Scorer : public Part {
 public:
  virtual void Score(Context& cx, const SequenceCache& cache, int layer, int kv_head,
                     std::span<float> scores) const = 0;
};

// What happens to the losers, the live entries in sorted disjoint ranges of slots?
class Fate : public Part {
 public:
  virtual void Apply(SequenceCache& cache, int layer, int kv_head, std::span<const SlotRange> losers) const = 0;
};

}  // namespace cachette
