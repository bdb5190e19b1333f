// SequenceCache towards the slow tier: entries leave as pages, pages become units.

#include <algorithm>
#include <cstring>

#include "cache/position_runs.h"
#include "cache/sequence_cache.h"
#include "ops/attention/kv_store.h"

namespace cachette {

using ops::BlocksFor;
using ops::kBlockTokens;

Result<OffloadedEntries> SequenceCache::Offload(int layer, int kv_head, int64_t first_rank, int64_t num_entries,
                                                EvictTime time) {
  HeadStream& from = stream(layer, kv_head);
  CACHETTE_CHECK(num_entries > 0 && first_rank >= 0 && first_rank + num_entries <= from.num_live());
  const size_t block_bytes = shape_.format.block_bytes();
  const int64_t num_blocks = BlocksFor(num_entries);
  const SlotRange range{from.SlotOfRank(first_rank), from.SlotOfRank(first_rank + num_entries - 1) + 1};
  OffloadedEntries out;
  const bool is_whole =
      range.begin % kBlockTokens == 0 && range.end - range.begin == num_entries && num_entries % kBlockTokens == 0;
  packed_.resize(std::max(packed_.size(), static_cast<size_t>(num_blocks) * block_bytes));
  std::vector<std::byte*> blocks;
  for (int64_t b = 0; b < num_blocks; ++b) blocks.push_back(packed_.data() + static_cast<size_t>(b) * block_bytes);
  if (num_entries % kBlockTokens != 0) std::memset(blocks.back(), 0, block_bytes);  // dead slots must be finite
  int64_t to_slot = 0;
  for (int64_t slot = range.begin; slot < range.end; ++slot) {
    if (!from.IsLive(slot)) continue;
    out.positions.push_back(from.positions()[static_cast<size_t>(slot)]);
    if (!is_whole) ops::CopyEntry(shape_.format, from.blocks(), slot, blocks.data(), to_slot++);
  }
  if (is_whole)
    for (int64_t b = 0; b < num_blocks; ++b)
      std::memcpy(blocks[static_cast<size_t>(b)], from.blocks()[range.begin / kBlockTokens + b], block_bytes);
  CACHETTE_TRY(out.first_record, slow_->Allocate(num_blocks));
  Result<void> written =
      slow_->Write(out.first_record, {packed_.data(), static_cast<size_t>(num_blocks) * block_bytes});
  if (!written.ok()) {
    for (int64_t i = 0; i < num_blocks; ++i) slow_->Release(out.first_record + i);
    return std::move(written).failure();
  }

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
  const ScratchScope scope(cx.scratch());
  CACHETTE_TRY(const std::vector<const std::byte*> blocks, PendingBlocks(cx, layer, kv_head, num_pages));
  const int head_dim = shape_.format.head_dim;
  keys.resize(static_cast<size_t>(num_pages * kBlockTokens * head_dim));
  ops::LoadKeys(shape_.format, blocks, keys.data());
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

Result<void> SequenceCache::MakeUnits(Context& cx, int layer, int kv_head, int64_t num_pages, const int32_t* labels,
                                      int64_t run_entries, bool keeps_pages) {
  UnitTable& table = units(layer, kv_head);
  const std::vector<Page> pages(table.pending().begin(), table.pending().begin() + num_pages);
  const int64_t num_entries = num_pages * kBlockTokens;
  const auto position_of = [&](int64_t entry) {
    return pages[static_cast<size_t>(entry / kBlockTokens)].first_position + static_cast<int32_t>(entry % kBlockTokens);
  };
  std::vector<int32_t> positions;
  std::vector<int64_t> records;
  if (labels == nullptr) {
    CACHETTE_CHECK(run_entries > 0 && run_entries % kBlockTokens == 0);
    const int64_t run_pages = run_entries / kBlockTokens;
    for (int64_t first = 0; first < num_pages; first += run_pages) {
      positions.clear();
      records.clear();
      for (int64_t p = first; p < std::min(first + run_pages, num_pages); ++p) {
        for (int64_t slot = 0; slot < kBlockTokens; ++slot) positions.push_back(position_of(p * kBlockTokens + slot));
        records.push_back(pages[static_cast<size_t>(p)].record);
        slow_->AddRef(records.back());
      }
      table.AddUnit(positions, records);
    }
    table.SettlePending(num_pages, keeps_pages);
    return Ok();
  }

  // Entries by unit, in position order within each.
  int32_t num_units = 0;
  for (int64_t i = 0; i < num_entries; ++i) num_units = std::max(num_units, labels[i] + 1);
  std::vector<std::vector<int32_t>> members(static_cast<size_t>(num_units));
  for (int64_t i = 0; i < num_entries; ++i) members[static_cast<size_t>(labels[i])].push_back(static_cast<int32_t>(i));
  std::vector<int64_t> first_block(members.size());
  int64_t num_blocks = 0;
  for (size_t u = 0; u < members.size(); ++u) {
    first_block[u] = num_blocks;
    num_blocks += BlocksFor(static_cast<int64_t>(members[u].size()));
  }
  const ScratchScope scope(cx.scratch());
  CACHETTE_TRY(const std::vector<const std::byte*> from, PendingBlocks(cx, layer, kv_head, num_pages));
  const size_t block_bytes = shape_.format.block_bytes();
  const size_t num_bytes = static_cast<size_t>(num_blocks) * block_bytes;
  std::byte* const packed = cx.scratch().Allocate(num_bytes);
  std::vector<std::byte*> to;
  for (int64_t b = 0; b < num_blocks; ++b) to.push_back(packed + static_cast<size_t>(b) * block_bytes);
  cx.ParallelFor(num_units, [&](int64_t u) {
    const std::vector<int32_t>& of_unit = members[static_cast<size_t>(u)];
    const int64_t first_slot = first_block[static_cast<size_t>(u)] * kBlockTokens;
    const size_t last_block =
        static_cast<size_t>((first_slot + static_cast<int64_t>(of_unit.size()) - 1) / kBlockTokens);
    if (of_unit.size() % kBlockTokens != 0) std::memset(to[last_block], 0, block_bytes);  // dead slots must be finite
    for (size_t i = 0; i < of_unit.size(); ++i)
      ops::CopyEntry(shape_.format, from.data(), of_unit[i], to.data(), first_slot + static_cast<int64_t>(i));
  });
  CACHETTE_TRY(const int64_t first_record, slow_->Allocate(num_blocks));
  Result<void> written = slow_->Write(first_record, {packed, num_bytes});
  if (!written.ok()) {
    for (int64_t b = 0; b < num_blocks; ++b) slow_->Release(first_record + b);
    return written;
  }
  for (size_t u = 0; u < members.size(); ++u) {
    positions.clear();
    records.clear();
    for (const int32_t entry : members[u]) positions.push_back(position_of(entry));
    const int64_t end = u + 1 < members.size() ? first_block[u + 1] : num_blocks;
    for (int64_t b = first_block[u]; b < end; ++b) records.push_back(first_record + b);
    table.AddUnit(positions, records);
  }
  table.SettlePending(num_pages, keeps_pages);
  return Ok();
}

}  // namespace cachette
