#pragma once
// The entries of one layer and KV head of one sequence: a ragged list over blocks of a tier.

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "cache/tier.h"
#include "ops/attention/kv_view.h"

namespace cachette {

// Half-open range of slots.
struct SlotRange {
  int64_t begin = 0;
  int64_t end = 0;
};

// Slots are in position order. An evicted entry leaves a dead slot; blocks without a live slot are released, neighbours
// that fit into one block are merged, and when more than one block of dead slots is left, the stream is rewritten densely.
// So it never holds more than one block beyond what its live entries need, and freed memory really returns.
class HeadStream {
 public:
  // has_scores: every entry carries one float that a recipe reads and writes and the stream moves along with it.
  HeadStream(Tier& tier, ops::KvFormat format, bool has_scores = false)
      : tier_(&tier), format_(format), has_scores_(has_scores) {}
  ~HeadStream();
  HeadStream(HeadStream&&) noexcept;
  HeadStream& operator=(HeadStream&&) = delete;

  // A copy with blocks of its own. Errors: kOutOfMemory.
  Result<HeadStream> Clone() const;

  // Makes num_tokens new slots with the given positions, each above all before, and returns the first. Their contents
  // are the caller's to write (ops::StoreEntries on blocks()). Errors: kOutOfMemory; the stream is unchanged then.
  Result<int64_t> Append(std::span<const int32_t> positions);

  // Evicts the live slots of sorted, disjoint ranges. Slot numbers are invalid afterwards.
  void Evict(std::span<const SlotRange> ranges);

  // Takes back the last num_slots appended slots, none of which was evicted since; the slots before keep their numbers.
  void RemoveLast(int64_t num_slots);

  // The slot of the rank-th live entry (0 = oldest); num_slots() for rank == num_live().
  int64_t SlotOfRank(int64_t rank) const;
  bool IsLive(int64_t slot) const {
    return (live_masks_[static_cast<size_t>(slot / ops::kBlockTokens)] >> (slot % ops::kBlockTokens)) & 1;
  }

  ops::KvRow Row() const;
  const ops::KvFormat& format() const { return format_; }
  std::byte* const* blocks() const { return blocks_.data(); }
  int64_t num_blocks() const { return static_cast<int64_t>(blocks_.size()); }
  int64_t num_slots() const { return num_slots_; }
  int64_t num_live() const { return num_live_; }
  std::span<const int32_t> positions() const { return positions_; }  // [num_slots]
  std::span<float> scores() { return scores_; }  // [num_slots], new ones 0; empty without has_scores
  std::span<const float> scores() const { return scores_; }
  std::span<const uint32_t> block_ids() const { return block_ids_; }
  std::span<const uint16_t> live_masks() const { return live_masks_; }

  // Blocks that num_tokens appended entries would allocate now.
  int64_t BlocksToAppend(int64_t num_tokens) const;

 private:
  int LiveIn(size_t block) const { return __builtin_popcount(live_masks_[block]); }
  void ReleaseBlock(size_t block);
  void MergeBlocks();
  void Rewrite();
  void MoveLive(size_t from_block, int64_t& to_slot);
  void TruncateBlocks(size_t num_blocks);
  void ResizeSlots(int64_t num_slots);

  Tier* tier_;
  ops::KvFormat format_;
  bool has_scores_;
  std::vector<std::byte*> blocks_;
  std::vector<uint32_t> block_ids_;
  std::vector<uint16_t> live_masks_;
  std::vector<int32_t> positions_;
  std::vector<float> scores_;
  int64_t num_slots_ = 0;
  int64_t num_live_ = 0;
};

}  // namespace cachette
