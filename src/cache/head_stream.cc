#include "cache/head_stream.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "ops/attention/kv_codec.h"
#include "ops/attention/kv_store.h"

namespace cachette {
namespace {

using ops::BlocksFor;
using ops::kBlockTokens;
using ops::kCodedEntries;

constexpr int kPlacesOfCoded = kCodedEntries / kBlockTokens;  // of a coded block in the list of blocks

// Bits [begin, end) of a block's mask.
uint16_t MaskBits(int64_t begin, int64_t end) { return static_cast<uint16_t>(((1u << (end - begin)) - 1u) << begin); }

}  // namespace

HeadStream::HeadStream(Tier& tier, ops::KvFormat format, bool has_scores, const KvCodec& codec)
    : tier_(&tier), format_(format), has_scores_(has_scores), residual_(codec.residual) {
  if (codec.bits > 0) coded_ = ops::CodedLayoutOf(codec.bits, format.head_dim);
}

HeadStream::HeadStream(HeadStream&& other) noexcept
    : tier_(other.tier_),
      format_(other.format_),
      has_scores_(other.has_scores_),
      residual_(other.residual_),
      coded_(other.coded_),
      blocks_(std::exchange(other.blocks_, {})),
      block_ids_(std::exchange(other.block_ids_, {})),
      live_masks_(std::exchange(other.live_masks_, {})),
      positions_(std::exchange(other.positions_, {})),
      scores_(std::exchange(other.scores_, {})),
      num_slots_(std::exchange(other.num_slots_, 0)),
      num_coded_slots_(std::exchange(other.num_coded_slots_, 0)),
      num_live_(std::exchange(other.num_live_, 0)) {}

HeadStream::~HeadStream() {
  for (size_t b = 0; b < blocks_.size(); b += b < FirstPlain() ? kPlacesOfCoded : 1) ReleaseBlock(b);
}

Result<HeadStream> HeadStream::Clone() const {
  HeadStream copy(*tier_, format_, has_scores_, {coded_.bits, residual_});
  for (size_t b = 0; b < blocks_.size();) {
    const bool is_coded = b < FirstPlain();
    const size_t num_places = is_coded ? kPlacesOfCoded : 1;
    const size_t block_bytes = is_coded ? static_cast<size_t>(coded_.block_bytes) : format_.block_bytes();
    CACHETTE_TRY(const Block block, tier_->Allocate(block_bytes));
    std::memcpy(block.data, blocks_[b], block_bytes);
    copy.blocks_.insert(copy.blocks_.end(), num_places, block.data);
    copy.block_ids_.insert(copy.block_ids_.end(), num_places, block.id);
    if (is_coded) copy.num_coded_slots_ += kCodedEntries;  // as far as it got, for its destructor
    b += num_places;
  }
  copy.live_masks_ = live_masks_;
  copy.positions_ = positions_;
  copy.scores_ = scores_;
  copy.num_slots_ = num_slots_;
  copy.num_live_ = num_live_;
  return copy;
}

int64_t HeadStream::BlocksToAppend(int64_t num_tokens) const {
  return BlocksFor(num_slots_ + num_tokens) - num_blocks();
}

Result<int64_t> HeadStream::Append(std::span<const int32_t> positions) {
  const auto count = static_cast<int64_t>(positions.size());
  const size_t old_blocks = blocks_.size();
  for (int64_t i = BlocksToAppend(count); i > 0; --i) {
    Result<Block> block = tier_->Allocate(format_.block_bytes());
    if (!block.ok()) {
      while (blocks_.size() > old_blocks) {
        ReleaseBlock(blocks_.size() - 1);
        TruncateBlocks(blocks_.size() - 1);
      }
      return std::move(block).failure();
    }
    std::memset(block->data, 0, format_.block_bytes());  // dead slots must hold finite numbers
    blocks_.push_back(block->data);
    block_ids_.push_back(block->id);
    live_masks_.push_back(0);
  }
  const int64_t first = num_slots_;
  positions_.insert(positions_.end(), positions.begin(), positions.end());
  ResizeSlots(num_slots_ + count);
  num_live_ += count;
  for (int64_t slot = first; slot < num_slots_;) {
    const int64_t block = slot / kBlockTokens;
    const int64_t end = std::min(num_slots_, (block + 1) * kBlockTokens);
    live_masks_[static_cast<size_t>(block)] |= MaskBits(slot % kBlockTokens, end - block * kBlockTokens);
    slot = end;
  }
  return first;
}

void HeadStream::Evict(std::span<const SlotRange> ranges) {
  const int64_t before = num_live_;
  for (const SlotRange& range : ranges) {
    CACHETTE_CHECK(range.begin >= num_coded_slots_ && range.begin <= range.end && range.end <= num_slots_);
    for (int64_t slot = range.begin; slot < range.end;) {
      const int64_t block = slot / kBlockTokens;
      const int64_t end = std::min(range.end, (block + 1) * kBlockTokens);
      uint16_t& mask = live_masks_[static_cast<size_t>(block)];
      const uint16_t dying = mask & MaskBits(slot % kBlockTokens, end - block * kBlockTokens);
      num_live_ -= __builtin_popcount(dying);
      mask = static_cast<uint16_t>(mask & ~dying);
      slot = end;
    }
  }
  if (num_live_ != before) CloseHoles();
}

void HeadStream::CloseHoles() {
  MergeBlocks();
  // Up to one block of dead slots keeps num_blocks() <= BlocksFor(num_live_) + 1 however many entries are appended.
  if (num_slots_ - num_live_ > kBlockTokens) Rewrite();
}

int64_t HeadStream::NumCodable() const {
  if (coded_.bits == 0) return 0;
  return std::max<int64_t>(num_live_ - num_coded_slots_ - residual_, 0) / kCodedEntries;
}

void HeadStream::MakeCoded(int64_t block_idx, std::byte* coded) const {
  CACHETTE_CHECK(block_idx >= 0 && block_idx < NumCodable());
  ops::EncodeBlock(format_, blocks_.data() + FirstPlain(), live_masks_.data() + FirstPlain(), block_idx * kCodedEntries,
                   coded_.bits, coded);
}

Result<void> HeadStream::ReplaceByCoded(const std::byte* coded, int64_t num_blocks) {
  CACHETTE_CHECK(num_blocks >= 0 && num_blocks <= NumCodable());
  std::vector<int32_t> positions;
  std::vector<float> scores;
  const auto num_leaving = static_cast<size_t>(num_blocks * kCodedEntries);
  for (size_t b = FirstPlain(); positions.size() < num_leaving; ++b)
    for (uint32_t mask = live_masks_[b]; mask != 0 && positions.size() < num_leaving; mask &= mask - 1) {
      const size_t slot = b * kBlockTokens + static_cast<size_t>(__builtin_ctz(mask));
      positions.push_back(positions_[slot]);
      scores.push_back(has_scores_ ? scores_[slot] : 0.0f);
      live_masks_[b] = static_cast<uint16_t>(live_masks_[b] & ~(mask & -mask));
    }
  num_live_ -= num_blocks * kCodedEntries;
  CloseHoles();
  for (int64_t i = 0; i < num_blocks; ++i) {
    CACHETTE_TRY(const Block block, tier_->Allocate(static_cast<size_t>(coded_.block_bytes)));
    std::memcpy(block.data, coded + i * coded_.block_bytes, static_cast<size_t>(coded_.block_bytes));
    const auto place = static_cast<int64_t>(FirstPlain());
    blocks_.insert(blocks_.begin() + place, kPlacesOfCoded, block.data);
    block_ids_.insert(block_ids_.begin() + place, kPlacesOfCoded, block.id);
    live_masks_.insert(live_masks_.begin() + place, kPlacesOfCoded, 0xffff);
    const int64_t from = i * kCodedEntries;
    positions_.insert(positions_.begin() + num_coded_slots_, positions.begin() + from,
                      positions.begin() + from + kCodedEntries);
    if (has_scores_)
      scores_.insert(scores_.begin() + num_coded_slots_, scores.begin() + from, scores.begin() + from + kCodedEntries);
    num_slots_ += kCodedEntries;
    num_coded_slots_ += kCodedEntries;
    num_live_ += kCodedEntries;
  }
  return Ok();
}

int64_t HeadStream::LiveBytes() const {
  return num_coded_slots_ * coded_.entry_bytes +
         (num_live_ - num_coded_slots_) * static_cast<int64_t>(format_.entry_bytes());
}

int64_t HeadStream::HeldBytes() const {
  return num_coded_slots_ * coded_.entry_bytes +
         (num_blocks() - static_cast<int64_t>(FirstPlain())) * static_cast<int64_t>(format_.block_bytes());
}

void HeadStream::RemoveLast(int64_t num_slots) {
  CACHETTE_CHECK(num_slots >= 0 && num_slots <= num_slots_ - num_coded_slots_);
  const int64_t end = num_slots_ - num_slots;
  const auto kept = static_cast<size_t>(BlocksFor(end));
  for (size_t b = kept; b < blocks_.size(); ++b) ReleaseBlock(b);
  TruncateBlocks(kept);
  if (const int64_t in_last = end % kBlockTokens; in_last != 0)
    live_masks_.back() = static_cast<uint16_t>(live_masks_.back() & MaskBits(0, in_last));
  num_live_ -= num_slots;
  ResizeSlots(end);
}

// Slots beyond the old end are new; positions_ may already hold theirs.
void HeadStream::ResizeSlots(int64_t num_slots) {
  num_slots_ = num_slots;
  positions_.resize(static_cast<size_t>(num_slots));
  if (has_scores_) scores_.resize(static_cast<size_t>(num_slots));
}

void HeadStream::ReleaseBlock(size_t block) {
  tier_->Release(block < FirstPlain() ? static_cast<size_t>(coded_.block_bytes) : format_.block_bytes(),
                 block_ids_[block]);
}

void HeadStream::TruncateBlocks(size_t num_blocks) {
  blocks_.resize(num_blocks);
  block_ids_.resize(num_blocks);
  live_masks_.resize(num_blocks);
}

// Copies the live entries of from_block to slots to_slot, to_slot + 1, ... (at or before their own).
void HeadStream::MoveLive(size_t from_block, int64_t& to_slot) {
  const int64_t base = static_cast<int64_t>(from_block) * kBlockTokens;
  for (uint32_t mask = live_masks_[from_block]; mask != 0; mask &= mask - 1) {
    const int64_t from_slot = base + __builtin_ctz(mask);
    if (from_slot != to_slot) {
      ops::CopyEntry(format_, blocks_.data(), from_slot, blocks_.data(), to_slot);
      positions_[static_cast<size_t>(to_slot)] = positions_[static_cast<size_t>(from_slot)];
      if (has_scores_) scores_[static_cast<size_t>(to_slot)] = scores_[static_cast<size_t>(from_slot)];
    }
    ++to_slot;
  }
}

// Drops dead blocks and folds a block into its left neighbour where both fit into one. The last block keeps its free
// tail for appends unless it was folded.
void HeadStream::MergeBlocks() {
  // Blocks [0, kept) are final, except that kept - 1 may still take a neighbour if it is plain.
  const size_t first = FirstPlain();
  size_t kept = first;
  int64_t tail_slots = num_slots_ - (num_blocks() - 1) * kBlockTokens;
  const size_t count = blocks_.size();
  for (size_t b = first; b < count; ++b) {
    const int live = LiveIn(b);
    if (live == 0) {
      ReleaseBlock(b);
      continue;
    }
    if (kept > first && LiveIn(kept - 1) + live <= kBlockTokens) {
      const int64_t base = static_cast<int64_t>(kept - 1) * kBlockTokens;
      int64_t to_slot = base;
      MoveLive(kept - 1, to_slot);
      MoveLive(b, to_slot);
      live_masks_[kept - 1] = MaskBits(0, to_slot - base);
      ReleaseBlock(b);
      continue;
    }
    if (kept != b) {
      blocks_[kept] = blocks_[b];
      block_ids_[kept] = block_ids_[b];
      live_masks_[kept] = live_masks_[b];
      const auto from = static_cast<int64_t>(b) * kBlockTokens, to = static_cast<int64_t>(kept) * kBlockTokens;
      const int64_t num_moved = b + 1 == count ? tail_slots : kBlockTokens;
      std::copy_n(positions_.begin() + from, num_moved, positions_.begin() + to);
      if (has_scores_) std::copy_n(scores_.begin() + from, num_moved, scores_.begin() + to);
    }
    ++kept;
    if (b + 1 != count) continue;
    // The original last block survived unmerged: its used slots stay as they are.
    TruncateBlocks(kept);
    ResizeSlots(static_cast<int64_t>(kept - 1) * kBlockTokens + tail_slots);
    return;
  }
  TruncateBlocks(kept);
  if (kept == first) return ResizeSlots(num_coded_slots_);
  // A folded or formerly inner block is last now; appends go on after its highest live slot.
  const int top = 32 - __builtin_clz(live_masks_[kept - 1]);
  ResizeSlots(static_cast<int64_t>(kept - 1) * kBlockTokens + top);
}

void HeadStream::Rewrite() {
  int64_t to_slot = num_coded_slots_;
  for (size_t b = FirstPlain(); b < blocks_.size(); ++b) MoveLive(b, to_slot);
  CACHETTE_CHECK(to_slot == num_live_);
  const auto kept = static_cast<size_t>(BlocksFor(num_live_));
  for (size_t b = kept; b < blocks_.size(); ++b) ReleaseBlock(b);
  TruncateBlocks(kept);
  ResizeSlots(num_live_);
  for (size_t b = FirstPlain(); b < kept; ++b)
    live_masks_[b] = MaskBits(0, std::min<int64_t>(kBlockTokens, num_slots_ - static_cast<int64_t>(b) * kBlockTokens));
}

int64_t HeadStream::SlotOfRank(int64_t rank) const {
  CACHETTE_CHECK(rank >= 0 && rank <= num_live_);
  if (num_live_ == num_slots_ || rank < num_coded_slots_) return rank;
  rank -= num_coded_slots_;
  for (size_t b = FirstPlain(); b < blocks_.size(); ++b) {
    const int live = LiveIn(b);
    if (rank < live) {
      uint32_t mask = live_masks_[b];
      for (; rank > 0; --rank) mask &= mask - 1;
      return static_cast<int64_t>(b) * kBlockTokens + __builtin_ctz(mask);
    }
    rank -= live;
  }
  return num_slots_;
}

ops::KvRow HeadStream::Row() const {
  return {blocks_.data(), positions_.data(), num_live_ == num_slots_ ? nullptr : live_masks_.data(),
          num_slots_,     format_,           num_coded_slots_,
          coded_.bits};
}

}  // namespace cachette
