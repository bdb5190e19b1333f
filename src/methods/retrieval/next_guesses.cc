#include "methods/retrieval/next_guesses.h"

#include <algorithm>
#include <utility>

#include "methods/retrieval/view_attention.h"

namespace cachette {
namespace {

using ops::kBlockTokens;

// Positions of the selected units' entries with their attention (negative: most first). They follow first_slot in the
// view, in order.
std::vector<std::pair<float, int32_t>> ByAttention(const UnitTable& table, const UnitSelection& selection,
                                                   const ViewAttention& attention, int64_t first_slot) {
  std::vector<std::pair<float, int32_t>> list;
  for (const int32_t unit_idx : selection.units) {
    int64_t slot = first_slot;
    for (const int32_t position : table.positions(unit_idx)) list.emplace_back(-attention.Sum(slot++), position);
    first_slot += static_cast<int64_t>(table.unit(unit_idx).num_blocks) * kBlockTokens;
  }
  return list;
}

void AddPage(int head, const Page& page, uint16_t wanted, size_t first_of_head,
             std::vector<SequenceCache::GuessRef>& guesses) {
  const auto known = std::find_if(guesses.begin() + static_cast<int64_t>(first_of_head), guesses.end(),
                                  [&](const SequenceCache::GuessRef& g) { return g.page.record == page.record; });
  if (known != guesses.end())
    known->wanted |= wanted;
  else
    guesses.push_back({head, page, wanted});
}

// body(guess, mask of its wanted slots that the selection does not hold) for each with such slots.
template <class Body>
void ForUnselected(const SequenceCache& cache, int layer, int kv_head, const UnitSelection& selection,
                   const Body& body) {
  const UnitTable& table = cache.units(layer, kv_head);
  for (const SequenceCache::Guess& guess : cache.guesses(layer, kv_head)) {
    uint16_t mask = 0;
    for (int slot = 0; slot < kBlockTokens; ++slot) {
      if (((guess.wanted >> slot) & 1) == 0) continue;
      const auto unit_idx = static_cast<int32_t>(table.UnitOf(guess.first_position + slot));
      if (!selection.Holds(unit_idx)) mask |= static_cast<uint16_t>(1u << slot);
    }
    if (mask != 0) body(guess, mask);
  }
}

}  // namespace

std::vector<SequenceCache::GuessRef> GuessNext(Context& cx, const SequenceCache& cache, const LayerQueries& queries,
                                               const GuessParams& params) {
  const ScratchScope scope(cx.scratch());
  const std::vector<ViewAttention> attention = AttendView(cx, cache, queries);
  std::vector<SequenceCache::GuessRef> guesses;
  for (int head = 0; head < cache.shape().num_kv_heads; ++head) {
    const UnitTable& table = cache.units(queries.layer, head);
    const UnitSelection& selection = params.selections[static_cast<size_t>(head)];
    auto by_attention =
        ByAttention(table, selection, attention[static_cast<size_t>(head)], params.num_sink_blocks * kBlockTokens);
    const auto num_keys = std::min(static_cast<size_t>(params.next_keys), by_attention.size());
    std::partial_sort(by_attention.begin(), by_attention.begin() + static_cast<int64_t>(num_keys), by_attention.end());
    const size_t first_of_head = guesses.size();
    for (size_t k = 0; k < num_keys; ++k)
      for (int32_t p = by_attention[k].second + 1; p <= by_attention[k].second + params.next_positions; ++p) {
        const Page* page = table.Find(p);
        if (page == nullptr || selection.Holds(static_cast<int32_t>(table.UnitOf(p)))) continue;
        AddPage(head, *page, static_cast<uint16_t>(1u << (p - page->first_position)), first_of_head, guesses);
      }
  }
  return guesses;
}

void ViewGuesses(SequenceCache& cache, int layer, int kv_head, const UnitSelection& selection) {
  ForUnselected(cache, layer, kv_head, selection, [&](const SequenceCache::Guess& guess, uint16_t mask) {
    cache.view(kv_head).Add(guess.block.data, mask);
  });
}

std::vector<int32_t> GuessedPositions(const SequenceCache& cache, int layer, int kv_head,
                                      const UnitSelection& selection) {
  std::vector<int32_t> positions;
  ForUnselected(cache, layer, kv_head, selection, [&](const SequenceCache::Guess& guess, uint16_t mask) {
    for (int slot = 0; slot < kBlockTokens; ++slot)
      if ((mask >> slot) & 1) positions.push_back(guess.first_position + slot);
  });
  return positions;
}

}  // namespace cachette
