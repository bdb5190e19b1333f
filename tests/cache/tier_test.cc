#include "cache/tier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <set>
#include <vector>

#include "base/rng.h"

namespace cachette {
namespace {

using ::testing::HasSubstr;

constexpr size_t kSlabBytes = 2u << 20;

bool IsMapped(const std::byte* p) {
  const auto page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  unsigned char residency;
  void* page = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(p) / page_bytes * page_bytes);
  return mincore(page, page_bytes, &residency) == 0 || errno != ENOMEM;
}

Block MustAllocate(BlockPool& pool) {
  auto block = pool.Allocate();
  CACHETTE_CHECK(block.ok());
  return *block;
}

TEST(BlockPool, BlocksAreAlignedDistinctAndHoldTheirBytes) {
  for (const size_t block_bytes : {64ul, 320ul, 4096ul, 8192ul, kSlabBytes, 3ul << 20}) {
    BlockPool pool(block_bytes);
    const auto per_slab = std::max<size_t>(1, kSlabBytes / block_bytes);
    const size_t count = std::min<size_t>(2 * per_slab + 1, 1000) + (block_bytes == 64 ? per_slab : 0);
    std::vector<Block> blocks;
    std::set<uint32_t> ids;
    for (size_t i = 0; i < count; ++i) {
      blocks.push_back(MustAllocate(pool));
      ASSERT_EQ(reinterpret_cast<uintptr_t>(blocks.back().data) % 64, 0u);
      std::memset(blocks.back().data, static_cast<int>(i % 251), block_bytes);
      ids.insert(blocks.back().id);
    }
    EXPECT_EQ(ids.size(), count);
    EXPECT_EQ(pool.owned_blocks(), static_cast<int64_t>(count));
    for (size_t i = 0; i < count; ++i) {
      ASSERT_EQ(blocks[i].data[0], static_cast<std::byte>(i % 251)) << block_bytes;
      ASSERT_EQ(blocks[i].data[block_bytes - 1], static_cast<std::byte>(i % 251)) << block_bytes;
    }
    for (const Block& block : blocks) EXPECT_TRUE(pool.Release(block.id));
    EXPECT_EQ(pool.owned_blocks(), 0);
    EXPECT_EQ(pool.free_blocks(), pool.total_blocks());
  }
}

TEST(BlockPool, AFreeSlabGoesBackToTheSystemButOne) {
  BlockPool pool(kSlabBytes / 4);
  std::vector<Block> blocks;
  for (int i = 0; i < 12; ++i) blocks.push_back(MustAllocate(pool));
  EXPECT_EQ(pool.total_blocks(), 12);
  for (int i = 0; i < 4; ++i) pool.Release(blocks[static_cast<size_t>(i)].id);
  EXPECT_EQ(pool.total_blocks(), 12);  // one idle slab stays for the next append
  EXPECT_TRUE(IsMapped(blocks[0].data));
  for (int i = 4; i < 8; ++i) pool.Release(blocks[static_cast<size_t>(i)].id);
  EXPECT_EQ(pool.total_blocks(), 8);
  EXPECT_FALSE(IsMapped(blocks[4].data));
  for (int i = 8; i < 12; ++i) pool.Release(blocks[static_cast<size_t>(i)].id);
  EXPECT_EQ(pool.total_blocks(), 4);
  EXPECT_EQ(pool.free_blocks(), 4);
  // Ids of returned slabs are used again, each by one block.
  std::set<uint32_t> ids;
  for (int i = 0; i < 12; ++i) ids.insert(MustAllocate(pool).id);
  EXPECT_EQ(ids.size(), 12u);
  EXPECT_LT(*ids.rbegin(), 12u);
}

TEST(BlockPool, AlternatingAtASlabEdgeDoesNotMapEachTime) {
  BlockPool pool(kSlabBytes / 2);
  const Block first = MustAllocate(pool), second = MustAllocate(pool);
  const std::byte* edge = nullptr;
  for (int i = 0; i < 100; ++i) {
    const Block block = MustAllocate(pool);
    if (i == 0) edge = block.data;
    ASSERT_EQ(block.data, edge);
    pool.Release(block.id);
    ASSERT_EQ(pool.total_blocks(), 4);
  }
  pool.Release(first.id);
  pool.Release(second.id);
}

TEST(BlockPool, ReferencesKeepABlock) {
  BlockPool pool(64);
  const Block block = MustAllocate(pool);
  pool.AddRef(block.id);
  pool.AddRef(block.id);
  EXPECT_EQ(pool.ref_count(block.id), 3u);
  EXPECT_FALSE(pool.Release(block.id));
  EXPECT_FALSE(pool.Release(block.id));
  EXPECT_EQ(pool.owned_blocks(), 1);
  EXPECT_TRUE(pool.Release(block.id));
  EXPECT_EQ(pool.owned_blocks(), 0);
  EXPECT_EQ(pool.ref_count(block.id), 0u);
  EXPECT_EQ(pool.ref_count(1u << 30), 0u);
}

TEST(BlockPoolDeathTest, ReleasingOrSharingAFreeBlockIsOurMistake) {
  BlockPool pool(64);
  const Block block = MustAllocate(pool);
  pool.Release(block.id);
  EXPECT_DEATH(pool.Release(block.id), "count > 0");
  EXPECT_DEATH(pool.AddRef(block.id), "count > 0");
}

TEST(BlockPool, RandomUseAgreesWithAList) {
  BlockPool pool(kSlabBytes / 8);
  struct Held {
    Block block;
    uint32_t refs;
    std::byte mark;
  };
  std::vector<Held> held;
  Rng rng(11);
  for (int step = 0; step < 20000; ++step) {
    // The trend alternates, so that many slabs fill and empty.
    const bool is_growing = (step / 500) % 2 == 0;
    if (held.empty() || rng.Below(10) < (is_growing ? 6u : 3u)) {
      const auto mark = static_cast<std::byte>(rng.Below(256));
      held.push_back({MustAllocate(pool), 1, mark});
      held.back().block.data[0] = mark;
    } else {
      const size_t i = rng.Below(held.size());
      if (rng.Below(4) == 0) {
        pool.AddRef(held[i].block.id);
        ++held[i].refs;
      } else {
        ASSERT_EQ(held[i].block.data[0], held[i].mark);
        const bool is_last = --held[i].refs == 0;
        ASSERT_EQ(pool.Release(held[i].block.id), is_last);
        if (is_last) held.erase(held.begin() + static_cast<int64_t>(i));
      }
    }
    ASSERT_EQ(pool.owned_blocks(), static_cast<int64_t>(held.size()));
    ASSERT_EQ(pool.free_blocks() + pool.owned_blocks(), pool.total_blocks());
  }
  for (const Held& h : held) ASSERT_EQ(pool.ref_count(h.block.id), h.refs);
}

TEST(Tier, CountsBytesOfAllPoolsAndTheirPeak) {
  Tier tier(TierKind::kHost);
  const auto small = tier.Allocate(64), large = tier.Allocate(4096);
  ASSERT_TRUE(small.ok() && large.ok());
  EXPECT_EQ(tier.owned_bytes(), 64u + 4096u);
  tier.AddRef(4096, large->id);
  tier.Release(4096, large->id);
  EXPECT_EQ(tier.owned_bytes(), 64u + 4096u);  // still one reference
  tier.Release(4096, large->id);
  EXPECT_EQ(tier.owned_bytes(), 64u);
  tier.Release(64, small->id);
  EXPECT_EQ(tier.owned_bytes(), 0u);
  EXPECT_EQ(tier.peak_bytes(), 64u + 4096u);
  EXPECT_EQ(tier.pools().size(), 2u);
}

TEST(Tier, TheLimitIsExactAndAFailureChangesNothing) {
  Tier tier(TierKind::kDevice, 3 * 64 + 63);
  EXPECT_TRUE(tier.CheckRoom(3 * 64 + 63).ok());
  EXPECT_FALSE(tier.CheckRoom(3 * 64 + 64).ok());
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(tier.Allocate(64).ok());
  const auto refused = tier.Allocate(64);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.failure().error, Error::kOutOfMemory);
  EXPECT_THAT(refused.failure().message, HasSubstr("device tier"));
  EXPECT_THAT(refused.failure().message, HasSubstr("--fast-kv-bytes"));
  EXPECT_EQ(tier.owned_bytes(), 3u * 64);
  EXPECT_EQ(tier.peak_bytes(), 3u * 64);
  EXPECT_EQ(tier.pools().at(64)->owned_blocks(), 3);
  EXPECT_TRUE(tier.CheckRoom(63).ok());
  tier.Release(64, 0);
  EXPECT_TRUE(tier.Allocate(64).ok());
}

TEST(Tier, NoLimitTakesAnySizeAndZeroTakesNone) {
  EXPECT_TRUE(Tier(TierKind::kHost).CheckRoom(Tier::kUnlimited).ok());
  Tier none(TierKind::kHost, 0);
  EXPECT_TRUE(none.CheckRoom(0).ok());
  EXPECT_FALSE(none.CheckRoom(1).ok());
  EXPECT_FALSE(none.Allocate(64).ok());
}

TEST(Tier, EveryKindHasItsName) {
  std::set<std::string> names;
  for (const TierKind kind : {TierKind::kDevice, TierKind::kPinned, TierKind::kHost, TierKind::kDisk})
    names.insert(TierName(kind));
  EXPECT_EQ(names, (std::set<std::string>{"device", "pinned", "host", "disk"}));
}

// Who asks leaves a promise alone; who holds it allocates in spite of it.
TEST(Tier, WhatIsPromisedIsNoRoom) {
  Tier tier(TierKind::kHost, 10 * 64);
  EXPECT_EQ(tier.room_bytes(), 640u);
  RoomPromise one(tier);
  one.Set(4 * 64);
  {
    RoomPromise other(tier);
    other.Set(5 * 64);
    EXPECT_EQ(tier.promised_bytes(), 9u * 64);
    EXPECT_TRUE(tier.CheckRoom(64).ok());
    EXPECT_FALSE(tier.CheckRoom(65).ok());
    other.Set(7 * 64);  // more than there is
    EXPECT_EQ(tier.room_bytes(), 0u);
    EXPECT_TRUE(tier.CheckRoom(0).ok());
  }
  EXPECT_EQ(tier.room_bytes(), 6u * 64);
  std::vector<Block> blocks;
  for (int i = 0; i < 10; ++i) {
    const auto block = tier.Allocate(64);
    ASSERT_TRUE(block.ok());
    blocks.push_back(*block);
  }
  EXPECT_FALSE(tier.Allocate(64).ok());
  RoomPromise moved = std::move(one);
  EXPECT_EQ(tier.promised_bytes(), 4u * 64);
  moved.Set(0);
  EXPECT_EQ(tier.promised_bytes(), 0u);
  EXPECT_EQ(Tier(TierKind::kHost).room_bytes(), Tier::kUnlimited);
  for (const Block& block : blocks) tier.Release(64, block.id);
}

}  // namespace
}  // namespace cachette
