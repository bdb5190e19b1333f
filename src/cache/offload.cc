// SequenceCache between two tiers: entries leave for the slow one, units come back, attention reads a view.

#include <algorithm>
#include <cstring>

#include "cache/position_runs.h"
#include "cache/sequence_cache.h"
#include "ops/attention/kv_store.h"

namespace cachette {

using ops::kBlockTokens;

Result<OffloadedEntries> SequenceCache::Offload(int layer, int kv_head, int64_t first_rank, int64_t num_entries,
                                                EvictTime time) {
  HeadStream& from = stream(layer, kv_head);
  CACHETTE_CHECK(num_entries > 0 && first_rank >= 0 && first_rank + num_entries <= from.num_live());
  const size_t block_bytes = shape_.format.block_bytes();
  const int64_t num_blocks = (num_entries + kBlockTokens - 1) / kBlockTokens;
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

Result<void> SequenceCache::Recall(int layer, std::span<const UnitRef> refs) {
  std::vector<RecordRead> reads;
  for (const UnitRef& ref : refs) CACHETTE_TRY(units(layer, ref.kv_head).MakeResident(ref.unit_idx, reads));
  return slow_->Read(reads);
}

void SequenceCache::BeginView(int layer, int64_t num_sink_blocks) {
  viewed_layer_ = layer;
  num_sink_blocks_ = num_sink_blocks;
  for (int head = 0; head < shape_.num_kv_heads; ++head) {
    AttentionView& of_head = view(head);
    of_head.blocks.clear();
    of_head.live_masks.clear();
    const HeadStream& local = stream(layer, head);
    for (int64_t b = 0; b < num_sink_blocks; ++b)
      of_head.Add(local.blocks()[b], local.live_masks()[static_cast<size_t>(b)]);
  }
}

void SequenceCache::ViewResident(int layer, int kv_head, int64_t unit_idx) {
  const UnitTable& table = units(layer, kv_head);
  const std::span<const Block> blocks = table.blocks(unit_idx);
  for (size_t b = 0; b < blocks.size(); ++b)
    view(kv_head).Add(blocks[b].data, UnitBlockMask(table.unit(unit_idx).num_entries, static_cast<int64_t>(b)));
}

Result<void> SequenceCache::ViewEverything(int layer) {
  Result<void> result = AddEverythingToView(layer);
  if (!result.ok()) EndView();
  if (!staged_.empty()) BookHeld();  // while they are there
  return result;
}

// body(kv_head, record, live mask) for every unit's and pending page's record of the layer, in the order of the view.
template <class Body>
void SequenceCache::ForUnitRecords(int layer, const Body& body) const {
  for (int head = 0; head < shape_.num_kv_heads; ++head) {
    const UnitTable& table = units(layer, head);
    for (int64_t u = 0; u < table.num_units(); ++u) {
      const std::span<const int64_t> records = table.records(u);
      for (size_t b = 0; b < records.size(); ++b)
        body(head, records[b], UnitBlockMask(table.unit(u).num_entries, static_cast<int64_t>(b)));
    }
    for (const Page& page : table.pending()) body(head, page.record, uint16_t{0xffff});
  }
}

size_t SequenceCache::BytesToStage(int layer) const {
  size_t num_blocks = 0;
  ForUnitRecords(layer,
                 [&](int, int64_t record, uint16_t) { num_blocks += slow_->InPlace(record) == nullptr ? 1 : 0; });
  return num_blocks * shape_.format.block_bytes();
}

Result<void> SequenceCache::AddEverythingToView(int layer) {
  std::vector<RecordRead> reads;
  Result<void> room = Ok();
  ForUnitRecords(layer, [&](int head, int64_t record, uint16_t mask) {
    const std::byte* data = slow_->InPlace(record);
    if (data == nullptr && room.ok()) {
      const Result<Block> block = tier_->Allocate(shape_.format.block_bytes());
      if (block.ok()) {
        staged_.push_back(*block);
        reads.push_back({record, block->data});
        data = block->data;
      } else {
        room = block.failure();
      }
    }
    view(head).Add(data, mask);
  });
  CACHETTE_TRY(std::move(room));
  return reads.empty() ? Ok() : slow_->Read(reads);
}

void SequenceCache::SealView() {
  for (int head = 0; head < shape_.num_kv_heads; ++head) {
    AttentionView& of_head = view(head);
    const HeadStream& local = stream(viewed_layer_, head);
    CACHETTE_CHECK(local.num_blocks() > num_sink_blocks_);  // else the last block would not be the stream's
    for (int64_t b = num_sink_blocks_; b < local.num_blocks(); ++b)
      of_head.Add(local.blocks()[b], local.live_masks()[static_cast<size_t>(b)]);
    of_head.num_slots = static_cast<int64_t>(of_head.blocks.size()) * kBlockTokens -
                        (local.num_blocks() * kBlockTokens - local.num_slots());
  }
}

void SequenceCache::EndView() {
  viewed_layer_ = -1;
  for (const Block& block : staged_) tier_->Release(shape_.format.block_bytes(), block.id);
  staged_.clear();
}

ops::KvRow SequenceCache::AttentionRow(int layer, int kv_head) const {
  const HeadStream& local = stream(layer, kv_head);
  ops::KvRow row = local.Row();
  if (!has_view(layer)) return row;
  const AttentionView& of_head = view(kv_head);
  row.blocks = of_head.blocks.data();
  row.live_masks = of_head.live_masks.data();
  row.positions = nullptr;
  row.num_slots = of_head.num_slots;
  return row;
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
    num_blocks += (static_cast<int64_t>(members[u].size()) + kBlockTokens - 1) / kBlockTokens;
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

void SequenceCache::DropGuesses(int layer) {
  ReadTicket& reading = guess_reads_[static_cast<size_t>(layer)];
  slow_->Discard(reading);
  reading = {};
  for (int head = 0; head < shape_.num_kv_heads; ++head) {
    std::vector<Guess>& of_head = guesses_[StreamIdx(layer, head)];
    for (const Guess& guess : of_head) tier_->Release(shape_.format.block_bytes(), guess.block.id);
    of_head.clear();
  }
}

Result<void> SequenceCache::StartGuesses(int layer, std::span<const GuessRef> guesses) {
  DropGuesses(layer);
  std::vector<RecordRead> reads;
  for (const GuessRef& guess : guesses) {
    Result<Block> block = tier_->Allocate(shape_.format.block_bytes());
    if (!block.ok()) break;  // a guess may be left out
    guesses_[StreamIdx(layer, guess.kv_head)].push_back({*block, guess.page.first_position, guess.wanted});
    reads.push_back({guess.page.record, block->data});
  }
  if (reads.empty()) return Ok();
  CACHETTE_TRY(guess_reads_[static_cast<size_t>(layer)], slow_->StartRead(reads));
  return Ok();
}

Result<void> SequenceCache::SettleGuesses(int layer) {
  ReadTicket& reading = guess_reads_[static_cast<size_t>(layer)];
  Result<void> done = slow_->Wait(reading);
  reading = {};
  return done;
}

void SequenceCache::BookHeld() {
  int64_t fast = 0, slow_copies = 0;
  for (const UnitTable& table : tables_) {
    fast += table.resident_blocks() * static_cast<int64_t>(shape_.format.block_bytes()) + table.metadata_bytes();
    slow_copies += table.slow_blocks() * static_cast<int64_t>(shape_.format.block_bytes()) -
                   table.num_entries() * static_cast<int64_t>(shape_.format.entry_bytes());
  }
  size_t num_copies = staged_.size();
  for (const std::vector<Guess>& of_head : guesses_) num_copies += of_head.size();
  fast += static_cast<int64_t>(num_copies * shape_.format.block_bytes());
  ledger_.SetMetadataBytes(fast);
  ledger_.SetMetadataBytes(slow_->kind(), slow_copies);
}

}  // namespace cachette
