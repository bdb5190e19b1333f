#include "cache/sequence_cache.h"

#include <numeric>

#include "ops/attention/kv_store.h"

namespace cachette {

SequenceCache::SequenceCache(Tier& tier, const CacheShape& shape)
    : tier_(&tier), shape_(shape), ledger_(shape.num_layers * shape.num_kv_heads) {
  streams_.reserve(static_cast<size_t>(shape.num_layers * shape.num_kv_heads));
  for (int i = 0; i < shape.num_layers * shape.num_kv_heads; ++i) streams_.emplace_back(tier, shape.format, shape.has_scores);
}

Result<SequenceCache> SequenceCache::Clone() const {
  SequenceCache copy(*tier_, shape_);
  copy.streams_.clear();
  for (const HeadStream& stream : streams_) {
    CACHETTE_TRY(HeadStream own, stream.Clone());
    copy.streams_.push_back(std::move(own));
  }
  copy.ledger_ = ledger_;
  return copy;
}

size_t SequenceCache::BytesToAppend(int64_t num_tokens) const {
  size_t new_bytes = 0;
  for (const HeadStream& stream : streams_)
    new_bytes += static_cast<size_t>(stream.BlocksToAppend(num_tokens)) * stream.format().block_bytes();
  return new_bytes;
}

Result<void> SequenceCache::BeginPass(const PassInfo& pass) {
  CACHETTE_TRY(tier_->CheckRoom(BytesToAppend(pass.num_tokens + pass.num_transient)));
  ledger_.BeginPass(pass.first_token, pass.num_tokens);
  num_transient_ = pass.num_transient;
  pass_positions_.resize(static_cast<size_t>(pass.num_tokens + pass.num_transient));
  std::iota(pass_positions_.begin(), pass_positions_.end(), static_cast<int32_t>(pass.first_token));
  return Ok();
}

void SequenceCache::EndPass() { ledger_.EndPass(); }

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
  // The ledger takes runs of consecutive positions.
  for (const SlotRange& range : ranges) {
    int64_t run_first = 0, run_count = 0;
    for (int64_t slot = range.begin; slot < range.end; ++slot) {
      if (!stream.IsLive(slot)) continue;
      const int64_t position = stream.positions()[static_cast<size_t>(slot)];
      if (run_count > 0 && position != run_first + run_count) {
        ledger_.Evict(stream_idx, run_first, run_count, entry_bytes, time);
        run_count = 0;
      }
      if (run_count == 0) run_first = position;
      ++run_count;
    }
    if (run_count > 0) ledger_.Evict(stream_idx, run_first, run_count, entry_bytes, time);
  }
  stream.Evict(ranges);
}

int64_t SequenceCache::HeldBytes() const {
  int64_t sum = 0;
  for (const HeadStream& stream : streams_)
    sum += stream.num_blocks() * static_cast<int64_t>(stream.format().block_bytes());
  return sum;
}

}  // namespace cachette
