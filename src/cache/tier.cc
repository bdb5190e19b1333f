#include "cache/tier.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>

namespace cachette {
namespace {

constexpr size_t kSlabBytes = 2u << 20;  // one huge page: a slab fills or frees as a whole

}  // namespace

const char* TierName(TierKind kind) {
  switch (kind) {
    case TierKind::kDevice: return "device";
    case TierKind::kPinned: return "pinned";
    case TierKind::kHost: return "host";
    case TierKind::kArena: return "arena";
    case TierKind::kDisk: return "disk";
  }
  return "unknown";
}

BlockPool::BlockPool(size_t block_bytes)
    : block_bytes_(block_bytes),
      slab_bytes_(std::max(kSlabBytes, block_bytes)),
      blocks_per_slab_(static_cast<uint32_t>(slab_bytes_ / block_bytes)) {
  CACHETTE_CHECK(block_bytes > 0 && block_bytes % 64 == 0);
}

BlockPool::~BlockPool() {
  for (Slab& slab : slabs_)
    if (slab.memory != nullptr) munmap(slab.memory, slab_bytes_);
}

Result<size_t> BlockPool::SlabWithFreeBlock() {
  size_t unmapped = slabs_.size();
  for (size_t i = first_candidate_; i < slabs_.size(); ++i) {
    if (slabs_[i].memory == nullptr) {
      unmapped = std::min(unmapped, i);
    } else if (!slabs_[i].free_list.empty()) {
      first_candidate_ = std::min(i, unmapped);
      return i;
    }
  }
  void* memory = mmap(nullptr, slab_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    return Fail(Error::kOutOfMemory,
                fmt::format("the machine has no {} bytes left for KV blocks; lower the budget or the context length",
                            slab_bytes_));
  madvise(memory, slab_bytes_, MADV_HUGEPAGE);  // a hint: fewer faults while filling, fewer misses while reading
  if (unmapped == slabs_.size()) slabs_.emplace_back();
  Slab& slab = slabs_[unmapped];
  slab.memory = static_cast<std::byte*>(memory);
  slab.ref_counts.assign(blocks_per_slab_, 0);
  slab.free_list.resize(blocks_per_slab_);
  for (uint32_t i = 0; i < blocks_per_slab_; ++i)
    slab.free_list[i] = static_cast<uint16_t>(blocks_per_slab_ - 1 - i);  // lowest address first
  ++idle_slabs_;
  first_candidate_ = unmapped;
  return unmapped;
}

Result<Block> BlockPool::Allocate() {
  CACHETTE_TRY(const size_t slab_idx, SlabWithFreeBlock());
  Slab& slab = slabs_[slab_idx];
  if (slab.free_list.size() == blocks_per_slab_) --idle_slabs_;
  const uint16_t slot = slab.free_list.back();
  slab.free_list.pop_back();
  slab.ref_counts[slot] = 1;
  ++owned_blocks_;
  return Block{slab.memory + static_cast<size_t>(slot) * block_bytes_,
               static_cast<uint32_t>(slab_idx) * blocks_per_slab_ + slot};
}

void BlockPool::AddRef(uint32_t id) {
  uint32_t& count = slabs_[id / blocks_per_slab_].ref_counts[id % blocks_per_slab_];
  CACHETTE_CHECK(count > 0);
  ++count;
}

bool BlockPool::Release(uint32_t id) {
  const size_t slab_idx = id / blocks_per_slab_;
  Slab& slab = slabs_[slab_idx];
  uint32_t& count = slab.ref_counts[id % blocks_per_slab_];
  CACHETTE_CHECK(count > 0);
  if (--count > 0) return false;
  slab.free_list.push_back(static_cast<uint16_t>(id % blocks_per_slab_));
  --owned_blocks_;
  first_candidate_ = std::min(first_candidate_, slab_idx);
  if (slab.free_list.size() == blocks_per_slab_) {
    if (idle_slabs_ > 0) {
      Unmap(slab);
    } else {
      ++idle_slabs_;
    }
  }
  return true;
}

void BlockPool::Unmap(Slab& slab) {
  munmap(slab.memory, slab_bytes_);
  slab.memory = nullptr;
  slab.free_list.clear();
}

int64_t BlockPool::total_blocks() const {
  int64_t mapped = 0;
  for (const Slab& slab : slabs_) mapped += slab.memory != nullptr ? blocks_per_slab_ : 0;
  return mapped;
}

int64_t BlockPool::free_blocks() const {
  int64_t free = 0;
  for (const Slab& slab : slabs_) free += static_cast<int64_t>(slab.free_list.size());
  return free;
}

uint32_t BlockPool::ref_count(uint32_t id) const {
  const size_t slab_idx = id / blocks_per_slab_;
  return slab_idx < slabs_.size() ? slabs_[slab_idx].ref_counts[id % blocks_per_slab_] : 0;
}

BlockPool& Tier::Pool(size_t block_bytes) {
  std::unique_ptr<BlockPool>& pool = pools_[block_bytes];
  if (pool == nullptr) pool = std::make_unique<BlockPool>(block_bytes);
  return *pool;
}

size_t Tier::room_bytes() const { return limit_bytes_ - std::min(limit_bytes_, owned_bytes_ + promised_bytes_); }

Result<void> Tier::CheckRoom(size_t num_bytes) const { return CheckBeside(owned_bytes_ + promised_bytes_, num_bytes); }

Result<void> Tier::CheckBeside(size_t taken_bytes, size_t num_bytes) const {
  if (limit_bytes_ == kUnlimited || num_bytes <= limit_bytes_ - std::min(limit_bytes_, taken_bytes)) return Ok();
  return Fail(Error::kOutOfMemory,
              fmt::format("{} tier: {:.1f} MiB of KV held and {:.1f} MiB more needed pass the limit of {:.1f} MiB; "
                          "raise --fast-kv-bytes, shorten the input or choose a recipe with a smaller budget",
                          TierName(kind_), static_cast<double>(taken_bytes) / 0x1p20,
                          static_cast<double>(num_bytes) / 0x1p20, static_cast<double>(limit_bytes_) / 0x1p20));
}

Result<Block> Tier::Allocate(size_t block_bytes) {
  CACHETTE_TRY(CheckBeside(owned_bytes_, block_bytes));
  CACHETTE_TRY(const Block block, Pool(block_bytes).Allocate());
  owned_bytes_ += block_bytes;
  peak_bytes_ = std::max(peak_bytes_, owned_bytes_);
  return block;
}

void Tier::AddRef(size_t block_bytes, uint32_t id) { Pool(block_bytes).AddRef(id); }

void Tier::Release(size_t block_bytes, uint32_t id) {
  if (Pool(block_bytes).Release(id)) owned_bytes_ -= block_bytes;
}

}  // namespace cachette
