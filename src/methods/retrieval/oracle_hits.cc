#include "methods/retrieval/oracle_hits.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "methods/retrieval/next_guesses.h"
#include "methods/retrieval/view_attention.h"

namespace cachette {
namespace {

using ops::kBlockTokens;

// Entries of one KV head's units with the attention they get (negative: most first) and whether they were passed over,
// so that of equals those that were read come first. Units follow the sinks in the view.
std::vector<std::pair<float, bool>> EntriesByAttention(const SequenceCache& cache, int layer, int head,
                                                       const UnitSelection& selection, const ViewAttention& attention,
                                                       int64_t first_slot) {
  const UnitTable& table = cache.units(layer, head);
  std::vector<int32_t> guessed = GuessedPositions(cache, layer, head, selection);
  std::sort(guessed.begin(), guessed.end());
  std::vector<std::pair<float, bool>> entries;
  for (int32_t u = 0; u < static_cast<int32_t>(table.num_units()); ++u) {
    const std::span<const int32_t> positions = table.positions(u);
    const bool is_cut = selection.last_entries > 0 && selection.units.back() == u;
    const auto num_read = is_cut               ? static_cast<size_t>(selection.last_entries)
                          : selection.Holds(u) ? positions.size()
                                               : size_t{0};
    for (size_t i = 0; i < positions.size(); ++i) {
      const bool is_read = i < num_read || std::binary_search(guessed.begin(), guessed.end(), positions[i]);
      entries.emplace_back(-attention.Sum(first_slot + static_cast<int64_t>(i)), !is_read);
    }
    first_slot += static_cast<int64_t>(table.unit(u).num_blocks) * kBlockTokens;
  }
  return entries;
}

}  // namespace

Result<OracleHits> CountOracleHits(Context& cx, SequenceCache& cache, const LayerQueries& queries,
                                   int64_t num_sink_blocks, std::span<const UnitSelection> selections) {
  cache.BeginView(queries.layer, num_sink_blocks);
  CACHETTE_TRY(cache.ViewEverything(queries.layer));
  cache.SealView();
  const ScratchScope scope(cx.scratch());
  const std::vector<ViewAttention> attention = AttendView(cx, cache, queries);
  cache.EndView();
  OracleHits hits;
  for (int head = 0; head < cache.shape().num_kv_heads; ++head) {
    const auto at = static_cast<size_t>(head);
    auto entries =
        EntriesByAttention(cache, queries.layer, head, selections[at], attention[at], num_sink_blocks * kBlockTokens);
    const auto num_read = std::count_if(entries.begin(), entries.end(), [](const auto& e) { return !e.second; });
    std::nth_element(entries.begin(), entries.begin() + num_read, entries.end());
    hits.num_read += num_read;
    hits.num_hits +=
        std::count_if(entries.begin(), entries.begin() + num_read, [](const auto& e) { return !e.second; });
  }
  return hits;
}

}  // namespace cachette
