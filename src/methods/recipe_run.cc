#include "methods/recipe_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace cachette {
namespace {

// Live slots with positions from first_position on, below end_slot.
std::vector<int64_t> CompetingSlots(const HeadStream& stream, int64_t first_position, int64_t end_slot) {
  std::vector<int64_t> slots;
  for (int64_t slot = end_slot - 1; slot >= 0; --slot) {
    if (!stream.IsLive(slot)) continue;
    if (stream.positions()[static_cast<size_t>(slot)] < first_position) break;
    slots.push_back(slot);
  }
  std::reverse(slots.begin(), slots.end());
  return slots;
}

// Sorted, disjoint union.
std::vector<RankRange> Union(std::vector<RankRange> ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const RankRange& a, const RankRange& b) { return a.begin < b.begin; });
  std::vector<RankRange> merged;
  for (const RankRange& range : ranges) {
    if (range.begin >= range.end) continue;
    if (!merged.empty() && range.begin <= merged.back().end)
      merged.back().end = std::max(merged.back().end, range.end);
    else
      merged.push_back(range);
  }
  return merged;
}

// Runs of competing entries as ranges of slots.
std::vector<SlotRange> SlotsOf(std::span<const RankRange> ranks, std::span<const int64_t> slots) {
  std::vector<SlotRange> ranges;
  for (const RankRange& range : ranks)
    ranges.push_back({slots[static_cast<size_t>(range.begin)], slots[static_cast<size_t>(range.end - 1)] + 1});
  return ranges;
}

}  // namespace

RecipeRun::RecipeRun(std::shared_ptr<const Recipe> recipe, const CacheShape& shape)
    : recipe_(std::move(recipe)), num_layers_(shape.num_layers) {
  const size_t num_streams = static_cast<size_t>(shape.num_layers) * static_cast<size_t>(shape.num_kv_heads);
  if (recipe_->retrieves()) retrieval_.emplace(recipe_, shape);
  rings_.resize(static_cast<size_t>(shape.num_layers));
  kept_of_prompt_.assign(num_streams, std::numeric_limits<int64_t>::max());
  choices_.resize(static_cast<size_t>(shape.num_kv_heads));
  choice_sizes_.resize(static_cast<size_t>(shape.num_kv_heads));
}

bool RecipeRun::observes() const {
  return recipe_->parts().scorer != nullptr || recipe_->codec().bits > 0 || retrieval_.has_value();
}

void RecipeRun::BeforePass(Context&, SequenceCache& cache, const PassInfo& pass) {
  if (pass.phase == Phase::kPrefill) {
    if (!is_in_prompt_) prompt_begin_ = pass.first_token;
    is_in_prompt_ = !pass.is_last_prefill_chunk;
    moment_.num_decoded = 0;
  } else {
    is_in_prompt_ = false;
  }
  moment_.pass = pass;
  if (retrieval_.has_value()) retrieval_->BeforePass(cache, pass);
  const Trigger* trigger = recipe_->parts().trigger.get();
  if (trigger == nullptr || !trigger->FiresBefore(pass)) return;
  for (int layer = 0; layer < num_layers_; ++layer) {
    Contest contest;
    for (int head = 0; head < cache.shape().num_kv_heads; ++head) {
      const HeadStream& stream = cache.stream(layer, head);
      contest.slots.push_back(CompetingSlots(stream, 0, stream.num_slots()));
    }
    Settle(cache, layer, contest, EvictTime::kBeforeAttention);
  }
}

Result<void> RecipeRun::BeforeAttention(Context& cx, SequenceCache& cache, const LayerQueries& queries) {
  return retrieval_.has_value() ? retrieval_->BeforeAttention(cx, cache, queries) : Ok();
}

bool RecipeRun::WantsNextQueries(const SequenceCache& cache, const LayerQueries& next) const {
  return retrieval_.has_value() && retrieval_->WantsNextQueries(cache, next);
}

Result<void> RecipeRun::NextQueries(Context& cx, SequenceCache& cache, const LayerQueries& next) {
  return retrieval_.has_value() ? retrieval_->NextQueries(cx, cache, next) : Ok();
}

Result<void> RecipeRun::AfterAttention(Context& cx, SequenceCache& cache, const LayerQueries& queries) {
  if (retrieval_.has_value()) return retrieval_->AfterAttention(cx, cache, queries);
  if (recipe_->parts().scorer != nullptr) CACHETTE_TRY(EvictAfter(cx, cache, queries));
  return MayEncode() ? cache.EncodeTail(cx, queries.layer) : Ok();
}

// Prompt entries that still have to compete stay plain: with post_fill, until the prompt's last chunk.
bool RecipeRun::MayEncode() const {
  const Trigger* trigger = recipe_->parts().trigger.get();
  return moment_.pass.phase == Phase::kDecode || trigger == nullptr || trigger->acts_per_chunk() ||
         moment_.pass.is_last_prefill_chunk;
}

Result<void> RecipeRun::EvictAfter(Context& cx, SequenceCache& cache, const LayerQueries& queries) {
  const RecipeParts& parts = recipe_->parts();
  // Counted here and not before the pass: that one may not have fitted.
  if (moment_.pass.phase == Phase::kDecode && queries.layer == 0) ++moment_.num_decoded;
  if (parts.scorer->has_running_score()) parts.scorer->Accumulate(cx, cache, queries);
  Remember(queries);
  const bool is_prompt_end = moment_.pass.phase == Phase::kPrefill && moment_.pass.is_last_prefill_chunk;
  if (!parts.trigger->FiresAfter(moment_)) {
    cache.RemoveTransient(queries.layer);
  } else {
    Contest contest = OpenContest(cache, queries.layer);
    const bool is_decided = contest.num_tokens <= contest.num_places;
    if (!is_decided) CACHETTE_TRY(CheckPlain(cache, queries.layer, contest));
    if (!is_decided && !Follows(queries.layer, contest)) Score(cx, cache, queries, contest);
    cache.RemoveTransient(queries.layer);
    if (!is_decided) Settle(cache, queries.layer, contest, EvictTime::kAfterAttention);
  }
  if (is_prompt_end)
    for (int head = 0; head < cache.shape().num_kv_heads; ++head)
      kept_of_prompt_[static_cast<size_t>(queries.layer * cache.shape().num_kv_heads + head)] =
          cache.stream(queries.layer, head).num_live();
  if (queries.layer + 1 == num_layers_) {
    int64_t num_bytes = 0;
    for (const QueryRing& ring : rings_) num_bytes += static_cast<int64_t>(ring.q.size() * sizeof(float));
    if (cache.shape().has_scores)
      num_bytes += cache.ledger().total_live_entries() * static_cast<int64_t>(sizeof(float));
    cache.ledger().SetMetadataBytes(num_bytes);
  }
  return Ok();
}

Result<void> RecipeRun::CheckPlain(const SequenceCache& cache, int layer, const Contest& contest) const {
  for (size_t head = 0; head < contest.slots.size(); ++head)
    if (const std::vector<int64_t>& slots = contest.slots[head];
        !slots.empty() && slots.front() < cache.stream(layer, static_cast<int>(head)).num_coded_slots())
      return Fail(
          Error::kInvalidArgument,
          fmt::format("codec {} cannot rewrite the entries of an earlier prompt, and with a budget all compete; "
                      "use keep_fraction or a new session",
                      recipe_->options().codec));
  return Ok();
}

// The pass's own queries, after those of earlier passes; transient rows are nobody's past.
void RecipeRun::Remember(const LayerQueries& queries) {
  const int64_t window = recipe_->parts().scorer->query_window();
  if (window == 0) return;
  QueryRing& ring = rings_[static_cast<size_t>(queries.layer)];
  if (moment_.pass.phase == Phase::kDecode && !recipe_->parts().trigger->acts_in_decode()) {
    ring = {};
    return;
  }
  const auto width = static_cast<size_t>(queries.q_stride);
  const int64_t num_new = std::min(moment_.pass.num_tokens, window);
  const auto num_old = static_cast<int64_t>(ring.positions.size());
  const auto num_dropped = static_cast<size_t>(std::max<int64_t>(0, num_old + num_new - window));
  ring.q.erase(ring.q.begin(), ring.q.begin() + static_cast<int64_t>(num_dropped * width));
  ring.positions.erase(ring.positions.begin(), ring.positions.begin() + static_cast<int64_t>(num_dropped));
  const int64_t first = moment_.pass.num_tokens - num_new;
  ring.q.insert(ring.q.end(), queries.q + first * queries.q_stride,
                queries.q + moment_.pass.num_tokens * queries.q_stride);
  for (int64_t i = first; i < moment_.pass.num_tokens; ++i)
    ring.positions.push_back(static_cast<int32_t>(moment_.pass.first_token + i));
}

RecipeRun::Contest RecipeRun::OpenContest(const SequenceCache& cache, int layer) const {
  const RecipeOptions& options = recipe_->options();
  const bool is_prefill = moment_.pass.phase == Phase::kPrefill;
  const bool is_by_fraction = options.budget == 0 && is_prefill;
  const bool is_per_chunk = recipe_->parts().trigger->acts_per_chunk();
  // With a fraction each chunk (or prompt) gives up its part and older entries are left in peace; a budget is a cap on
  // all that lives.
  const int64_t first = !is_by_fraction ? 0 : is_per_chunk ? moment_.pass.first_token : prompt_begin_;
  Contest contest;
  for (int head = 0; head < cache.shape().num_kv_heads; ++head) {
    const HeadStream& stream = cache.stream(layer, head);
    contest.slots.push_back(CompetingSlots(stream, first, stream.num_slots() - moment_.pass.num_transient));
  }
  contest.num_tokens = moment_.pass.first_token + moment_.pass.num_tokens - first;
  if (is_by_fraction) {
    const double share = options.keep_fraction * static_cast<double>(contest.num_tokens);
    contest.num_places = std::min(static_cast<int64_t>(std::nearbyint(share)) + options.keep_extra, contest.num_tokens);
  } else if (options.budget > 0) {
    contest.num_places = options.budget;
  } else if (options.keep_fraction == 1.0) {
    contest.num_places = Allocator::kUnlimited;
  } else {  // what the prompt was left with, see NumKept
    const auto begin = kept_of_prompt_.begin() + layer * cache.shape().num_kv_heads;
    contest.num_places = *std::min_element(begin, begin + cache.shape().num_kv_heads);
  }
  return contest;
}

void RecipeRun::Score(Context& cx, const SequenceCache& cache, const LayerQueries& queries, Contest& contest) {
  const Scorer& scorer = *recipe_->parts().scorer;
  LayerView view{cache, queries.layer, contest.slots, queries, {}};
  std::vector<int32_t> positions;
  const int64_t num_rows = std::min(scorer.query_window(), queries.num_rows);
  const QueryRing& ring = rings_[static_cast<size_t>(queries.layer)];
  const bool is_apart = moment_.pass.phase == Phase::kPrefill && recipe_->options().budget == 0 &&
                        recipe_->parts().trigger->acts_per_chunk();
  if (static_cast<int64_t>(ring.positions.size()) > num_rows && !is_apart && moment_.pass.num_transient == 0) {
    view.queries.q = ring.q.data();
    view.queries.num_rows = static_cast<int64_t>(ring.positions.size());
    view.positions = ring.positions;
  } else {
    const int64_t first = queries.num_rows - num_rows;
    for (int64_t i = first; i < queries.num_rows; ++i)
      positions.push_back(static_cast<int32_t>(moment_.pass.first_token + i));
    view.queries.q = queries.q + first * queries.q_stride;
    view.queries.num_rows = num_rows;
    view.positions = positions;
  }
  for (const std::vector<int64_t>& slots : contest.slots) contest.scores.emplace_back(slots.size(), 0.0f);
  scorer.Score(cx, view, contest.scores);
  contest.num_tokens_before_window = contest.num_tokens;
  if (scorer.keeps_query_window() && !view.positions.empty()) {
    const int64_t past_end = moment_.pass.first_token + moment_.pass.num_tokens;
    const int64_t num_window = std::clamp<int64_t>(past_end - view.positions.front(), 0, contest.num_tokens);
    contest.window_position = view.positions.front();
    contest.num_window = std::min(num_window, contest.num_places);
    contest.num_tokens_before_window -= num_window;
  }
}

std::vector<int64_t> RecipeRun::NumKept(int layer, const Contest& contest) const {
  std::vector<int64_t> num_kept(contest.slots.size());
  const RecipeOptions& options = recipe_->options();
  if (recipe_->parts().scorer != nullptr && moment_.pass.phase == Phase::kDecode && options.budget == 0) {
    for (size_t head = 0; head < num_kept.size(); ++head)
      num_kept[head] = kept_of_prompt_[static_cast<size_t>(layer) * num_kept.size() + head];
    return num_kept;
  }
  recipe_->parts().allocator->Share({.layer = layer,
                                     .num_layers = num_layers_,
                                     .num_places = contest.num_places,
                                     .num_window = contest.num_window,
                                     .num_tokens_before_window = contest.num_tokens_before_window,
                                     .num_tokens = contest.num_tokens + moment_.pass.num_transient,
                                     .scores = contest.scores},
                                    num_kept);
  return num_kept;
}

void RecipeRun::Settle(SequenceCache& cache, int layer, Contest& contest, EvictTime time) {
  if (Follows(layer, contest)) return Evict(cache, layer, contest, time);
  const RecipeParts& parts = recipe_->parts();
  const size_t num_heads = contest.slots.size();
  // Protected ranks depend on the number of places; sharing the places out needs to know who is protected.
  const auto protected_ranks = [&](size_t head, int64_t num_kept) {
    const auto count = static_cast<int64_t>(contest.slots[head].size());
    std::vector<RankRange> ranges;
    if (parts.protect != nullptr) parts.protect->Ranges(count, num_kept, ranges);
    // Entries of the window may be missing: an earlier chunk with a patch did not have to keep its own last ones.
    const HeadStream& stream = cache.stream(layer, static_cast<int>(head));
    int64_t begin = count;
    while (begin > 0 && count - begin < contest.num_window &&
           stream.positions()[static_cast<size_t>(contest.slots[head][static_cast<size_t>(begin - 1)])] >=
               contest.window_position)
      --begin;
    ranges.push_back({begin, count});
    return Union(std::move(ranges));
  };
  for (size_t head = 0; head < contest.scores.size(); ++head)
    for (const RankRange& range : protected_ranks(head, contest.num_places))
      std::fill(contest.scores[head].begin() + range.begin, contest.scores[head].begin() + range.end,
                std::numeric_limits<float>::infinity());
  const std::vector<int64_t> num_kept = NumKept(layer, contest);

  for (size_t head = 0; head < num_heads; ++head) {
    const std::vector<int64_t>& slots = contest.slots[head];
    const HeadStream& stream = cache.stream(layer, static_cast<int>(head));
    std::vector<int32_t> positions;
    for (const int64_t slot : slots) positions.push_back(stream.positions()[static_cast<size_t>(slot)]);
    choices_[head].clear();
    if (num_kept[head] < static_cast<int64_t>(slots.size()))
      choices_[head] = parts.select->Losers(contest.scores.empty() ? std::span<const float>() : contest.scores[head],
                                            positions, num_kept[head], protected_ranks(head, num_kept[head]));
    choice_sizes_[head] = slots.size();
  }
  Evict(cache, layer, contest, time);
}

// Does the layer take over the choice of an earlier one?
bool RecipeRun::Follows(int layer, const Contest& contest) const {
  if (layer % recipe_->parts().select->layers_per_choice() == 0) return false;
  for (size_t head = 0; head < contest.slots.size(); ++head)
    if (contest.slots[head].size() != choice_sizes_[head]) return false;
  return true;
}

void RecipeRun::Evict(SequenceCache& cache, int layer, const Contest& contest, EvictTime time) const {
  for (size_t head = 0; head < contest.slots.size(); ++head) {
    const std::vector<SlotRange> losers = SlotsOf(choices_[head], contest.slots[head]);
    if (!losers.empty()) recipe_->parts().fate->Apply(cache, layer, static_cast<int>(head), losers, time);
  }
}

}  // namespace cachette
