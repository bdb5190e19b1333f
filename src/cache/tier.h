#pragma once
// Where KV blocks live: pools of fixed-size blocks under one byte limit per tier.

#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"

namespace cachette {

// kArena: plain RAM outside the working set, what a slow tier is on a machine without a faster one.
enum class TierKind : uint8_t { kDevice, kPinned, kHost, kArena, kDisk };
const char* TierName(TierKind kind);

// A block handed out by a pool. data is 64-byte aligned and valid until the last Release.
struct Block {
  std::byte* data = nullptr;
  uint32_t id = 0;  // unique within its pool while owned
};

// Hands out reference-counted blocks of one size. Memory comes in slabs; a slab whose blocks are all free goes back to
// the operating system (one is kept), so freed blocks lower the resident memory. Not thread-safe.
class BlockPool {
 public:
  explicit BlockPool(size_t block_bytes);
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  // Errors: kOutOfMemory when the operating system has no memory for another slab.
  Result<Block> Allocate();
  void AddRef(uint32_t id);
  // True when this was the last reference and the block is free again.
  bool Release(uint32_t id);

  size_t block_bytes() const { return block_bytes_; }
  int64_t owned_blocks() const { return owned_blocks_; }
  int64_t total_blocks() const;  // in mapped slabs
  int64_t free_blocks() const;   // counted from the free lists, not derived, so that invariants can compare
  uint32_t ref_count(uint32_t id) const;

 private:
  struct Slab {
    std::byte* memory = nullptr;  // null: unmapped, ids reserved
    std::vector<uint16_t> free_list;
    std::vector<uint32_t> ref_counts;  // [blocks_per_slab_]
  };
  Result<size_t> SlabWithFreeBlock();
  void Unmap(Slab& slab);

  size_t block_bytes_;
  size_t slab_bytes_;
  uint32_t blocks_per_slab_;
  std::vector<Slab> slabs_;
  size_t first_candidate_ = 0;  // no slab before it has a free block
  int64_t owned_blocks_ = 0;
  int idle_slabs_ = 0;  // mapped slabs without an owned block
};

// One memory: all its pools (one per block size: heads may use different codecs) and its limit.
class Tier {
 public:
  static constexpr size_t kUnlimited = std::numeric_limits<size_t>::max();
  explicit Tier(TierKind kind, size_t limit_bytes = kUnlimited) : kind_(kind), limit_bytes_(limit_bytes) {}

  // Errors: kOutOfMemory when the limit or the machine is exhausted; nothing changes then.
  Result<Block> Allocate(size_t block_bytes);
  void AddRef(size_t block_bytes, uint32_t id);
  void Release(size_t block_bytes, uint32_t id);

  // Fails with kOutOfMemory, naming the numbers, when num_bytes more would pass the limit beside what is owned and what
  // is promised. Reserves nothing.
  Result<void> CheckRoom(size_t num_bytes) const;
  size_t room_bytes() const;  // that nobody owns and nobody was promised

  TierKind kind() const { return kind_; }
  size_t limit_bytes() const { return limit_bytes_; }
  size_t owned_bytes() const { return owned_bytes_; }
  size_t peak_bytes() const { return peak_bytes_; }
  size_t promised_bytes() const { return promised_bytes_; }
  const std::map<size_t, std::unique_ptr<BlockPool>>& pools() const { return pools_; }

 private:
  friend class RoomPromise;
  BlockPool& Pool(size_t block_bytes);
  Result<void> CheckBeside(size_t taken_bytes, size_t num_bytes) const;

  TierKind kind_;
  size_t limit_bytes_;
  size_t owned_bytes_ = 0;
  size_t peak_bytes_ = 0;
  size_t promised_bytes_ = 0;
  std::map<size_t, std::unique_ptr<BlockPool>> pools_;  // by block size
};

// Room of a tier that its holder is about to allocate: CheckRoom, which whoever could do with less asks first, leaves
// it alone. Allocate does not, so the holder lowers the promise beside what it allocates.
class RoomPromise {
 public:
  explicit RoomPromise(Tier& tier) : tier_(&tier) {}
  ~RoomPromise() { Set(0); }
  RoomPromise(RoomPromise&& other) noexcept : tier_(other.tier_), num_bytes_(other.num_bytes_) { other.num_bytes_ = 0; }
  RoomPromise& operator=(RoomPromise&&) = delete;
  void Set(size_t num_bytes) {
    tier_->promised_bytes_ += num_bytes - num_bytes_;
    num_bytes_ = num_bytes;
  }

 private:
  Tier* tier_;
  size_t num_bytes_ = 0;
};

}  // namespace cachette
