// SequenceCache towards the slow tier: entries leave as pages, pages become units.

#include <algorithm>
#include <cstring>

#include "cache/position_runs.h"
#include "cache/sequence_cache.h"
#include "ops/attention/kv_store.h"

namespace cachette {

using ops::BlocksFor;
using ops::kBlockTokens;

// Records that make makes. Errors: those of RecordStore; nothing has changed then.
Result<int64_t> SequenceCache::WriteNew(Context& cx, int64_t num_records, const RecordStore::RecordMaker& make) {
  CACHETTE_TRY(const int64_t first_record, slow_->Allocate(num_records));
  Result<void> written = slow_->WriteMade(cx, first_record, num_records, make);
  if (written.ok()) return first_record;
  for (int64_t i = 0; i < num_records; ++i) slow_->Release(first_record + i);
  return std::move(written).failure();
}

Result<OffloadedEntries> SequenceCache::Offload(Context& cx, int layer, int kv_head, int64_t first_rank,
                                                int64_t num_entries, EvictTime time) {
  HeadStream& from = stream(layer, kv_head);
  CACHETTE_CHECK(num_entries > 0 && first_rank >= 0 && first_rank + num_entries <= from.num_live());
  const size_t block_bytes = shape_.format.block_bytes();
  const SlotRange range{from.SlotOfRank(first_rank), from.SlotOfRank(first_rank + num_entries - 1) + 1};
  std::vector<int64_t> slots;  // [num_entries]
  OffloadedEntries out;
  for (int64_t slot = range.begin; slot < range.end; ++slot) {
    if (!from.IsLive(slot)) continue;
    slots.push_back(slot);
    out.positions.push_back(from.positions()[static_cast<size_t>(slot)]);
  }
  const bool is_whole =
      range.begin % kBlockTokens == 0 && range.end - range.begin == num_entries && num_entries % kBlockTokens == 0;
  CACHETTE_TRY(out.first_record, WriteNew(cx, BlocksFor(num_entries), [&](int64_t b, std::byte* to) {
                 if (is_whole) {
                   std::memcpy(to, from.blocks()[range.begin / kBlockTokens + b], block_bytes);
                   return;
                 }
                 const int64_t first = b * kBlockTokens, count = std::min<int64_t>(kBlockTokens, num_entries - first);
                 if (count < kBlockTokens) std::memset(to, 0, block_bytes);  // dead slots must be finite
                 for (int64_t i = 0; i < count; ++i)
                   ops::CopyEntry(shape_.format, from.blocks(), slots[static_cast<size_t>(first + i)], &to, i);
               }));
  const int stream_idx = static_cast<int>(StreamIdx(layer, kv_head));
  ForEachRun(out.positions, [&](int64_t first_position, int64_t count) {
    ledger_.Offload(stream_idx, first_position, count, static_cast<int64_t>(shape_.format.entry_bytes()), slow_->kind(),
                    time);
  });
  from.Evict({&range, 1});
  return out;
}

Result<void> SequenceCache::LoadPendingKeys(Context& cx, int layer, int kv_head, int64_t num_pages,
                                            std::vector<float>& keys) const {
  constexpr int64_t kPagesPerTask = 16;
  const ScratchScope scope(cx.scratch());
  CACHETTE_TRY(const std::vector<const std::byte*> blocks, PendingBlocks(cx, layer, kv_head, num_pages));
  const int64_t page_floats = int64_t{kBlockTokens} * shape_.format.head_dim;
  keys.resize(static_cast<size_t>(num_pages * page_floats));
  cx.ParallelFor((num_pages + kPagesPerTask - 1) / kPagesPerTask, [&](int64_t task) {
    const int64_t first = task * kPagesPerTask, count = std::min(kPagesPerTask, num_pages - first);
    ops::LoadKeys(shape_.format, std::span(blocks).subspan(static_cast<size_t>(first), static_cast<size_t>(count)),
                  keys.data() + first * page_floats);
  });
  return Ok();
}

// The blocks of the first pending pages: in place, or read into scratch.
Result<std::vector<const std::byte*>> SequenceCache::PendingBlocks(Context& cx, int layer, int kv_head,
                                                                   int64_t num_pages) const {
  const std::span<const Page> pages = units(layer, kv_head).pending().first(static_cast<size_t>(num_pages));
  std::vector<const std::byte*> blocks;
  std::vector<RecordRead> reads;
  for (const Page& page : pages) {
    const std::byte* data = slow_->InPlace(page.record);
    if (data == nullptr) {
      reads.push_back({page.record, cx.scratch().Allocate(shape_.format.block_bytes())});
      data = reads.back().to;
    }
    blocks.push_back(data);
  }
  if (!reads.empty()) CACHETTE_TRY(slow_->Read(reads));
  return blocks;
}

void SequenceCache::MakeRunUnits(int layer, int kv_head, int64_t num_pages, int64_t run_entries, bool keeps_pages) {
  CACHETTE_CHECK(run_entries > 0 && run_entries % kBlockTokens == 0);
  UnitTable& table = units(layer, kv_head);
  const std::vector<Page> pages(table.pending().begin(), table.pending().begin() + num_pages);
  const int64_t run_pages = run_entries / kBlockTokens;
  std::vector<int32_t> positions;
  std::vector<int64_t> records;
  for (int64_t first = 0; first < num_pages; first += run_pages) {
    positions.clear();
    records.clear();
    for (int64_t p = first; p < std::min(first + run_pages, num_pages); ++p) {
      const Page& page = pages[static_cast<size_t>(p)];
      for (int32_t slot = 0; slot < kBlockTokens; ++slot) positions.push_back(page.first_position + slot);
      records.push_back(page.record);
      slow_->AddRef(page.record);
    }
    table.AddUnit(positions, records);
  }
  table.SettlePending(num_pages, keeps_pages);
}

Result<void> SequenceCache::MakeUnits(Context& cx, int layer, int kv_head, int64_t num_pages, const UnitSplit& split,
                                      std::span<const float> keys, bool keeps_pages) {
  CACHETTE_CHECK(static_cast<int64_t>(split.entries.size()) == num_pages * kBlockTokens);
  UnitTable& table = units(layer, kv_head);
  const auto entries_of = [&](size_t u) {
    const int32_t begin = u == 0 ? 0 : split.ends[u - 1];
    return std::span(split.entries).subspan(static_cast<size_t>(begin), static_cast<size_t>(split.ends[u] - begin));
  };
  std::vector<std::span<const int32_t>> blocks;  // the entries of each block to be made
  for (size_t u = 0; u < split.ends.size(); ++u)
    for (std::span<const int32_t> left = entries_of(u); !left.empty();) {
      blocks.push_back(left.first(std::min(left.size(), size_t{kBlockTokens})));
      left = left.subspan(blocks.back().size());
    }
  const ScratchScope scope(cx.scratch());
  CACHETTE_TRY(const std::vector<const std::byte*> from, PendingBlocks(cx, layer, kv_head, num_pages));
  CACHETTE_TRY(const int64_t first_record,
               WriteNew(cx, static_cast<int64_t>(blocks.size()), [&](int64_t b, std::byte* to) {
                 ops::GatherEntries(shape_.format, from.data(), keys.data(), blocks[static_cast<size_t>(b)], to);
               }));
  const std::vector<Page> pages(table.pending().begin(), table.pending().begin() + num_pages);
  std::vector<int32_t> positions;
  std::vector<int64_t> records;
  int64_t record = first_record;
  for (size_t u = 0; u < split.ends.size(); ++u) {
    positions.clear();
    records.clear();
    for (const int32_t entry : entries_of(u))
      positions.push_back(pages[static_cast<size_t>(entry / kBlockTokens)].first_position + entry % kBlockTokens);
    for (int64_t left = BlocksFor(static_cast<int64_t>(positions.size())); left > 0; --left)
      records.push_back(record++);
    table.AddUnit(positions, records);
  }
  table.SettlePending(num_pages, keeps_pages);
  return Ok();
}

}  // namespace cachette
