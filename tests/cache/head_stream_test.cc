#include "cache/head_stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "cache/small_cache.h"
#include "ops/attention/kv_codec.h"
#include "ops/attention/kv_store.h"

namespace cachette {
namespace {

int64_t BlocksFor(int64_t num_slots) { return (num_slots + kBlock - 1) / kBlock; }

// Element d of the key or value of a position: small whole numbers, exact in every dtype (bf16 has 8 bits).
float ElementOf(int64_t position, int d, bool is_value) {
  return static_cast<float>((position * 31 + d * 7 + (is_value ? 101 : 0)) % 255 - 127);
}

// A stream beside the plain list of positions that it must hold.
class ModelledStream {
 public:
  ModelledStream(Tier& tier, Dtype dtype) : tier_(tier), stream_(tier, {dtype, kHeadDim}) {}

  // False when the tier is full.
  bool Append(int64_t count) {
    std::vector<int32_t> positions(static_cast<size_t>(count));
    for (int32_t& p : positions) p = next_position_++;
    const int64_t expected_blocks = stream_.num_blocks() + stream_.BlocksToAppend(count);
    const auto first = stream_.Append(positions);
    if (!first.ok()) {
      EXPECT_EQ(first.failure().error, Error::kOutOfMemory);
      next_position_ -= static_cast<int32_t>(count);
      return false;
    }
    EXPECT_EQ(stream_.num_blocks(), expected_blocks);
    std::vector<float> keys(static_cast<size_t>(count * kHeadDim)), values(keys.size());
    for (int64_t t = 0; t < count; ++t) {
      for (int d = 0; d < kHeadDim; ++d) {
        keys[static_cast<size_t>(t * kHeadDim + d)] = ElementOf(positions[static_cast<size_t>(t)], d, false);
        values[static_cast<size_t>(t * kHeadDim + d)] = ElementOf(positions[static_cast<size_t>(t)], d, true);
      }
    }
    ops::StoreEntries(stream_.format(), stream_.blocks(), *first, keys.data(), kHeadDim, values.data(), kHeadDim,
                      count);
    expected_.insert(expected_.end(), positions.begin(), positions.end());
    return true;
  }

  // Evicts the entries at sorted, disjoint ranges of ranks, as a recipe does.
  void EvictRanks(const std::vector<std::pair<int64_t, int64_t>>& ranks) {
    std::vector<SlotRange> slots;
    for (const auto& [begin, end] : ranks)
      if (begin < end) slots.push_back({stream_.SlotOfRank(begin), stream_.SlotOfRank(end - 1) + 1});
    for (auto it = ranks.rbegin(); it != ranks.rend(); ++it)
      expected_.erase(expected_.begin() + it->first, expected_.begin() + it->second);
    stream_.Evict(slots);
  }

  // Evicts ranges of slots, dead ones included.
  void EvictSlots(const std::vector<SlotRange>& ranges) {
    for (const SlotRange& range : ranges) {
      for (int64_t slot = range.begin; slot < range.end; ++slot) {
        if (!stream_.IsLive(slot)) continue;
        std::erase(expected_, stream_.positions()[static_cast<size_t>(slot)]);
      }
    }
    stream_.Evict(ranges);
  }

  // Everything the header promises; the sanitizers see the reads.
  void Check() const {
    const HeadStream& s = stream_;
    ASSERT_EQ(s.num_live(), static_cast<int64_t>(expected_.size()));
    ASSERT_EQ(s.num_blocks(), BlocksFor(s.num_slots()));
    ASSERT_LE(s.num_blocks(), BlocksFor(s.num_live()) + 1);
    ASSERT_EQ(static_cast<int64_t>(s.positions().size()), s.num_slots());
    ASSERT_EQ(tier_.owned_bytes(), static_cast<size_t>(s.num_blocks()) * s.format().block_bytes());
    for (size_t b = 0; b < s.live_masks().size(); ++b) ASSERT_NE(s.live_masks()[b], 0) << b;
    if (s.num_slots() % kBlock != 0) {
      ASSERT_EQ(s.live_masks().back() >> (s.num_slots() % kBlock), 0);
    }
    ASSERT_EQ(s.SlotOfRank(s.num_live()), s.num_slots());
    float key[kHeadDim], value[kHeadDim];
    size_t rank = 0;
    for (int64_t slot = 0; slot < s.num_slots(); ++slot) {
      ops::LoadEntry(s.format(), s.blocks(), slot, key, value);
      if (!s.IsLive(slot)) {
        for (int d = 0; d < kHeadDim; ++d) ASSERT_TRUE(std::isfinite(key[d]) && std::isfinite(value[d]));
        continue;
      }
      ASSERT_EQ(s.SlotOfRank(static_cast<int64_t>(rank)), slot);
      const int32_t position = expected_[rank++];
      ASSERT_EQ(s.positions()[static_cast<size_t>(slot)], position);
      for (int d = 0; d < kHeadDim; ++d) {
        ASSERT_EQ(key[d], ElementOf(position, d, false)) << position;
        ASSERT_EQ(value[d], ElementOf(position, d, true)) << position;
      }
    }
    const ops::KvRow row = s.Row();
    ASSERT_EQ(row.num_slots, s.num_slots());
    ASSERT_EQ(row.blocks, s.blocks());
    ASSERT_EQ(row.positions, s.positions().data());
    ASSERT_TRUE(row.format == s.format());
    // Without masks the row must have no holes.
    ASSERT_EQ(row.live_masks == nullptr, s.num_live() == s.num_slots());
  }

  const HeadStream& stream() const { return stream_; }
  HeadStream& stream() { return stream_; }
  int64_t num_live() const { return stream_.num_live(); }
  const std::vector<int32_t>& expected() const { return expected_; }

 private:
  Tier& tier_;
  HeadStream stream_;
  std::vector<int32_t> expected_;
  int32_t next_position_ = 0;
};

class HeadStreamOf : public ::testing::TestWithParam<Dtype> {};
INSTANTIATE_TEST_SUITE_P(Dtypes, HeadStreamOf, ::testing::Values(Dtype::kF32, Dtype::kF16, Dtype::kBF16),
                         [](const auto& dtype) { return std::string(InfoOf(dtype.param).name); });

TEST_P(HeadStreamOf, AppendsOfEveryEdgeLengthFillBlocks) {
  for (const int64_t first : {0, 1, 15, 16, 17, 31, 32, 33, 97}) {
    for (const int64_t second : {0, 1, 15, 16, 17, 37}) {
      Tier tier(TierKind::kHost);
      ModelledStream s(tier, GetParam());
      s.Check();
      ASSERT_TRUE(s.Append(first));
      s.Check();
      ASSERT_TRUE(s.Append(second));
      s.Check();
      EXPECT_EQ(s.stream().num_blocks(), BlocksFor(first + second));
    }
  }
}

// Thousands of random steps of every shape of eviction against the list.
TEST_P(HeadStreamOf, RandomStepsAgreeWithAList) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    Tier tier(TierKind::kHost);
    ModelledStream s(tier, GetParam());
    Rng rng(seed);
    const auto pick = [&](int64_t bound) { return static_cast<int64_t>(rng.Below(static_cast<uint64_t>(bound))); };
    for (int step = 0; step < 3000; ++step) {
      const int64_t live = s.num_live(), slots = s.stream().num_slots();
      switch (pick(11)) {
        case 0: {  // one range of slots, often touching dead ones
          const int64_t a = pick(slots + 1), b = pick(slots + 1);
          s.EvictSlots({{std::min(a, b), std::max(a, b)}});
          break;
        }
        case 1: {  // several short ranges of slots, neighbours and empty ones included
          std::vector<SlotRange> ranges;
          for (int64_t at = pick(20); at < slots; at += pick(30)) {
            const int64_t end = std::min(slots, at + pick(10));
            ranges.push_back({at, end});
            at = end;
          }
          s.EvictSlots(ranges);
          break;
        }
        case 2: {  // sinks and window
          const int64_t sinks = std::min(live, pick(20)), window = std::min(live - sinks, pick(100));
          s.EvictRanks({{sinks, live - window}});
          break;
        }
        case 3: {  // top-k: each entry stays with the same chance
          std::vector<std::pair<int64_t, int64_t>> ranks;
          const int64_t percent = pick(101);
          for (int64_t r = 0; r < live; ++r)
            if (pick(100) >= percent) ranks.emplace_back(r, r + 1);
          s.EvictRanks(ranks);
          break;
        }
        case 4:  // one entry per block remains here and there
          if (live > 0) s.EvictRanks({{pick(live), live}});
          break;
        default: ASSERT_TRUE(s.Append(pick(step % 20 == 0 ? 400 : 20)));
      }
      s.Check();
      if (::testing::Test::HasFatalFailure()) FAIL() << "seed " << seed << " step " << step;
    }
  }
}

// A stream with a codec beside the list of positions it must hold. Keys and values of an entry equal its position in
// all channels, so that a value comes back exactly and a key within half a step of its group.
class CodedStream {
 public:
  CodedStream(Tier& tier, const KvCodec& codec) : tier_(tier), codec_(codec), stream_(tier, kFormat, true, codec) {}

  void Append(int64_t count) {
    std::vector<int32_t> positions(static_cast<size_t>(count));
    std::iota(positions.begin(), positions.end(), next_position_);
    next_position_ += static_cast<int32_t>(count);
    const auto first = stream_.Append(positions);
    ASSERT_TRUE(first.ok());
    for (int64_t i = 0; i < count; ++i) {
      const std::vector<float> row(kWideDim, static_cast<float>(positions[static_cast<size_t>(i)] % 2000));
      ops::StoreEntries(kFormat, stream_.blocks(), *first + i, row.data(), kWideDim, row.data(), kWideDim, 1);
      stream_.scores()[static_cast<size_t>(*first + i)] = row[0];
    }
    expected_.insert(expected_.end(), positions.begin(), positions.end());
  }

  // Plain entries [begin, end) by rank.
  void Evict(int64_t begin, int64_t end) {
    if (begin >= end) return;
    const std::vector<SlotRange> slots = {{stream_.SlotOfRank(begin), stream_.SlotOfRank(end - 1) + 1}};
    stream_.Evict(slots);
    expected_.erase(expected_.begin() + begin, expected_.begin() + end);
  }

  // At most so many blocks at once.
  void Encode(int64_t limit) {
    const int64_t count = std::min(limit, stream_.NumCodable());
    const auto block_bytes = static_cast<size_t>(stream_.coded_layout().block_bytes);
    std::vector<std::byte> coded(static_cast<size_t>(count) * block_bytes);
    for (int64_t i = 0; i < count; ++i) stream_.MakeCoded(i, coded.data() + static_cast<size_t>(i) * block_bytes);
    ASSERT_TRUE(stream_.ReplaceByCoded(coded.data(), count).ok());
  }

  void Check() const { CheckStream(stream_, tier_.owned_bytes()); }

  void CheckStream(const HeadStream& s, size_t owned_bytes) const {
    const int64_t num_plain = s.num_live() - s.num_coded_slots();
    ASSERT_EQ(s.num_live(), static_cast<int64_t>(expected_.size()));
    ASSERT_EQ(s.num_coded_slots() % 64, 0);
    ASSERT_EQ(s.num_blocks(), BlocksFor(s.num_slots()));
    ASSERT_LE(s.num_blocks(), BlocksFor(s.num_live()) + 1);
    ASSERT_EQ(s.HeldBytes(), static_cast<int64_t>(owned_bytes));
    ASSERT_EQ(s.LiveBytes(), s.num_coded_slots() * s.coded_layout().entry_bytes +
                                 num_plain * static_cast<int64_t>(s.format().entry_bytes()));
    const ops::KvRow row = s.Row();
    ASSERT_EQ(row.num_coded_slots, s.num_coded_slots());
    std::vector<float> key(kWideDim), value(kWideDim);
    size_t rank = 0;
    for (int64_t slot = 0; slot < s.num_slots(); ++slot) {
      if (!s.IsLive(slot)) continue;
      ASSERT_EQ(s.SlotOfRank(static_cast<int64_t>(rank)), slot);
      const int32_t position = expected_[rank++];
      const auto element = static_cast<float>(position % 2000);
      ASSERT_EQ(s.positions()[static_cast<size_t>(slot)], position);
      ASSERT_EQ(s.scores()[static_cast<size_t>(slot)], element);
      ops::LoadEntry(row, slot, key.data(), value.data());
      // A group spans at most all of 0..1999.
      const float step = slot < s.num_coded_slots() ? 2000.0f / static_cast<float>((1 << codec_.bits) - 1) : 0.0f;
      for (size_t d = 0; d < key.size(); ++d) {
        ASSERT_EQ(value[d], element);
        ASSERT_NEAR(key[d], element, 0.51f * step) << slot;
      }
    }
  }

  const HeadStream& stream() const { return stream_; }

 private:
  static constexpr int kWideDim = 32;
  static constexpr ops::KvFormat kFormat{Dtype::kF16, kWideDim};
  Tier& tier_;
  KvCodec codec_;
  HeadStream stream_;
  std::vector<int32_t> expected_;
  int32_t next_position_ = 0;
};

TEST(HeadStreamCodec, EncodesWholeBlocksBeyondTheResidual) {
  for (const int64_t residual : {0, 1, 64, 100, 128})
    for (const int64_t count : {0, 1, 63, 64, 65, 127, 128, 191, 192, 193, 300, 1000}) {
      Tier tier(TierKind::kHost);
      CodedStream s(tier, {.bits = 4, .residual = residual});
      s.Append(count);
      EXPECT_EQ(s.stream().NumCodable(), std::max<int64_t>(count - residual, 0) / 64);
      s.Encode(1000);
      s.Check();
      EXPECT_EQ(s.stream().NumCodable(), 0);
      EXPECT_EQ(s.stream().num_coded_slots(), std::max<int64_t>(count - residual, 0) / 64 * 64);
      // No hole was left: plain blocks hold the rest exactly.
      EXPECT_EQ(s.stream().num_slots(), count);
      EXPECT_EQ(s.stream().HeldBytes(), s.stream().num_coded_slots() * s.stream().coded_layout().entry_bytes +
                                            BlocksFor(count - s.stream().num_coded_slots()) *
                                                static_cast<int64_t>(s.stream().format().block_bytes()));
    }
}

TEST(HeadStreamCodec, WithoutACodecNothingIsCodable) {
  Tier tier(TierKind::kHost);
  ModelledStream s(tier, Dtype::kF16);
  ASSERT_TRUE(s.Append(1000));
  EXPECT_EQ(s.stream().NumCodable(), 0);
  EXPECT_EQ(s.stream().Row().num_coded_slots, 0);
}

// Appends, evictions of plain entries, encoding in rounds, copies: against the list.
TEST(HeadStreamCodec, RandomStepsAgreeWithAList) {
  for (const int bits : {8, 4, 2}) {
    Tier tier(TierKind::kHost);
    CodedStream s(tier, {.bits = bits, .residual = 40});
    Rng rng(static_cast<uint64_t>(bits));
    const auto pick = [&](int64_t bound) { return static_cast<int64_t>(rng.Below(static_cast<uint64_t>(bound))); };
    for (int step = 0; step < 250; ++step) {
      const int64_t live = s.stream().num_live(), coded = s.stream().num_coded_slots();
      switch (pick(6)) {
        case 0: {
          const int64_t begin = coded + pick(live - coded + 1);
          s.Evict(begin, begin + pick(live - begin + 1));
          break;
        }
        case 1:  // scattered holes
          for (int64_t rank = live - 1; rank >= coded; rank -= 1 + pick(5)) s.Evict(rank, rank + 1);
          break;
        case 2: s.Encode(1 + pick(3)); break;
        default: s.Append(pick(60)); break;
      }
      if (step % 50 == 49) {
        const size_t before = tier.owned_bytes();
        const auto copy = s.stream().Clone();
        ASSERT_TRUE(copy.ok());
        s.CheckStream(*copy, tier.owned_bytes() - before);
      }
      s.Check();
      if (::testing::Test::HasFatalFailure()) FAIL() << bits << " bits, step " << step;
    }
    EXPECT_GT(s.stream().num_coded_slots(), 256);
  }
  // Every block went back.
  Tier tier(TierKind::kHost);
  {
    CodedStream s(tier, {.bits = 4});
    s.Append(500);
    s.Encode(2);
  }
  EXPECT_EQ(tier.owned_bytes(), 0u);
}

// A full tier is the moment that encoding is for.
TEST(HeadStreamCodec, EncodesAtTheTiersLimit) {
  for (const int bits : {8, 4, 2}) {
    Tier tier(TierKind::kHost, 16 * ops::KvFormat{Dtype::kF16, 32}.block_bytes());
    CodedStream s(tier, {.bits = bits, .residual = 0});
    s.Append(256);
    EXPECT_EQ(tier.owned_bytes(), tier.limit_bytes());
    s.Encode(1);
    s.Check();
    s.Encode(3);
    s.Check();
    EXPECT_EQ(s.stream().num_coded_slots(), 256);
  }
}

TEST(HeadStreamCodec, TakesBackAppendedSlotsBehindCodedOnes) {
  Tier tier(TierKind::kHost);
  HeadStream stream(tier, {Dtype::kF16, 16}, false, {.bits = 4, .residual = 0});
  std::vector<int32_t> positions(70);
  std::iota(positions.begin(), positions.end(), 0);
  ASSERT_TRUE(stream.Append(positions).ok());
  std::vector<std::byte> coded(static_cast<size_t>(stream.coded_layout().block_bytes));
  stream.MakeCoded(0, coded.data());
  ASSERT_TRUE(stream.ReplaceByCoded(coded.data(), 1).ok());
  stream.RemoveLast(6);
  EXPECT_EQ(stream.num_slots(), 64);
  EXPECT_EQ(stream.HeldBytes(), stream.coded_layout().block_bytes);
  const std::vector<int32_t> next = {70};
  EXPECT_EQ(*stream.Append(next), 64);
}

TEST(HeadStream, AStreamingWindowHoldsOneBlockMoreThanItsEntriesNeed) {
  Tier tier(TierKind::kHost);
  ModelledStream s(tier, Dtype::kF16);
  constexpr int64_t kSinks = 4, kWindow = 60;
  for (int token = 0; token < 500; ++token) {
    const int64_t live = s.num_live();
    if (live > kSinks + kWindow) s.EvictRanks({{kSinks, live - kWindow}});
    ASSERT_TRUE(s.Append(1));
    s.Check();
  }
  EXPECT_LE(s.stream().num_blocks(), BlocksFor(kSinks + kWindow + 1) + 1);
  EXPECT_EQ(s.expected().front(), 0);
}

// Every second entry dies: each block is half full and must be folded with its neighbour.
TEST(HeadStream, HalfEmptyBlocksAreFolded) {
  Tier tier(TierKind::kHost);
  ModelledStream s(tier, Dtype::kF32);
  ASSERT_TRUE(s.Append(64 * kBlock));
  std::vector<std::pair<int64_t, int64_t>> odd;
  for (int64_t r = 1; r < s.num_live(); r += 2) odd.emplace_back(r, r + 1);
  s.EvictRanks(odd);
  s.Check();
  EXPECT_LE(s.stream().num_blocks(), 33);
}

// Nine of sixteen survive per block: no two neighbours fit into one block, only a rewrite frees memory.
TEST(HeadStream, BlocksThatCannotBeFoldedAreRewritten) {
  Tier tier(TierKind::kHost);
  ModelledStream s(tier, Dtype::kF16);
  ASSERT_TRUE(s.Append(64 * kBlock));
  std::vector<SlotRange> ranges;
  for (int64_t b = 0; b < 64; ++b) ranges.push_back({b * kBlock + 2, b * kBlock + 9});
  s.EvictSlots(ranges);
  s.Check();
  EXPECT_EQ(s.num_live(), 64 * 9);
  EXPECT_EQ(s.stream().num_blocks(), BlocksFor(64 * 9));
}

TEST(HeadStream, EvictingNothingOrTheDeadMovesNothing) {
  Tier tier(TierKind::kHost);
  ModelledStream s(tier, Dtype::kF16);
  s.EvictSlots({});
  s.EvictSlots({{0, 0}});
  s.Check();
  ASSERT_TRUE(s.Append(40));
  s.EvictSlots({{3, 5}});
  const std::vector<int32_t> before(s.stream().positions().begin(), s.stream().positions().end());
  s.EvictSlots({{3, 5}, {7, 7}});
  s.Check();
  EXPECT_EQ(before, std::vector<int32_t>(s.stream().positions().begin(), s.stream().positions().end()));
}

TEST(HeadStream, EvictingEverythingReturnsEveryBlockAndAppendsGoOn) {
  Tier tier(TierKind::kHost);
  ModelledStream s(tier, Dtype::kF16);
  for (const int64_t count : {1, 16, 17, 100}) {
    ASSERT_TRUE(s.Append(count));
    s.EvictRanks({{0, s.num_live()}});
    s.Check();
    EXPECT_EQ(tier.owned_bytes(), 0u);
    EXPECT_EQ(s.stream().num_slots(), 0);
  }
  ASSERT_TRUE(s.Append(5));
  s.Check();
}

TEST(HeadStream, AFullTierLeavesTheStreamAsItWas) {
  const ops::KvFormat format{Dtype::kF16, kHeadDim};
  Tier tier(TierKind::kHost, 4 * format.block_bytes());
  ModelledStream s(tier, Dtype::kF16);
  ASSERT_TRUE(s.Append(40));
  s.EvictSlots({{5, 9}});
  EXPECT_FALSE(s.Append(25));  // 8 fit into the last block, 17 more need two blocks
  s.Check();
  EXPECT_EQ(tier.owned_bytes(), 3 * format.block_bytes());
  EXPECT_TRUE(s.Append(24));
  s.Check();
  EXPECT_FALSE(s.Append(1));
  s.EvictRanks({{0, 30}});
  EXPECT_TRUE(s.Append(16));
  s.Check();
}

TEST(HeadStream, MovesOwnershipOnce) {
  Tier tier(TierKind::kHost);
  {
    std::vector<HeadStream> streams;
    const std::vector<int32_t> positions = {0, 1, 2};
    for (int i = 0; i < 20; ++i) {  // growth of the vector moves
      streams.emplace_back(tier, ops::KvFormat{Dtype::kF16, kHeadDim});
      ASSERT_TRUE(streams.back().Append(positions).ok());
    }
    EXPECT_EQ(tier.owned_bytes(), 20 * streams[0].format().block_bytes());
    const HeadStream moved = std::move(streams[3]);
    EXPECT_EQ(moved.num_live(), 3);
    EXPECT_EQ(streams[3].num_live(), 0);
    EXPECT_EQ(streams[3].num_blocks(), 0);
  }
  EXPECT_EQ(tier.owned_bytes(), 0u);
}

// A score per entry beside the plain list of what was written into it: merging, rewriting, taking back and copying move
// both alike, and a new entry starts at 0.
TEST(HeadStreamScores, TravelWithTheirEntries) {
  Tier tier(TierKind::kHost);
  HeadStream stream(tier, {Dtype::kF16, kHeadDim}, true);
  std::vector<std::pair<int32_t, float>> expected;  // position, score
  Rng rng(12);
  const auto pick = [&](int64_t bound) { return static_cast<int64_t>(rng.Below(static_cast<uint64_t>(bound))); };
  const auto check = [&](const HeadStream& s) {
    ASSERT_EQ(s.num_live(), static_cast<int64_t>(expected.size()));
    ASSERT_EQ(static_cast<int64_t>(s.scores().size()), s.num_slots());
    size_t rank = 0;
    for (int64_t slot = 0; slot < s.num_slots(); ++slot) {
      if (!s.IsLive(slot)) continue;
      ASSERT_EQ(s.positions()[static_cast<size_t>(slot)], expected[rank].first);
      ASSERT_EQ(s.scores()[static_cast<size_t>(slot)], expected[rank].second);
      ++rank;
    }
  };
  int32_t next_position = 0;
  for (int step = 0; step < 2000; ++step) {
    const auto first = static_cast<size_t>(stream.num_slots());
    std::vector<int32_t> positions(static_cast<size_t>(pick(step % 50 == 0 ? 200 : 20)));
    for (int32_t& p : positions) expected.emplace_back(p = next_position++, 0.0f);
    ASSERT_TRUE(stream.Append(positions).ok());
    for (size_t i = 0; i < positions.size(); ++i) ASSERT_EQ(stream.scores()[first + i], 0.0f);
    const auto num_last = static_cast<size_t>(pick(2) == 0 ? 0 : pick(static_cast<int64_t>(positions.size()) + 1));
    stream.RemoveLast(static_cast<int64_t>(num_last));
    expected.resize(expected.size() - num_last);
    next_position -= static_cast<int32_t>(num_last);
    size_t rank = 0;  // a recipe adds to the scores of live entries
    for (int64_t slot = 0; slot < stream.num_slots(); ++slot)
      if (stream.IsLive(slot))
        stream.scores()[static_cast<size_t>(slot)] = expected[rank++].second += static_cast<float>(rng.Below(1000));
    std::vector<SlotRange> ranges;
    const int64_t gap = 1 + pick(30);
    for (int64_t at = pick(gap); at < stream.num_slots(); at += gap + pick(gap)) ranges.push_back({at, at + 1});
    if (pick(9) == 0) ranges = {{0, stream.num_slots() - pick(stream.num_slots() + 1)}};
    for (const SlotRange& range : ranges)
      for (int64_t slot = range.begin; slot < range.end; ++slot)
        if (stream.IsLive(slot))
          std::erase_if(expected,
                        [&](const auto& e) { return e.first == stream.positions()[static_cast<size_t>(slot)]; });
    stream.Evict(ranges);
    check(stream);
    if (step % 100 == 0) {
      const auto copy = stream.Clone();
      ASSERT_TRUE(copy.ok());
      check(*copy);
    }
    if (::testing::Test::HasFatalFailure()) FAIL() << "step " << step;
  }
}

TEST(HeadStreamScores, CostNothingWhereNobodyAsked) {
  Tier tier(TierKind::kHost);
  ModelledStream s(tier, Dtype::kF16);
  ASSERT_TRUE(s.Append(20));
  EXPECT_TRUE(s.stream().scores().empty());
}

TEST(HeadStream, TakingBackWhatWasAppendedLeavesTheRestAsItWas) {
  for (const int64_t kept : {0, 1, 15, 16, 17, 40})
    for (const int64_t taken : {0, 1, 15, 16, 17, 50}) {
      Tier tier(TierKind::kHost);
      ModelledStream s(tier, Dtype::kF16);
      ASSERT_TRUE(s.Append(kept));
      if (kept > 4) s.EvictSlots({{2, 4}});  // holes stay where they are
      const std::vector<uint16_t> masks(s.stream().live_masks().begin(), s.stream().live_masks().end());
      std::vector<int32_t> more(static_cast<size_t>(taken));
      std::iota(more.begin(), more.end(), static_cast<int32_t>(kept));
      ASSERT_TRUE(s.stream().Append(more).ok());
      EXPECT_EQ(s.num_live(), static_cast<int64_t>(s.expected().size()) + taken);
      s.stream().RemoveLast(taken);
      s.Check();
      EXPECT_EQ(std::vector<uint16_t>(s.stream().live_masks().begin(), s.stream().live_masks().end()), masks);
      ASSERT_TRUE(s.Append(3));
      s.Check();
    }
}

TEST(HeadStreamDeathTest, RangesOutsideTheSlotsAreOurMistake) {
  Tier tier(TierKind::kHost);
  ModelledStream s(tier, Dtype::kF16);
  ASSERT_TRUE(s.Append(3));
  const SlotRange past{2, 4}, backwards{2, 1};
  EXPECT_DEATH(s.stream().Evict({&past, 1}), "range");
  EXPECT_DEATH(s.stream().Evict({&backwards, 1}), "range");
  EXPECT_DEATH(s.stream().SlotOfRank(4), "rank");
  EXPECT_DEATH(s.stream().RemoveLast(4), "num_slots");
}

}  // namespace
}  // namespace cachette
