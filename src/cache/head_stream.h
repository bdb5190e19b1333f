#pragma once
// The entries of one layer and KV head of one sequence: a ragged list over blocks of a tier.

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "cache/tier.h"
#include "ops/attention/coded_layout.h"
#include "ops/attention/kv_view.h"

namespace cachette {

// Half-open range of slots.
struct SlotRange {
  int64_t begin = 0;
  int64_t end = 0;
};

// How a stream stores entries that have grown old: in coded blocks of 64 (ops/attention/coded_layout.h), in which
// nothing can be evicted or rewritten any more. At least the newest residual entries stay plain.
struct KvCodec {
  int bits = 0;  // 8, 4 or 2; 0: every entry stays plain
  int64_t residual = 128;
  bool operator==(const KvCodec&) const = default;
};

// Slots are in position order, those of coded blocks first. An evicted entry leaves a dead slot; blocks without a live
// slot are released, neighbours that fit into one block are merged, and when more than one block of dead slots is left,
// the stream is rewritten densely. So it never holds more than one block beyond what its live entries need, and freed
// memory really returns.
class HeadStream {
 public:
  // has_scores: every entry carries one float that a recipe reads and writes and the stream moves along with it.
  HeadStream(Tier& tier, ops::KvFormat format, bool has_scores = false, const KvCodec& codec = {});
  ~HeadStream();
  HeadStream(HeadStream&&) noexcept;
  HeadStream& operator=(HeadStream&&) = delete;

  // A copy with blocks of its own. Errors: kOutOfMemory.
  Result<HeadStream> Clone() const;

  // Makes num_tokens new slots with the given positions, each above all before, and returns the first. Their contents
  // are the caller's to write (ops::StoreEntries on blocks()). Errors: kOutOfMemory; the stream is unchanged then.
  Result<int64_t> Append(std::span<const int32_t> positions);

  // Evicts the live slots of sorted, disjoint ranges, none of them coded. Slot numbers are invalid afterwards.
  void Evict(std::span<const SlotRange> ranges);

  // Blocks of 64 that the plain entries beyond the codec's residual fill.
  int64_t NumCodable() const;
  // Writes the block_idx-th of them to coded [coded_layout().block_bytes]. Changes nothing; any thread.
  void MakeCoded(int64_t block_idx, std::byte* coded) const;
  // Puts the first num_blocks codable blocks, as MakeCoded wrote them one after the other, in place of their entries.
  // Slot numbers are invalid afterwards. Frees the plain blocks first: the tier's limit is not in the way, and
  // kOutOfMemory, when the machine has no more, loses entries: the sequence must be dropped.
  Result<void> ReplaceByCoded(const std::byte* coded, int64_t num_blocks);

  // Takes back the last num_slots appended slots, none of which was evicted since; the slots before keep their numbers.
  void RemoveLast(int64_t num_slots);

  // The slot of the rank-th live entry (0 = oldest); num_slots() for rank == num_live().
  int64_t SlotOfRank(int64_t rank) const;
  bool IsLive(int64_t slot) const {
    return (live_masks_[static_cast<size_t>(slot / ops::kBlockTokens)] >> (slot % ops::kBlockTokens)) & 1;
  }

  ops::KvRow Row() const;
  const ops::KvFormat& format() const { return format_; }
  std::byte* const* blocks() const { return blocks_.data(); }  // as KvRow's
  int64_t num_blocks() const { return static_cast<int64_t>(blocks_.size()); }
  int64_t num_slots() const { return num_slots_; }
  int64_t num_coded_slots() const { return num_coded_slots_; }
  int64_t num_live() const { return num_live_; }
  const ops::CodedLayout& coded_layout() const { return coded_; }    // bits 0 without a codec
  int64_t LiveBytes() const;                                         // of the live entries
  int64_t HeldBytes() const;                                         // of the blocks
  std::span<const int32_t> positions() const { return positions_; }  // [num_slots]
  std::span<float> scores() { return scores_; }  // [num_slots], new ones 0; empty without has_scores
  std::span<const float> scores() const { return scores_; }
  std::span<const uint32_t> block_ids() const { return block_ids_; }
  std::span<const uint16_t> live_masks() const { return live_masks_; }

  // Blocks that num_tokens appended entries would allocate now.
  int64_t BlocksToAppend(int64_t num_tokens) const;

 private:
  int LiveIn(size_t block) const { return __builtin_popcount(live_masks_[block]); }
  size_t FirstPlain() const { return static_cast<size_t>(num_coded_slots_ / ops::kBlockTokens); }
  void ReleaseBlock(size_t block);
  void CloseHoles();
  void MergeBlocks();
  void Rewrite();
  void MoveLive(size_t from_block, int64_t& to_slot);
  void TruncateBlocks(size_t num_blocks);
  void ResizeSlots(int64_t num_slots);

  Tier* tier_;
  ops::KvFormat format_;
  bool has_scores_;
  int64_t residual_;
  ops::CodedLayout coded_{};
  std::vector<std::byte*> blocks_;   // a coded block stands at the four places of its slots
  std::vector<uint32_t> block_ids_;  // as blocks_
  std::vector<uint16_t> live_masks_;
  std::vector<int32_t> positions_;
  std::vector<float> scores_;
  int64_t num_slots_ = 0;
  int64_t num_coded_slots_ = 0;
  int64_t num_live_ = 0;
};

}  // namespace cachette
