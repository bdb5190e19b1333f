#include "methods/retrieval/retrieval_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "methods/retrieval/mean_cosine.h"
#include "methods/retrieval/next_guesses.h"
#include "methods/retrieval/oracle_hits.h"
#include "methods/retrieval/resident_room.h"
#include "ops/retrieval/best_units.h"

namespace cachette {

RetrievalRun::RetrievalRun(std::shared_ptr<const Recipe> recipe, const CacheShape& shape)
    : recipe_(std::move(recipe)),
      unit_maker_(recipe_, shape.num_layers),
      num_kv_heads_(shape.num_kv_heads),
      head_dim_(shape.format.head_dim) {
  layers_.resize(static_cast<size_t>(shape.num_layers));
  selections_.resize(static_cast<size_t>(int64_t{shape.num_layers} * num_kv_heads_));
  heads_.resize(static_cast<size_t>(num_kv_heads_));
  next_heads_.resize(heads_.size());
  stats_.num_kv_heads = num_kv_heads_;
}

void RetrievalRun::BeforePass(SequenceCache& cache, const PassInfo& pass) {
  pass_ = pass;
  decided_layer_ = -1;
  if (pass.phase == Phase::kDecode) ++stats_.num_steps;
  MakeRoom(cache, cache.BytesForPass(pass));
}

void RetrievalRun::MakeRoom(SequenceCache& cache, size_t num_bytes) {
  cachette::MakeRoom(cache, pass_, num_bytes, selections_);
}

// A layer whose own window bounds its cache already keeps its entries.
bool RetrievalRun::Retrieves(const LayerQueries& queries) const {
  return queries.layer >= recipe_->parts().retrieval->working_set->dense_layers && queries.attention_window == 0;
}

Result<void> RetrievalRun::BeforeAttention(Context& cx, SequenceCache& cache, const LayerQueries& queries) {
  if (!Retrieves(queries)) return Ok();
  if (pass_.phase == Phase::kDecode) {
    const Clock::time_point start = Clock::now();
    const double recall_before = stats_.recall_seconds;
    CACHETTE_TRY(DecodeView(cx, cache, queries));
    attention_start_ = Clock::now();
    stats_.select_seconds += SecondsBetween(start, attention_start_) - (stats_.recall_seconds - recall_before);
    return Ok();
  }
  if (cache.units(queries.layer, 0).num_entries() == 0) return Ok();
  MakeRoom(cache, cache.BytesToStage(queries.layer));
  cache.BeginView(queries.layer, recipe_->num_sink_blocks());
  CACHETTE_TRY(cache.ViewEverything(queries.layer));
  cache.SealView();
  return Ok();
}

Result<void> RetrievalRun::AfterAttention(Context& cx, SequenceCache& cache, const LayerQueries& queries) {
  const bool is_last_layer = queries.layer + 1 == static_cast<int>(layers_.size());
  if (!Retrieves(queries)) {
    if (is_last_layer) BookPass(cache);
    return Ok();
  }
  const Clock::time_point start = Clock::now();
  if (pass_.phase == Phase::kDecode) {
    if (cache.has_view(queries.layer)) {
      stats_.attention_seconds += SecondsBetween(attention_start_, start);
      if (recipe_->parts().retrieval->working_set->asks_oracle) CACHETTE_TRY(AskOracle(cx, cache, queries));
    }
    if (is_retrieving_ && recipe_->parts().retrieval->working_set->next_keys > 0)
      CACHETTE_TRY(StartGuesses(cx, cache, queries));
    is_retrieving_ = false;
    cache.EndView();
    CACHETTE_TRY(const int64_t num_made, unit_maker_.TakeOutput(cx, cache, queries.layer));
    stats_.units_made += num_made;
    stats_.close_seconds += SecondsSince(start);
  } else {
    cache.EndView();
    CACHETTE_TRY(const int64_t num_made, unit_maker_.TakePrompt(cx, cache, queries.layer, pass_.is_last_prefill_chunk));
    stats_.units_made += num_made;
    // What follows is another text.
    if (pass_.is_last_prefill_chunk) layers_[static_cast<size_t>(queries.layer)].has_selection = false;
    stats_.build_seconds += SecondsSince(start);
  }
  if (is_last_layer) BookPass(cache);
  return Ok();
}

void RetrievalRun::BookPass(SequenceCache& cache) {
  cache.BookHeld();
  int64_t resident = 0;
  for (int layer = 0; layer < static_cast<int>(layers_.size()); ++layer)
    for (int head = 0; head < num_kv_heads_; ++head)
      resident += cache.units(layer, head).resident_blocks() + static_cast<int64_t>(cache.guesses(layer, head).size());
  stats_.resident_peak_bytes =
      std::max(stats_.resident_peak_bytes, resident * static_cast<int64_t>(cache.shape().format.block_bytes()));
}

// ---- decode ----------------------------------------------------------------------------------------------------

Result<void> RetrievalRun::DecodeView(Context& cx, SequenceCache& cache, const LayerQueries& queries) {
  const int layer = queries.layer;
  cache.OpenRecall(layer);
  if (cache.units(layer, 0).num_units() == 0) return Ok();  // the stream holds everything
  LayerState& state = layers_[static_cast<size_t>(layer)];
  ++stats_.num_layer_steps;
  if (recipe_->parts().retrieval->working_set->next_keys > 0) {
    const Clock::time_point start = Clock::now();
    CACHETTE_TRY(cache.SettleGuesses(layer));
    stats_.recall_seconds += SecondsSince(start);
  }
  if (decided_layer_ == layer)
    SwapRehearsed();
  else
    Decide(cx, cache, queries);
  decided_layer_ = -1;
  if (brings_)
    CACHETTE_TRY(Retrieve(cache, layer));
  else
    cache.DropAhead();
  if (is_retrieving_) {
    state.has_selection = true;
    state.last_retrieval = pass_.first_token;
    unit_maker_.AddBoundary(layer, pass_.first_token);
    stats_.num_retrievals += 1;
  }
  ViewSelection(cx, cache, layer);
  return Ok();
}

bool RetrievalRun::NeedsRanks() const {
  const RetrievalParts& parts = *recipe_->parts().retrieval;
  return (*parts.trigger)->needs_coverage() || parts.working_set->attend == "best";
}

// What the trigger says to these queries: whether units are to come, which are ranked then.
RetrievalMoment RetrievalRun::Look(Context& cx, const SequenceCache& cache, const LayerQueries& queries) {
  const RetrievalTrigger& trigger = **recipe_->parts().retrieval->trigger;
  const LayerState& state = layers_[static_cast<size_t>(queries.layer)];
  RetrievalMoment moment{.layer = queries.layer, .steps_since = pass_.first_token - state.last_retrieval};
  const int num_q_heads = num_kv_heads_ * queries.group_size;
  if (trigger.needs_cosines() || is_tracing_) {
    if (!state.previous_q.empty())
      moment.cosine_previous = MeanCosine(queries.q, state.previous_q.data(), num_q_heads, head_dim_);
    if (!state.retrieval_q.empty())
      moment.cosine_last = MeanCosine(queries.q, state.retrieval_q.data(), num_q_heads, head_dim_);
  }
  const bool is_ranked = NeedsRanks() || is_tracing_;  // a trace looks on, and changes nothing
  if (is_ranked) {
    ScoreHeads(cx, cache, queries);
    double resident = 0, best = 0;
    for (const HeadStep& head : heads_) {
      resident += head.resident_weight;
      best += head.best_weight;
    }
    moment.coverage = best > 0 ? static_cast<float>(resident / best) : 1.0f;
  }
  is_retrieving_ = !state.has_selection || trigger.Fires(moment);
  brings_ = is_retrieving_ || LacksWhatFits(cache, queries.layer);
  if (brings_ && !is_ranked) ScoreHeads(cx, cache, queries);
  return moment;
}

// The layer's decision at this step, by these queries, and what is remembered of it.
void RetrievalRun::Decide(Context& cx, SequenceCache& cache, const LayerQueries& queries) {
  const RetrievalMoment moment = Look(cx, cache, queries);
  LayerState& state = layers_[static_cast<size_t>(queries.layer)];
  if ((*recipe_->parts().retrieval->trigger)->needs_cosines() || is_tracing_) {
    state.previous_q.assign(queries.q, queries.q + num_kv_heads_ * queries.group_size * head_dim_);
    if (is_retrieving_) state.retrieval_q = state.previous_q;
  }
  if (is_tracing_) {
    trace_.push_back({.step = pass_.first_token,
                      .layer = queries.layer,
                      .cosine_previous = moment.cosine_previous,
                      .cosine_last = moment.cosine_last,
                      .coverage = moment.coverage,
                      .is_retrieval = is_retrieving_,
                      .recalled = {},
                      .queries = keeps_queries_ ? state.previous_q : std::vector<float>()});
  }
  if (brings_ || NeedsRanks()) StampBest(cache, queries.layer);
  if (!brings_) return;
  for (int head = 0; head < num_kv_heads_; ++head) ChooseHead(cache, queries.layer, head);
  StampChosen(cache, queries.layer);
}

void RetrievalRun::ViewSelection(Context& cx, SequenceCache& cache, int layer) {
  cache.BeginView(layer, recipe_->num_sink_blocks());
  ForHeads(cx, cache, layer, [&](int64_t head) { ViewHead(cache, layer, static_cast<int>(head)); });
  cache.SealView();
}

// Looks at everything for a moment, then at the selection again.
Result<void> RetrievalRun::AskOracle(Context& cx, SequenceCache& cache, const LayerQueries& queries) {
  cache.EndView();
  CACHETTE_TRY(const OracleHits hits,
               CountOracleHits(cx, cache, queries, recipe_->num_sink_blocks(),
                               {&SelectionOf(queries.layer, 0), static_cast<size_t>(num_kv_heads_)}));
  stats_.oracle_read += hits.num_read;
  stats_.oracle_hits += hits.num_hits;
  ViewSelection(cx, cache, queries.layer);
  return Ok();
}

// Where everything fits into the budget nothing is ever out of sight, not even what became a unit since the trigger
// last fired.
bool RetrievalRun::LacksWhatFits(const SequenceCache& cache, int layer) const {
  const double budget = static_cast<double>(recipe_->options().budget);
  const double most = recipe_->parts().retrieval->working_set->selected * budget;
  bool lacks = false;
  for (int head = 0; head < num_kv_heads_; ++head) {
    const UnitTable& table = cache.units(layer, head);
    if (static_cast<double>(table.num_entries()) > most) return false;
    lacks = lacks || static_cast<int64_t>(table.residents().size()) < table.num_units();
  }
  return lacks;
}

void RetrievalRun::ViewHead(SequenceCache& cache, int layer, int head) {
  const WorkingSet& working_set = *recipe_->parts().retrieval->working_set;
  UnitSelection& selection = SelectionOf(layer, head);
  if (working_set.attend != "selection") ChooseAttended(cache, layer, head, selection);
  for (const int32_t unit_idx : selection.units) cache.ViewResident(layer, head, unit_idx);
  if (selection.last_entries > 0) {  // only a part of the last unit
    AttentionView& view = cache.view(head);
    const int64_t num_blocks = cache.units(layer, head).unit(selection.units.back()).num_blocks;
    for (int64_t b = 0; b < num_blocks; ++b)
      view.live_masks[view.live_masks.size() - static_cast<size_t>(num_blocks - b)] =
          UnitBlockMask(selection.last_entries, b);
  }
  if (working_set.next_keys > 0) ViewGuesses(cache, layer, head, selection);
}

// Weights of all units of all KV heads, and the best of them within the budget.
void RetrievalRun::ScoreHeads(Context& cx, const SequenceCache& cache, const LayerQueries& queries) {
  const RetrievalParts& parts = *recipe_->parts().retrieval;
  const UnitIndex& index = **parts.index;
  // Shares of weight need weights that are shares.
  const bool needs_shares = (*parts.trigger)->needs_coverage() || parts.working_set->until < 1.0;
  std::vector<ops::UnitScoreRow> rows;
  for (int head = 0; head < num_kv_heads_; ++head) {
    const UnitTable& table = cache.units(queries.layer, head);
    HeadStep& step = heads_[static_cast<size_t>(head)];
    step.weights.resize(static_cast<size_t>((table.num_units() + 15) / 16 * 16));
    rows.push_back({.index = table.index(),
                    .num_units = table.num_units(),
                    .q = queries.q + static_cast<int64_t>(head) * queries.group_size * head_dim_,
                    .weights = step.weights.data()});
  }
  ops::ScoreUnits(cx, {.rows = rows,
                       .bound = index.bound(),
                       .reduce = needs_shares ? ops::GroupReduce::kMeanSoftmax : index.reduce(),
                       .group_size = queries.group_size,
                       .head_dim = head_dim_,
                       .scale = queries.scale,
                       .softcap = queries.softcap});
  ForHeads(cx, cache, queries.layer, [&](int64_t head) { RankHead(cache, queries.layer, static_cast<int>(head)); });
}

// Spread over threads where there is enough to do for a hand-over.
template <class Body>
void RetrievalRun::ForHeads(Context& cx, const SequenceCache& cache, int layer, const Body& body) const {
  constexpr int64_t kMinUnits = 256;
  if (cache.units(layer, 0).num_units() >= kMinUnits) return cx.ParallelFor(num_kv_heads_, body);
  for (int64_t head = 0; head < num_kv_heads_; ++head) body(head);
}

void RetrievalRun::RankHead(const SequenceCache& cache, int layer, int head) {
  const UnitTable& table = cache.units(layer, head);
  HeadStep& step = heads_[static_cast<size_t>(head)];
  const std::span weights = std::span(step.weights).first(static_cast<size_t>(table.num_units()));
  step.best_weight = ops::TakeBestUnits(weights, table.unit_sizes(), 0, recipe_->options().budget, step.best);
  step.resident_weight = 0;
  for (const int32_t unit_idx : table.residents()) step.resident_weight += weights[static_cast<size_t>(unit_idx)];
}

// Resident units that are among the best are of use now.
void RetrievalRun::StampBest(SequenceCache& cache, int layer) {
  for (int head = 0; head < num_kv_heads_; ++head) {
    UnitTable& table = cache.units(layer, head);
    for (const int32_t unit_idx : heads_[static_cast<size_t>(head)].best)
      if (table.IsResident(unit_idx)) table.last_used(unit_idx) = pass_.first_token;
  }
}

// The chosen units that are not resident.
std::vector<SequenceCache::UnitRef> RetrievalRun::MissingUnits(const SequenceCache& cache, int layer) const {
  std::vector<SequenceCache::UnitRef> missing;
  for (int head = 0; head < num_kv_heads_; ++head)
    for (const int32_t unit_idx : heads_[static_cast<size_t>(head)].chosen)
      if (!cache.units(layer, head).IsResident(unit_idx)) missing.push_back({head, unit_idx});
  return missing;
}

// Units begin to be copied. Returns their entries.
int64_t RetrievalRun::BookCopies(const SequenceCache& cache, int layer, std::span<const SequenceCache::UnitRef> units) {
  int64_t num_entries = 0, num_blocks = 0;
  for (const SequenceCache::UnitRef& ref : units) {
    num_entries += cache.units(layer, ref.kv_head).unit(ref.unit_idx).num_entries;
    num_blocks += cache.units(layer, ref.kv_head).unit(ref.unit_idx).num_blocks;
  }
  stats_.entries_recalled += num_entries;
  if (!layers_[static_cast<size_t>(layer)].has_selection) stats_.entries_first_filled += num_entries;
  stats_.bytes_recalled += num_blocks * static_cast<int64_t>(cache.shape().format.block_bytes());
  return num_entries;
}

// Brings in what was chosen.
Result<void> RetrievalRun::Retrieve(SequenceCache& cache, int layer) {
  CACHETTE_TRY(FitLayer(cache, layer));
  const std::vector<SequenceCache::UnitRef> missing = MissingUnits(cache, layer);
  std::vector<SequenceCache::UnitRef> to_read;  // the others were read ahead
  for (int head = 0; head < num_kv_heads_; ++head)
    for (const int32_t unit_idx : heads_[static_cast<size_t>(head)].chosen) {
      const int64_t size = cache.units(layer, head).unit(unit_idx).num_entries;
      stats_.entries_selected += size;
      if (cache.units(layer, head).IsResident(unit_idx))
        stats_.entries_reused += size;
      else if (cache.IsAhead(layer, {head, unit_idx}))
        stats_.entries_ahead_used += size;
      else
        to_read.push_back({head, unit_idx});
    }
  BookCopies(cache, layer, to_read);
  stats_.units_recalled += static_cast<int64_t>(missing.size());
  const Clock::time_point start = Clock::now();
  CACHETTE_TRY(cache.Recall(layer, missing));
  stats_.recall_seconds += SecondsSince(start);
  if (recipe_->parts().retrieval->working_set->attend == "selection")
    for (int head = 0; head < num_kv_heads_; ++head) Select(layer, head);
  if (is_tracing_) {
    trace_.back().recalled.resize(static_cast<size_t>(num_kv_heads_));
    for (const SequenceCache::UnitRef& ref : missing)
      trace_.back().recalled[static_cast<size_t>(ref.kv_head)].push_back(
          cache.units(layer, ref.kv_head).positions(ref.unit_idx).front());
  }
  return Ok();
}

// The best units of a KV head until the budget is used up, or enough is covered.
void RetrievalRun::ChooseHead(const SequenceCache& cache, int layer, int head) {
  const WorkingSet& working_set = *recipe_->parts().retrieval->working_set;
  const int64_t budget = recipe_->options().budget;
  const UnitTable& table = cache.units(layer, head);
  HeadStep& step = heads_[static_cast<size_t>(head)];
  if (working_set.cuts_last) {
    const std::span weights = std::span(step.weights).first(static_cast<size_t>(table.num_units()));
    const std::span<const int32_t> sizes = table.unit_sizes();
    ops::TakeBestUnits(weights, sizes, 0, budget + *std::max_element(sizes.begin(), sizes.end()), step.best);
  }
  const int64_t wanted = std::max<int64_t>(1, std::llround(working_set.selected * static_cast<double>(budget)));
  // Where all units fit into the budget, nothing is gained by leaving some out.
  const bool is_partial = working_set.until < 1.0 && static_cast<int64_t>(step.best.size()) < table.num_units();
  step.chosen.clear();
  step.last_entries = 0;
  step.missing_blocks = 0;
  int64_t num_entries = 0;
  double resident_weight = step.resident_weight;
  for (const int32_t unit_idx : step.best) {
    const Unit& unit = table.unit(unit_idx);
    if (working_set.cuts_last ? num_entries >= wanted : num_entries > 0 && num_entries + unit.num_entries > wanted)
      break;
    if (is_partial && resident_weight >= working_set.until * step.best_weight) break;
    step.chosen.push_back(unit_idx);
    if (working_set.cuts_last && num_entries + unit.num_entries > wanted) step.last_entries = wanted - num_entries;
    num_entries += unit.num_entries;
    if (table.IsResident(unit_idx)) continue;
    step.missing_blocks += unit.num_blocks;
    resident_weight += step.weights[static_cast<size_t>(unit_idx)];
  }
}

void RetrievalRun::StampChosen(SequenceCache& cache, int layer) {
  for (int head = 0; head < num_kv_heads_; ++head)
    for (const int32_t unit_idx : heads_[static_cast<size_t>(head)].chosen)
      cache.units(layer, head).last_used(unit_idx) = pass_.first_token;
}

// Idle units leave where a KV head's pool is full. Returns the blocks that are to come.
int64_t RetrievalRun::TrimPools(SequenceCache& cache, int layer) {
  int64_t missing_blocks = 0;
  for (int head = 0; head < num_kv_heads_; ++head) {
    const int64_t incoming = heads_[static_cast<size_t>(head)].missing_blocks;
    missing_blocks += incoming;
    DropIdle(cache, layer, {head, head + 1},
             cache.units(layer, head).resident_blocks() + incoming - recipe_->pool_blocks());
  }
  return missing_blocks;
}

// Makes room for the chosen units: idle ones leave where a KV head's pool is full, and further ones of the layer where
// the tier is. What does not fit even then is given up, but never of what a KV head was promised.
Result<void> RetrievalRun::FitLayer(SequenceCache& cache, int layer) {
  const int64_t missing_blocks = TrimPools(cache, layer);
  const int64_t ahead_blocks = cache.ahead().layer == layer ? cache.ahead().num_blocks : 0;
  const size_t needed_bytes =
      static_cast<size_t>(std::max<int64_t>(0, missing_blocks - ahead_blocks)) * cache.shape().format.block_bytes();
  if (LackingBlocks(cache, needed_bytes) > 0)
    for (int of_layer = 0; of_layer < cache.shape().num_layers; ++of_layer) cache.DropGuesses(of_layer);
  int64_t lacking = LackingBlocks(cache, needed_bytes);
  lacking -= DropIdle(cache, layer, {0, num_kv_heads_}, lacking);
  while (lacking > 0) {
    int fullest = 0;
    int64_t most_spare = 0;
    for (int head = 0; head < num_kv_heads_; ++head) {
      const int64_t spare = cache.units(layer, head).resident_blocks() +
                            heads_[static_cast<size_t>(head)].missing_blocks - cache.least_blocks(layer, head);
      if (spare > most_spare) fullest = head;
      most_spare = std::max(most_spare, spare);
    }
    if (most_spare == 0) return cache.tier().CheckRoom(needed_bytes);
    lacking -= GiveUpOne(cache, layer, fullest);
  }
  return Ok();
}

// Drops units that are of no use now from KV heads [begin, end), the least recently useful first, until num_blocks are
// free or none is left. Returns how many blocks it freed.
int64_t RetrievalRun::DropIdle(SequenceCache& cache, int layer, std::pair<int, int> heads, int64_t num_blocks) {
  if (num_blocks <= 0) return 0;
  std::vector<std::tuple<int64_t, int, int32_t>> idle;  // last use, KV head, unit
  for (int head = heads.first; head < heads.second; ++head) {
    UnitTable& table = cache.units(layer, head);
    for (const int32_t unit_idx : table.residents())
      if (table.last_used(unit_idx) < pass_.first_token) idle.emplace_back(table.last_used(unit_idx), head, unit_idx);
  }
  std::sort(idle.begin(), idle.end());
  int64_t num_freed = 0;
  for (const auto& [last_used, head, unit_idx] : idle) {
    if (num_freed >= num_blocks) break;
    num_freed += cache.units(layer, head).unit(unit_idx).num_blocks;
    cache.units(layer, head).DropResident(unit_idx);
  }
  return num_freed;
}

// The KV head does without the unit of least weight among those resident and chosen. Returns its blocks.
int64_t RetrievalRun::GiveUpOne(SequenceCache& cache, int layer, int head) {
  UnitTable& table = cache.units(layer, head);
  HeadStep& step = heads_[static_cast<size_t>(head)];
  int32_t least = -1;  // chosen ones are the best
  for (const int32_t unit_idx : table.residents())
    if (std::find(step.chosen.begin(), step.chosen.end(), unit_idx) == step.chosen.end() &&
        (least < 0 || step.weights[static_cast<size_t>(unit_idx)] < step.weights[static_cast<size_t>(least)]))
      least = unit_idx;
  if (least < 0) {
    least = step.chosen.back();
    step.chosen.pop_back();
    step.last_entries = 0;
    stats_.entries_left_out += table.unit(least).num_entries;
  }
  const int64_t num_blocks = table.unit(least).num_blocks;
  if (table.IsResident(least))
    table.DropResident(least);
  else
    step.missing_blocks -= num_blocks;
  return num_blocks;
}

// What was chosen, in position order, as the full cache would be read; a unit that is cut stays last.
void RetrievalRun::Select(int layer, int head) {
  HeadStep& step = heads_[static_cast<size_t>(head)];
  UnitSelection& selection = SelectionOf(layer, head);
  selection.units = step.chosen;
  selection.last_entries = step.last_entries;
  std::sort(selection.units.begin(), selection.units.end() - (step.last_entries > 0 ? 1 : 0));
}

// Resident units for attention: all, or the best within the budget.
void RetrievalRun::ChooseAttended(SequenceCache& cache, int layer, int head, UnitSelection& selection) {
  const UnitTable& table = cache.units(layer, head);
  const std::span<const int32_t> residents = table.residents();
  selection.units.assign(residents.begin(), residents.end());
  const int64_t budget = recipe_->options().budget;
  if (recipe_->parts().retrieval->working_set->attend == "best" && table.resident_entries() > budget) {
    std::vector<float> weights;
    std::vector<int32_t> sizes, chosen;
    for (const int32_t unit_idx : residents) {
      weights.push_back(heads_[static_cast<size_t>(head)].weights[static_cast<size_t>(unit_idx)]);
      sizes.push_back(table.unit(unit_idx).num_entries);
    }
    ops::TakeBestUnits(weights, sizes, 0, budget, chosen);
    selection.units.clear();
    for (const int32_t i : chosen) selection.units.push_back(residents[static_cast<size_t>(i)]);
  }
  std::sort(selection.units.begin(), selection.units.end());
}

// Starts to read what the next step is likely to want.
Result<void> RetrievalRun::StartGuesses(Context& cx, SequenceCache& cache, const LayerQueries& queries) {
  const WorkingSet& working_set = *recipe_->parts().retrieval->working_set;
  const std::vector<SequenceCache::GuessRef> guesses =
      GuessNext(cx, cache, queries,
                {.selections = {&SelectionOf(queries.layer, 0), static_cast<size_t>(num_kv_heads_)},
                 .num_sink_blocks = recipe_->num_sink_blocks(),
                 .next_keys = working_set.next_keys,
                 .next_positions = working_set.next_positions});
  CACHETTE_TRY(const SequenceCache::GuessesRead read, cache.StartGuesses(queries.layer, guesses));
  stats_.entries_recalled += read.num_entries;
  stats_.bytes_recalled += read.num_pages * static_cast<int64_t>(cache.shape().format.block_bytes());
  return Ok();
}

}  // namespace cachette
