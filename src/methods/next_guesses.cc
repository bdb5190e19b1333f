#include "methods/next_guesses.h"

#include <algorithm>
#include <utility>

#include "ops/attention/column_sums.h"

namespace cachette {
namespace {

using ops::kBlockTokens;

// Positions of the selected units' entries with their attention (negative: most first), in the order of the view.
// sums: [group_size][num_slots].
std::vector<std::pair<float, int32_t>> ByAttention(const UnitTable& table, const UnitSelection& selection,
                                                   const float* sums, int group_size, int64_t num_slots,
                                                   int64_t first_slot) {
  std::vector<std::pair<float, int32_t>> list;
  for (const int32_t unit_idx : selection.units) {
    int64_t slot = first_slot;
    for (const int32_t position : table.positions(unit_idx)) {
      float sum = 0;
      for (int g = 0; g < group_size; ++g) sum += sums[g * num_slots + slot];
      list.emplace_back(-sum, position);
      ++slot;
    }
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

}  // namespace

std::vector<SequenceCache::GuessRef> GuessNext(Context& cx, const SequenceCache& cache, const LayerQueries& queries,
                                               const GuessParams& params) {
  const int num_kv_heads = cache.shape().num_kv_heads;
  const int head_dim = cache.shape().format.head_dim;
  const ScratchScope scope(cx.scratch());
  std::vector<int64_t> begins(static_cast<size_t>(num_kv_heads), 0), ends;
  for (int head = 0; head < num_kv_heads; ++head) ends.push_back(cache.AttentionRow(queries.layer, head).num_slots);
  std::vector<ops::ColumnSumRow> rows;
  for (int head = 0; head < num_kv_heads; ++head) {
    const auto at = static_cast<size_t>(head);
    rows.push_back({.kv = cache.AttentionRow(queries.layer, head),
                    .q = queries.q + static_cast<int64_t>(head) * queries.group_size * head_dim,
                    .begin_slots = &begins[at],
                    .end_slots = &ends[at],
                    .sums = cx.scratch().Array<float>(static_cast<size_t>(queries.group_size * ends[at])).data()});
  }
  ops::ColumnSums(cx, {.rows = rows,
                       .num_queries = 1,
                       .q_stride = queries.q_stride,
                       .group_size = queries.group_size,
                       .head_dim = head_dim,
                       .scale = queries.scale,
                       .softcap = queries.softcap});
  std::vector<SequenceCache::GuessRef> guesses;
  for (int head = 0; head < num_kv_heads; ++head) {
    const UnitTable& table = cache.units(queries.layer, head);
    const UnitSelection& selection = params.selections[static_cast<size_t>(head)];
    const ops::ColumnSumRow& row = rows[static_cast<size_t>(head)];
    auto by_attention = ByAttention(table, selection, row.sums, queries.group_size, row.kv.num_slots,
                                    params.num_sink_blocks * kBlockTokens);
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
  const UnitTable& table = cache.units(layer, kv_head);
  for (const SequenceCache::Guess& guess : cache.guesses(layer, kv_head)) {
    uint16_t mask = 0;
    for (int slot = 0; slot < kBlockTokens; ++slot) {
      if (((guess.wanted >> slot) & 1) == 0) continue;
      const auto unit_idx = static_cast<int32_t>(table.UnitOf(guess.first_position + slot));
      if (!selection.Holds(unit_idx)) mask |= static_cast<uint16_t>(1u << slot);
    }
    if (mask != 0) cache.view(kv_head).Add(guess.block.data, mask);
  }
}

}  // namespace cachette
