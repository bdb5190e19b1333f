#include "tensor/context.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <vector>

namespace cachette {
namespace {

bool IsAligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; }

TEST(ScratchArena, EveryAllocationIsAlignedAndItsOwn) {
  ScratchArena arena;
  ScratchScope scope(arena);
  std::vector<std::pair<std::byte*, size_t>> taken;
  for (const size_t num_bytes : {0ul, 1ul, 63ul, 64ul, 65ul, 1ul << 20, 3ul << 20, 7ul}) {
    std::byte* p = arena.Allocate(num_bytes);
    ASSERT_TRUE(IsAligned(p));
    std::memset(p, static_cast<int>(taken.size()), num_bytes);  // the sanitizer checks the end
    taken.emplace_back(p, num_bytes);
  }
  for (size_t i = 0; i < taken.size(); ++i)
    for (size_t b = 0; b < taken[i].second; ++b) ASSERT_EQ(taken[i].first[b], static_cast<std::byte>(i));
}

TEST(ScratchArena, ScopesNestAndGiveBackInReverse) {
  ScratchArena arena;
  ScratchScope outer(arena);
  std::byte* kept = arena.Allocate(100);
  std::memset(kept, 1, 100);
  std::byte* first = nullptr;
  for (int round = 0; round < 3; ++round) {
    ScratchScope inner(arena);
    std::byte* p = arena.Allocate(200);
    if (round == 0) first = p;
    EXPECT_EQ(p, first);  // the same bytes each time
    EXPECT_NE(p, kept);
    {
      ScratchScope innermost(arena);
      std::memset(arena.Allocate(5u << 20), 3, 5u << 20);  // forces another slab
    }
    EXPECT_EQ(arena.Allocate(8), p + 256);  // 200 bytes take four cache lines
  }
  for (int b = 0; b < 100; ++b) ASSERT_EQ(kept[b], std::byte{1});
}

TEST(ScratchArena, RepeatedStepsReuseMemory) {
  ScratchArena arena;
  size_t after_first = 0;
  for (int step = 0; step < 10; ++step) {
    ScratchScope scope(arena);
    for (const size_t num_bytes : {700u << 10, 700u << 10, 3u << 20, 100u, 2u << 20}) arena.Allocate(num_bytes);
    if (step == 0) after_first = arena.capacity_bytes();
  }
  EXPECT_EQ(arena.capacity_bytes(), after_first);
}

TEST(ScratchArena, AScopeOpenedBeforeTheFirstSlabGivesItBack) {
  ScratchArena arena;
  std::byte* first;
  {
    ScratchScope scope(arena);
    first = arena.Allocate(10);
  }
  ScratchScope scope(arena);
  EXPECT_EQ(arena.Allocate(10), first);
}

TEST(ScratchArena, ArraysAreTyped) {
  ScratchArena arena;
  ScratchScope scope(arena);
  const auto floats = arena.Array<float>(17);
  EXPECT_EQ(floats.size(), 17u);
  for (float& x : floats) x = 1.0f;
  EXPECT_EQ(arena.Array<double>(0).size(), 0u);
}

TEST(Context, ParallelForRunsEveryTaskOnce) {
  for (const int num_threads : {1, 2, 3}) {
    const Context cx(AllBackends()[0], num_threads);
    for (const int64_t num_tasks : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(num_tasks));
      cx.ParallelFor(num_tasks, [&](int64_t i) { ++runs[static_cast<size_t>(i)]; });
      for (const auto& count : runs) ASSERT_EQ(count, 1);
    }
  }
}

TEST(Context, CachedKeepsOneObjectPerType) {
  struct Counter {
    int value = 0;
  };
  Context cx(AllBackends()[0], 1), other(AllBackends()[0], 1);
  ++cx.Cached<Counter>().value;
  ++cx.Cached<Counter>().value;
  EXPECT_EQ(cx.Cached<Counter>().value, 2);
  EXPECT_EQ(cx.Cached<std::vector<int>>().size(), 0u);
  EXPECT_EQ(other.Cached<Counter>().value, 0);
}

TEST(ScratchArena, RequestsThatGrowWithEachStepDoNotPileUp) {
  ScratchArena arena;
  const size_t last = 8u << 20;
  for (size_t bytes = 2u << 20; bytes <= last; bytes += 64u << 10) {
    const ScratchScope scope(arena);
    arena.Allocate(bytes);
  }
  EXPECT_LE(arena.capacity_bytes(), last + last / 2);
}

}  // namespace
}  // namespace cachette
