#include "cache/sequence_cache.h"

#include <algorithm>
#include <numeric>

#include "cache/position_runs.h"
#include "ops/attention/kv_store.h"

namespace cachette {

SequenceCache::SequenceCache(Tier& tier, const CacheShape& shape, RecordStore* slow)
    : tier_(&tier),
      slow_(slow),
      shape_(shape),
      ledger_(shape.num_layers * shape.num_kv_heads, tier.kind()),
      promise_(tier) {
  const int num_streams = shape.num_layers * shape.num_kv_heads;
  streams_.reserve(static_cast<size_t>(num_streams));
  for (int i = 0; i < num_streams; ++i) streams_.emplace_back(tier, shape.format, shape.has_scores, shape.codec);
  if (shape.units.num_index_vectors == 0) return;
  CACHETTE_CHECK(slow != nullptr && slow->record_bytes() == shape.format.block_bytes());
  tables_.reserve(static_cast<size_t>(num_streams));
  for (int i = 0; i < num_streams; ++i) tables_.emplace_back(tier, *slow, shape.format, shape.units.num_index_vectors);
  views_.resize(static_cast<size_t>(shape.num_kv_heads));
  guesses_.resize(static_cast<size_t>(num_streams));
  guess_reads_.resize(static_cast<size_t>(shape.num_layers));
}

SequenceCache::~SequenceCache() {
  if (guesses_.empty()) return;  // without units, or moved from
  for (int layer = 0; layer < shape_.num_layers; ++layer) DropGuesses(layer);
  DropAhead();
  EndView();
}

Result<SequenceCache> SequenceCache::Clone() const {
  SequenceCache copy(*tier_, shape_, slow_);
  copy.tables_.clear();
  for (const UnitTable& table : tables_) {
    CACHETTE_TRY(UnitTable own, table.Clone());
    copy.tables_.push_back(std::move(own));
  }
  copy.streams_.clear();
  for (const HeadStream& stream : streams_) {
    CACHETTE_TRY(HeadStream own, stream.Clone());
    copy.streams_.push_back(std::move(own));
  }
  copy.ledger_ = ledger_;
  return copy;
}

// Of the blocks that num_tokens more would allocate, those that are there after the layer's pass: with units the others
// leave before the next layer's come.
int64_t SequenceCache::StayingBlocks(int layer, int kv_head, int64_t num_tokens) const {
  const int64_t appended = stream(layer, kv_head).BlocksToAppend(num_tokens);
  if (shape_.units.KeepsAll(layer)) return appended;
  const int64_t most = ops::BlocksFor(shape_.units.local_entries);
  return std::clamp<int64_t>(most - stream(layer, kv_head).num_blocks(), 0, appended);
}

size_t SequenceCache::BytesToAppend(int64_t num_tokens) const {
  int64_t num_blocks = 0, most_passing = 0;  // of one layer all, of the others what stays
  for (int layer = 0; layer < shape_.num_layers; ++layer) {
    int64_t passing = 0;
    for (int head = 0; head < shape_.num_kv_heads; ++head) {
      const int64_t staying = StayingBlocks(layer, head, num_tokens);
      num_blocks += staying;
      passing += stream(layer, head).BlocksToAppend(num_tokens) - staying;
    }
    most_passing = std::max(most_passing, passing);
  }
  return static_cast<size_t>(num_blocks + most_passing) * shape_.format.block_bytes();
}

int64_t SequenceCache::least_blocks(int layer, int kv_head) const {
  const int64_t num_entries = units(layer, kv_head).num_entries();
  return std::min(shape_.units.least_blocks, ops::BlocksFor(num_entries));
}

// What was read ahead is room that the layer has already.
int64_t SequenceCache::BlocksToRecall(int layer) const {
  int64_t num_blocks = 0;
  for (int head = 0; has_units() && head < shape_.num_kv_heads; ++head)
    num_blocks += std::max<int64_t>(0, least_blocks(layer, head) - units(layer, head).resident_blocks());
  return std::max<int64_t>(0, num_blocks - (ahead_.layer == layer ? ahead_.num_blocks : 0));
}

size_t SequenceCache::BytesForPass(const PassInfo& pass) const {
  int64_t to_recall = 0;
  for (int layer = 0; pass.phase == Phase::kDecode && layer < shape_.num_layers; ++layer)
    to_recall += BlocksToRecall(layer);
  return BytesToAppend(pass.num_tokens + pass.num_transient) +
         static_cast<size_t>(to_recall) * shape_.format.block_bytes();
}

Result<void> SequenceCache::BeginPass(const PassInfo& pass) {
  promise_.Set(0);  // of a pass that was given up
  DropAhead();
  const size_t num_bytes = BytesForPass(pass);
  CACHETTE_TRY(tier_->CheckRoom(num_bytes));
  promise_.Set(num_bytes);
  bytes_to_come_.assign(static_cast<size_t>(shape_.num_layers) + 1, 0);
  for (int layer = shape_.num_layers - 1; layer >= 0; --layer) {
    int64_t num_blocks = pass.phase == Phase::kDecode ? BlocksToRecall(layer) : 0;
    for (int head = 0; head < shape_.num_kv_heads; ++head)
      num_blocks += StayingBlocks(layer, head, pass.num_tokens + pass.num_transient);
    const auto at = static_cast<size_t>(layer);
    bytes_to_come_[at] = bytes_to_come_[at + 1] + static_cast<size_t>(num_blocks) * shape_.format.block_bytes();
  }
  is_decode_ = pass.phase == Phase::kDecode;
  ledger_.BeginPass(pass.first_token, pass.num_tokens);
  num_transient_ = pass.num_transient;
  pass_positions_.resize(static_cast<size_t>(pass.num_tokens + pass.num_transient));
  std::iota(pass_positions_.begin(), pass_positions_.end(), static_cast<int32_t>(pass.first_token));
  return Ok();
}

void SequenceCache::EndPass() {
  promise_.Set(0);
  ledger_.EndPass();
}

void SequenceCache::OpenRecall(int layer) { promise_.Set(bytes_to_come_[static_cast<size_t>(layer) + 1]); }

Result<void> SequenceCache::Append(Context& cx, int layer, const float* keys, int64_t key_stride, const float* values,
                                   int64_t value_stride) {
  const auto num_tokens = static_cast<int64_t>(pass_positions_.size());
  if (num_tokens == 0) return Ok();
  const int head_dim = shape_.format.head_dim;
  std::vector<int64_t> first_slots(static_cast<size_t>(shape_.num_kv_heads));
  for (int head = 0; head < shape_.num_kv_heads; ++head) {
    HeadStream& stream = streams_[StreamIdx(layer, head)];
    CACHETTE_TRY(first_slots[static_cast<size_t>(head)], stream.Append(pass_positions_));
    ledger_.Append(static_cast<int>(StreamIdx(layer, head)), pass_positions_.front(), num_tokens - num_transient_,
                   static_cast<int64_t>(stream.format().entry_bytes()));
  }
  // What later layers only pass through is free again by then.
  promise_.Set(bytes_to_come_[static_cast<size_t>(layer) + 1] +
               (is_decode_ ? static_cast<size_t>(BlocksToRecall(layer)) * shape_.format.block_bytes() : 0));
  if (num_transient_ > 0) ledger_.Transient(num_transient_ * shape_.num_kv_heads);
  const auto store = [&](int64_t head) {
    const HeadStream& stream = streams_[StreamIdx(layer, static_cast<int>(head))];
    ops::StoreEntries(stream.format(), stream.blocks(), first_slots[static_cast<size_t>(head)], keys + head * head_dim,
                      key_stride, values + head * head_dim, value_stride, num_tokens);
  };
  if (num_tokens < 32) {  // a thread hand-over costs more than storing a few entries
    for (int head = 0; head < shape_.num_kv_heads; ++head) store(head);
  } else {
    cx.ParallelFor(shape_.num_kv_heads, store);
  }
  return Ok();
}

void SequenceCache::RemoveTransient(int layer) {
  if (num_transient_ == 0) return;
  for (int head = 0; head < shape_.num_kv_heads; ++head) streams_[StreamIdx(layer, head)].RemoveLast(num_transient_);
  ledger_.Transient(-num_transient_ * shape_.num_kv_heads);
}

void SequenceCache::Evict(int layer, int kv_head, std::span<const SlotRange> ranges, EvictTime time) {
  HeadStream& stream = streams_[StreamIdx(layer, kv_head)];
  const int stream_idx = static_cast<int>(StreamIdx(layer, kv_head));
  const auto entry_bytes = static_cast<int64_t>(stream.format().entry_bytes());
  evicted_.clear();
  for (const SlotRange& range : ranges)
    for (int64_t slot = range.begin; slot < range.end; ++slot)
      if (stream.IsLive(slot)) evicted_.push_back(stream.positions()[static_cast<size_t>(slot)]);
  ForEachRun(evicted_, [&](int64_t first_position, int64_t count) {
    ledger_.Evict(stream_idx, first_position, count, entry_bytes, time);
  });
  stream.Evict(ranges);
}

Result<void> SequenceCache::EncodeTail(Context& cx, int layer) {
  // Blocks of a KV head per round: the scratch stays small however long the prompt was.
  constexpr int64_t kRoundBlocks = 16;
  struct Task {
    const HeadStream* stream;
    int64_t block_idx;
  };
  for (;;) {
    std::vector<Task> tasks;
    for (int head = 0; head < shape_.num_kv_heads; ++head) {
      const HeadStream& of_head = stream(layer, head);
      for (int64_t i = 0; i < std::min(of_head.NumCodable(), kRoundBlocks); ++i) tasks.push_back({&of_head, i});
    }
    if (tasks.empty()) return Ok();
    const ScratchScope scope(cx.scratch());
    const auto block_bytes = static_cast<size_t>(tasks[0].stream->coded_layout().block_bytes);
    std::byte* const coded = cx.scratch().Allocate(tasks.size() * block_bytes);
    cx.ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
      const Task& task = tasks[static_cast<size_t>(i)];
      task.stream->MakeCoded(task.block_idx, coded + static_cast<size_t>(i) * block_bytes);
    });
    const std::byte* from = coded;
    for (int head = 0; head < shape_.num_kv_heads; ++head) {
      HeadStream& of_head = stream(layer, head);
      const int64_t num_blocks = std::min(of_head.NumCodable(), kRoundBlocks);
      const int64_t first_slot = of_head.num_coded_slots();
      CACHETTE_TRY(of_head.ReplaceByCoded(from, num_blocks));
      BookRewrite(layer, head, first_slot);
      from += static_cast<size_t>(num_blocks) * block_bytes;
    }
  }
}

// Tells the ledger that the coded slots from first_slot on were plain before.
void SequenceCache::BookRewrite(int layer, int kv_head, int64_t first_slot) {
  const HeadStream& of_head = stream(layer, kv_head);
  const auto num_coded = static_cast<size_t>(of_head.num_coded_slots());
  ForEachRun(of_head.positions().first(num_coded).subspan(static_cast<size_t>(first_slot)),
             [&](int64_t first_position, int64_t count) {
               ledger_.Rewrite(static_cast<int>(StreamIdx(layer, kv_head)), first_position, count,
                               count * static_cast<int64_t>(of_head.format().entry_bytes()),
                               count * of_head.coded_layout().entry_bytes, EvictTime::kAfterAttention);
             });
}

int64_t SequenceCache::HeldBytes() const {
  int64_t sum = 0;
  for (const HeadStream& stream : streams_) sum += stream.HeldBytes();
  return sum;
}

}  // namespace cachette
