// SequenceCache from the slow tier: units and pages come back, attention reads a view of them.

#include <algorithm>
#include <utility>
#include <vector>

#include "cache/sequence_cache.h"

namespace cachette {

using ops::kBlockTokens;

Result<void> SequenceCache::Recall(int layer, std::span<const UnitRef> refs) {
  CACHETTE_TRY(TakeAhead(layer, refs));
  std::vector<RecordRead> reads;
  for (const UnitRef& ref : refs)
    if (!units(layer, ref.kv_head).IsResident(ref.unit_idx))
      CACHETTE_TRY(units(layer, ref.kv_head).MakeResident(ref.unit_idx, reads));
  return slow_->Read(reads);
}

Result<int64_t> SequenceCache::ReadAhead(int layer, std::span<const UnitRef> refs) {
  DropAhead();
  const size_t block_bytes = shape_.format.block_bytes();
  int64_t to_append = 0;  // all of it: what only passes through was not promised
  for (int head = 0; head < shape_.num_kv_heads; ++head)
    to_append += stream(layer, head).BlocksToAppend(static_cast<int64_t>(pass_positions_.size()));
  const size_t bytes_to_come =
      bytes_to_come_[static_cast<size_t>(layer) + 1] + static_cast<size_t>(to_append) * block_bytes;
  promise_.Set(bytes_to_come);  // what the layer was promised for its units is room like any other
  ahead_.layer = layer;
  std::vector<RecordRead> reads;
  for (const UnitRef& ref : refs) {
    const UnitTable& table = units(layer, ref.kv_head);
    const int64_t num_blocks = table.unit(ref.unit_idx).num_blocks;
    if (static_cast<size_t>(num_blocks) * block_bytes > tier_->room_bytes()) break;
    Result<std::vector<Block>> blocks = table.AllocateBlocks(ref.unit_idx, reads);
    if (!blocks.ok()) break;  // Recall tries again
    ahead_.units.emplace(ref, *std::move(blocks));
    ahead_.num_blocks += num_blocks;
  }
  promise_.Set(bytes_to_come + static_cast<size_t>(BlocksToRecall(layer)) * block_bytes);
  const auto num_ahead = static_cast<int64_t>(ahead_.units.size());
  if (num_ahead == 0) return num_ahead;
  BookHeld();  // while they are there
  CACHETTE_TRY(ahead_.reading, slow_->StartRead(reads));
  return num_ahead;
}

// The wanted units that were read ahead become resident, the others leave.
Result<void> SequenceCache::TakeAhead(int layer, std::span<const UnitRef> wanted) {
  if (ahead_.layer != layer) return Ok();
  if (std::any_of(wanted.begin(), wanted.end(), [&](const UnitRef& ref) { return IsAhead(layer, ref); }))
    CACHETTE_TRY(slow_->Wait(std::exchange(ahead_.reading, {})));
  for (const UnitRef& ref : wanted)
    if (auto node = ahead_.units.extract(ref); !node.empty())
      units(layer, ref.kv_head).MakeResident(ref.unit_idx, std::move(node.mapped()));
  DropAhead();
  return Ok();
}

void SequenceCache::DropAhead() {
  if (ahead_.layer < 0) return;
  slow_->Discard(ahead_.reading);
  for (const auto& [unit, blocks] : ahead_.units)
    for (const Block& block : blocks) tier_->Release(shape_.format.block_bytes(), block.id);
  ahead_ = {};
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
    int64_t num_live = 0;
    for (const uint16_t mask : of_head.live_masks) num_live += __builtin_popcount(mask);
    of_head.has_holes = num_live < of_head.num_slots;
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
  row.live_masks = of_head.has_holes ? of_head.live_masks.data() : nullptr;
  row.positions = nullptr;
  row.num_slots = of_head.num_slots;
  return row;
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

Result<SequenceCache::GuessesRead> SequenceCache::StartGuesses(int layer, std::span<const GuessRef> guesses) {
  CACHETTE_TRY(SettleGuesses(layer));
  const size_t block_bytes = shape_.format.block_bytes();
  for (int head = 0; head < shape_.num_kv_heads; ++head)
    for (Guess& held : guesses_[StreamIdx(layer, head)]) held.wanted = 0;
  std::vector<const GuessRef*> missing;
  for (const GuessRef& guess : guesses) {
    Guess* const held = HeldGuess(layer, guess);
    if (held != nullptr)
      held->wanted = guess.wanted;
    else
      missing.push_back(&guess);
  }
  for (int head = 0; head < shape_.num_kv_heads; ++head)
    std::erase_if(guesses_[StreamIdx(layer, head)], [&](const Guess& held) {
      if (held.wanted == 0) tier_->Release(block_bytes, held.block.id);
      return held.wanted == 0;
    });
  GuessesRead read;
  std::vector<RecordRead> reads;
  for (const GuessRef* guess : missing) {
    if (tier_->room_bytes() < block_bytes) break;  // a guess may be left out
    CACHETTE_TRY(const Block block, tier_->Allocate(block_bytes));
    guesses_[StreamIdx(layer, guess->kv_head)].push_back({block, guess->page.first_position, guess->wanted});
    reads.push_back({guess->page.record, block.data});
    read.num_entries += __builtin_popcount(guess->wanted);
    ++read.num_pages;
  }
  if (reads.empty()) return read;
  CACHETTE_TRY(guess_reads_[static_cast<size_t>(layer)], slow_->StartRead(reads));
  return read;
}

SequenceCache::Guess* SequenceCache::HeldGuess(int layer, const GuessRef& guess) {
  for (Guess& held : guesses_[StreamIdx(layer, guess.kv_head)])
    if (held.first_position == guess.page.first_position) return &held;
  return nullptr;
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
  num_copies += static_cast<size_t>(ahead_.num_blocks);
  fast += static_cast<int64_t>(num_copies * shape_.format.block_bytes());
  ledger_.SetMetadataBytes(fast);
  ledger_.SetMetadataBytes(slow_->kind(), slow_copies);
}

}  // namespace cachette
