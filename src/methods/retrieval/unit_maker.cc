#include "methods/retrieval/unit_maker.h"

#include <algorithm>
#include <numeric>
#include <span>

#include "ops/attention/kv_store.h"

namespace cachette {
namespace {

using ops::kBlockTokens;

// The unit of each entry of a KV head: one window's groups after the other's, those of more than most_entries cut into
// units of most_entries and the rest.
std::vector<int32_t> UnitLabels(std::span<const KeyGroup> windows, int64_t most_entries) {
  std::vector<int32_t> labels;
  int32_t num_labels = 0;
  for (const KeyGroup& window : windows) {
    const int32_t first_label = num_labels;
    for (const int32_t label : window.labels) {
      labels.push_back(first_label + label);
      num_labels = std::max(num_labels, labels.back() + 1);
    }
  }
  std::vector<int64_t> counts(static_cast<size_t>(num_labels), 0);
  std::vector<int32_t> now(counts.size());  // where further entries of a group go
  std::iota(now.begin(), now.end(), 0);
  for (int32_t& label : labels) {
    const auto group = static_cast<size_t>(label);
    if (counts[group]++ > 0 && (counts[group] - 1) % most_entries == 0) now[group] = num_labels++;
    label = now[group];
  }
  return labels;
}

// The entries of each label's unit, in order.
UnitSplit SplitBy(std::span<const int32_t> labels) {
  UnitSplit split;
  for (const int32_t label : labels) {
    if (static_cast<size_t>(label) >= split.ends.size()) split.ends.resize(static_cast<size_t>(label) + 1);
    ++split.ends[static_cast<size_t>(label)];
  }
  std::exclusive_scan(split.ends.begin(), split.ends.end(), split.ends.begin(), 0);
  split.entries.resize(labels.size());
  for (size_t i = 0; i < labels.size(); ++i)  // what is a unit's beginning becomes its end
    split.entries[static_cast<size_t>(split.ends[static_cast<size_t>(labels[i])]++)] = static_cast<int32_t>(i);
  return split;
}

}  // namespace

UnitMaker::UnitMaker(std::shared_ptr<const Recipe> recipe, int num_layers, size_t most_key_bytes)
    : recipe_(std::move(recipe)), boundaries_(static_cast<size_t>(num_layers)), most_key_bytes_(most_key_bytes) {}

void UnitMaker::AddBoundary(int layer, int64_t position) {
  boundaries_[static_cast<size_t>(layer)].push_back(static_cast<int32_t>(position));
}

Result<int64_t> UnitMaker::TakePrompt(Context& cx, SequenceCache& cache, int layer, bool is_last_chunk) {
  const int64_t num_sinks = recipe_->num_sink_blocks() * kBlockTokens;
  const int64_t aged = cache.stream(layer, 0).num_live() - num_sinks - recipe_->recent_window();
  if (const int64_t num_pages = aged / kBlockTokens; num_pages > 0)
    for (int head = 0; head < cache.shape().num_kv_heads; ++head) {
      CACHETTE_TRY(const OffloadedEntries out, cache.Offload(cx, layer, head, num_sinks, num_pages * kBlockTokens));
      for (int64_t p = 0; p < num_pages; ++p)
        cache.units(layer, head).AddPage({out.first_record + p, out.positions[static_cast<size_t>(p * kBlockTokens)]});
    }
  if (is_last_chunk) boundaries_[static_cast<size_t>(layer)].clear();  // what follows is another text
  const UnitBuilder& builder = **recipe_->parts().retrieval->units;
  const auto pending = static_cast<int64_t>(cache.units(layer, 0).pending().size());
  const int64_t window_pages = builder.prompt_window() / kBlockTokens;
  const int64_t ready = is_last_chunk ? pending : window_pages > 0 ? pending / window_pages * window_pages : 0;
  return ready > 0 ? GroupPages(cx, cache, layer, ready, builder) : int64_t{0};
}

// Makes units of the oldest pending pages of all the layer's KV heads: of as many at once as their keys leave memory
// for, so that threads have several problems to share.
Result<int64_t> UnitMaker::GroupPages(Context& cx, SequenceCache& cache, int layer, int64_t num_pages,
                                      const UnitBuilder& builder) {
  const int num_kv_heads = cache.shape().num_kv_heads;
  const auto head_bytes = static_cast<size_t>(num_pages * kBlockTokens * cache.shape().format.head_dim) * sizeof(float);
  const int num_at_once =
      static_cast<int>(std::clamp(most_key_bytes_ / head_bytes, size_t{1}, static_cast<size_t>(num_kv_heads)));
  int64_t num_made = 0;
  for (int head = 0; head < num_kv_heads; head += num_at_once) {
    const std::pair heads{head, std::min(head + num_at_once, num_kv_heads)};
    CACHETTE_TRY(const int64_t num_of_heads, GroupHeads(cx, cache, layer, heads, num_pages, builder));
    num_made += num_of_heads;
  }
  if (layer + 1 == cache.shape().num_layers) keys_ = {};
  return num_made;
}

Result<int64_t> UnitMaker::GroupHeads(Context& cx, SequenceCache& cache, int layer, std::pair<int, int> heads,
                                      int64_t num_pages, const UnitBuilder& builder) {
  const int head_dim = cache.shape().format.head_dim;
  const int64_t num_entries = num_pages * kBlockTokens;
  const int64_t window = builder.prompt_window() > 0 ? builder.prompt_window() : num_entries;
  const auto num_heads = static_cast<size_t>(heads.second - heads.first);
  keys_.resize(std::max(keys_.size(), num_heads));
  std::vector<KeyGroup> groups;  // of all heads, window by window
  for (size_t i = 0; i < num_heads; ++i) {
    CACHETTE_TRY(cache.LoadPendingKeys(cx, layer, heads.first + static_cast<int>(i), num_pages, keys_[i]));
    for (int64_t first = 0; first < num_entries; first += window)
      groups.push_back({keys_[i].data() + first * head_dim, std::min(window, num_entries - first), {}});
  }
  const int64_t run_entries = builder.run_entries();
  if (run_entries == 0) builder.Group(cx, groups, head_dim);
  const bool keeps_pages = recipe_->parts().retrieval->working_set->next_keys > 0;
  const size_t windows_per_head = groups.size() / num_heads;
  int64_t num_made = 0;
  for (size_t i = 0; i < num_heads; ++i) {
    const int head = heads.first + static_cast<int>(i);
    const int64_t first_unit = cache.units(layer, head).num_units();
    std::vector<int32_t> entries(static_cast<size_t>(num_entries));  // of the new units, unit by unit
    if (run_entries > 0) {
      cache.MakeRunUnits(layer, head, num_pages, run_entries, keeps_pages);
      std::iota(entries.begin(), entries.end(), 0);
    } else {
      UnitSplit split = SplitBy(UnitLabels(std::span(groups).subspan(i * windows_per_head, windows_per_head),
                                           recipe_->least_blocks() * kBlockTokens));
      CACHETTE_TRY(cache.MakeUnits(cx, layer, head, num_pages, split, keys_[i], keeps_pages));
      entries = std::move(split.entries);
    }
    IndexUnits(cx, cache, layer, head, first_unit, entries, keys_[i].data());
    num_made += cache.units(layer, head).num_units() - first_unit;
  }
  return num_made;
}

// Index vectors of a KV head's units from first_unit on. entries: theirs, unit by unit, as rows of keys.
void UnitMaker::IndexUnits(Context& cx, SequenceCache& cache, int layer, int head, int64_t first_unit,
                           std::span<const int32_t> entries, const float* keys) {
  const int head_dim = cache.shape().format.head_dim;
  const UnitTable& table = cache.units(layer, head);
  const int64_t first_entry = table.unit(first_unit).first_entry;
  const int64_t first_block = first_unit / ops::kIndexBlockUnits, end_unit = table.num_units();
  // A block of the index per task: threads write to lines of their own.
  cx.ParallelFor((end_unit + ops::kIndexBlockUnits - 1) / ops::kIndexBlockUnits - first_block, [&](int64_t task) {
    const int64_t block_unit = (first_block + task) * ops::kIndexBlockUnits;
    std::vector<float> of_unit;
    for (int64_t u = std::max(first_unit, block_unit); u < std::min(end_unit, block_unit + ops::kIndexBlockUnits);
         ++u) {
      const Unit& unit = table.unit(u);
      of_unit.resize(static_cast<size_t>(int64_t{unit.num_entries} * head_dim));
      for (int64_t e = 0; e < unit.num_entries; ++e)
        std::copy_n(keys + int64_t{entries[static_cast<size_t>(unit.first_entry - first_entry + e)]} * head_dim,
                    head_dim, of_unit.data() + e * head_dim);
      AddIndex(cache, layer, head, u, of_unit.data(), unit.num_entries);
    }
  });
}

void UnitMaker::AddIndex(SequenceCache& cache, int layer, int head, int64_t unit_idx, const float* keys,
                         int64_t num_keys) {
  const UnitIndex& index = **recipe_->parts().retrieval->index;
  const int head_dim = cache.shape().format.head_dim;
  std::vector<float> vectors(static_cast<size_t>(2 * head_dim));
  float* const second = vectors.data() + head_dim;
  index.Summarise(keys, num_keys, head_dim, vectors.data(), second);
  ops::StoreUnitVectors(index.bound(), head_dim, cache.units(layer, head).index(), unit_idx, vectors.data(),
                        index.bound() == ops::UnitBound::kBox ? second : nullptr);
}

Result<int64_t> UnitMaker::TakeOutput(Context& cx, SequenceCache& cache, int layer) {
  const UnitBuilder& builder = **recipe_->parts().retrieval->output_units;
  const int64_t num_sinks = recipe_->num_sink_blocks() * kBlockTokens;
  std::vector<int32_t>& boundaries = boundaries_[static_cast<size_t>(layer)];
  int64_t num_made = 0;
  for (;;) {
    const HeadStream& stream = cache.stream(layer, 0);
    const int64_t num_aged = stream.num_live() - num_sinks - recipe_->recent_window();
    if (num_aged <= 0) return num_made;
    const int32_t first_position = stream.positions()[static_cast<size_t>(stream.SlotOfRank(num_sinks))];
    const int64_t count =
        builder.NumToClose({.first_position = first_position, .num_entries = num_aged, .boundaries = boundaries});
    if (count == 0) return num_made;
    for (int head = 0; head < cache.shape().num_kv_heads; ++head)
      CACHETTE_TRY(CloseRun(cx, cache, layer, head, count, builder));
    if (builder.run_entries() > 0) {
      num_made += cache.shape().num_kv_heads;
    } else {
      CACHETTE_TRY(const int64_t num_grouped, GroupPages(cx, cache, layer, count / kBlockTokens, builder));
      num_made += num_grouped;
    }
    boundaries.erase(boundaries.begin(), std::lower_bound(boundaries.begin(), boundaries.end(),
                                                          first_position + static_cast<int32_t>(count)));
  }
}

// The oldest aged entries of one KV head leave: as a unit, or as pages to be grouped.
Result<void> UnitMaker::CloseRun(Context& cx, SequenceCache& cache, int layer, int head, int64_t num_entries,
                                 const UnitBuilder& builder) {
  const int64_t num_sinks = recipe_->num_sink_blocks() * kBlockTokens;
  const int head_dim = cache.shape().format.head_dim;
  UnitTable& table = cache.units(layer, head);
  const HeadStream& stream = cache.stream(layer, head);
  std::vector<float> keys(static_cast<size_t>(num_entries * head_dim));
  const int64_t first_slot = stream.SlotOfRank(num_sinks);
  for (int64_t slot = first_slot, i = 0; i < num_entries; ++slot)
    if (stream.IsLive(slot))
      ops::LoadEntry(cache.shape().format, stream.blocks(), slot, keys.data() + i++ * head_dim, nullptr);
  CACHETTE_TRY(const OffloadedEntries out, cache.Offload(cx, layer, head, num_sinks, num_entries));
  std::vector<int64_t> records(static_cast<size_t>(ops::BlocksFor(num_entries)));
  std::iota(records.begin(), records.end(), out.first_record);
  const bool is_grouped = builder.run_entries() == 0;
  const bool keeps_pages = recipe_->parts().retrieval->working_set->next_keys > 0 && num_entries % kBlockTokens == 0;
  if (is_grouped || keeps_pages)
    for (size_t p = 0; p < records.size(); ++p) table.AddPage({records[p], out.positions[p * kBlockTokens]});
  if (is_grouped) return Ok();
  AddIndex(cache, layer, head, table.AddUnit(out.positions, records), keys.data(), num_entries);
  if (!keeps_pages) return Ok();
  for (const int64_t record : records) cache.slow()->AddRef(record);
  table.SettlePending(static_cast<int64_t>(records.size()), true);
  return Ok();
}

}  // namespace cachette
