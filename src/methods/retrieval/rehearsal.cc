// RetrievalRun a layer ahead: a layer's choice is rehearsed with the queries that it would have if the layer before it
// added nothing to the residual stream, and what it would bring in is read while that layer computes. Residual streams
// of neighbouring layers are alike, hence so are the choices (InfiniGen, arXiv:2406.19707; as an option ArkVale,
// NeurIPS 2024, from any layer before).
//
// fetch reads ahead and nothing more: the layer's own query decides and chooses as it does without. What it wants is
// there already or is read at once, the rest leaves; units and pool are those of a run without. Only room that is free
// is used.
//
// select lets the rehearsal decide, as in InfiniGen, and idle units leave for what it chose; the layer's own query is
// not looked at, so nothing is waited for but these reads. The first layer has no rehearsal and chooses for itself.
//
// Deviation from InfiniGen: whole queries, trigger, units and index are the recipe's, instead of a part of the skewed
// query's columns, every token, and all entries within alpha of the best.

#include <algorithm>
#include <utility>

#include "methods/retrieval/retrieval_run.h"

namespace cachette {

bool RetrievalRun::WantsNextQueries(const SequenceCache& cache, const LayerQueries& next) const {
  return recipe_->parts().retrieval->working_set->ahead != "none" && Retrieves(next) &&
         cache.units(next.layer, 0).num_units() > 0;
}

Result<void> RetrievalRun::NextQueries(Context& cx, SequenceCache& cache, const LayerQueries& next) {
  const Clock::time_point start = Clock::now();
  const double recall_before = stats_.recall_seconds;
  const bool is_final = recipe_->parts().retrieval->working_set->ahead == "select";
  SwapRehearsed();  // the layer under way still needs its own
  if (is_final) {
    Decide(cx, cache, next);
    if (brings_) TrimPools(cache, next.layer);
    decided_layer_ = next.layer;
  } else {
    Look(cx, cache, next);
    for (int head = 0; brings_ && head < num_kv_heads_; ++head) ChooseHead(cache, next.layer, head);
  }
  if (brings_) CACHETTE_TRY(ReadAhead(cache, next.layer));
  SwapRehearsed();
  attention_start_ = Clock::now();
  stats_.select_seconds += SecondsBetween(start, attention_start_) - (stats_.recall_seconds - recall_before);
  return Ok();
}

Result<void> RetrievalRun::ReadAhead(SequenceCache& cache, int layer) {
  const std::vector<SequenceCache::UnitRef> missing = MissingUnits(cache, layer);
  const Clock::time_point start = Clock::now();
  CACHETTE_TRY(const int64_t num_ahead, cache.ReadAhead(layer, missing));
  stats_.recall_seconds += SecondsSince(start);
  stats_.entries_ahead += BookCopies(cache, layer, std::span(missing).first(static_cast<size_t>(num_ahead)));
  return Ok();
}

void RetrievalRun::SwapRehearsed() {
  heads_.swap(next_heads_);
  std::swap(is_retrieving_, next_is_retrieving_);
  std::swap(brings_, next_brings_);
}

}  // namespace cachette
