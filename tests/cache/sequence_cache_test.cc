#include "cache/sequence_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "cache/small_cache.h"
#include "ops/attention/kv_store.h"

namespace cachette {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

CacheShape Shape(int num_layers, int num_kv_heads, Dtype dtype = Dtype::kF32) {
  return {.num_layers = num_layers, .num_kv_heads = num_kv_heads, .format = {dtype, kHeadDim}};
}

// Whole numbers that name their place, exact in f32.
float KeyAt(int layer, int head, int64_t position, int d) {
  return static_cast<float>(position * 1000 + layer * 100 + head * 10 + d);
}

Result<void> RunPass(Context& cx, SequenceCache& cache, int64_t num_tokens, Phase phase = Phase::kPrefill) {
  const int64_t begin = cache.num_tokens();
  CACHETTE_TRY(cache.BeginPass({.phase = phase, .first_token = begin, .num_tokens = num_tokens}));
  const int num_kv_heads = cache.shape().num_kv_heads;
  const int64_t key_stride = num_kv_heads * kHeadDim + 3, value_stride = num_kv_heads * kHeadDim;
  for (int layer = 0; layer < cache.shape().num_layers; ++layer) {
    std::vector<float> keys(static_cast<size_t>(num_tokens * key_stride), -1.0f);
    std::vector<float> values(static_cast<size_t>(num_tokens * value_stride));
    for (int64_t t = 0; t < num_tokens; ++t) {
      for (int head = 0; head < num_kv_heads; ++head) {
        for (int d = 0; d < kHeadDim; ++d) {
          keys[static_cast<size_t>(t * key_stride + head * kHeadDim + d)] = KeyAt(layer, head, begin + t, d);
          values[static_cast<size_t>(t * value_stride + head * kHeadDim + d)] = -KeyAt(layer, head, begin + t, d);
        }
      }
    }
    CACHETTE_TRY(cache.Append(cx, layer, keys.data(), key_stride, values.data(), value_stride));
  }
  cache.EndPass();
  return Ok();
}

void ExpectContents(const SequenceCache& cache) {
  for (int layer = 0; layer < cache.shape().num_layers; ++layer) {
    for (int head = 0; head < cache.shape().num_kv_heads; ++head) {
      const HeadStream& stream = cache.stream(layer, head);
      float key[kHeadDim], value[kHeadDim];
      for (int64_t slot = 0; slot < stream.num_slots(); ++slot) {
        if (!stream.IsLive(slot)) continue;
        ops::LoadEntry(stream.format(), stream.blocks(), slot, key, value);
        for (int d = 0; d < kHeadDim; ++d) {
          ASSERT_EQ(key[d], KeyAt(layer, head, stream.positions()[static_cast<size_t>(slot)], d));
          ASSERT_EQ(value[d], -key[d]);
        }
      }
    }
  }
}

std::vector<std::string> Broken(const Tier& tier, std::vector<const SequenceCache*> sequences) {
  return CheckInvariants(tier, sequences);
}

TEST(SequenceCache, EveryHeadStoresItsOwnRowsForAnyChunkAndThreads) {
  for (const int num_threads : {1, 2}) {
    Context cx(AllBackends()[0], num_threads);
    for (const int64_t chunk : {1, 5, 16, 31, 32, 33, 70}) {
      Tier tier(TierKind::kHost);
      SequenceCache cache(tier, Shape(2, 3));
      for (int64_t begin = 0; begin < 70; begin += chunk)
        ASSERT_TRUE(RunPass(cx, cache, std::min<int64_t>(chunk, 70 - begin)).ok());
      EXPECT_EQ(cache.num_tokens(), 70);
      EXPECT_EQ(cache.stream(1, 2).num_live(), 70);
      ExpectContents(cache);
      EXPECT_THAT(Broken(tier, {&cache}), IsEmpty());
      EXPECT_EQ(cache.HeldBytes(), static_cast<int64_t>(tier.owned_bytes()));
      EXPECT_EQ(cache.ledger().Footprint(), 1.0);
    }
  }
}

TEST(SequenceCache, APassOfNoTokensChangesNothing) {
  Context cx(AllBackends()[0], 1);
  Tier tier(TierKind::kHost);
  SequenceCache cache(tier, Shape(1, 1));
  ASSERT_TRUE(RunPass(cx, cache, 0).ok());
  ASSERT_TRUE(RunPass(cx, cache, 3).ok());
  ASSERT_TRUE(RunPass(cx, cache, 0).ok());
  EXPECT_EQ(cache.num_tokens(), 3);
  EXPECT_EQ(cache.ledger().Area(), 6);
  EXPECT_THAT(Broken(tier, {&cache}), IsEmpty());
}

TEST(SequenceCache, BeginPassRefusesWhatTheTierCannotHoldAndChangesNothing) {
  Context cx(AllBackends()[0], 1);
  const CacheShape shape = Shape(2, 2);
  Tier tier(TierKind::kHost, 8 * shape.format.block_bytes());  // two blocks per stream
  SequenceCache cache(tier, shape);
  ASSERT_TRUE(RunPass(cx, cache, 20).ok());
  const auto refused = cache.BeginPass({.first_token = 20, .num_tokens = 13});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.failure().error, Error::kOutOfMemory);
  EXPECT_EQ(cache.num_tokens(), 20);
  EXPECT_THAT(Broken(tier, {&cache}), IsEmpty());
  ASSERT_TRUE(RunPass(cx, cache, 12).ok());
  EXPECT_EQ(tier.owned_bytes(), tier.limit_bytes());
  ExpectContents(cache);
}

// What codecs are for, by arithmetic: bytes per entry, in the ledger and in the tier.
TEST(SequenceCacheCodec, BytesAreThoseOfTheCodes) {
  for (const int bits : {8, 4, 2}) {
    Context cx(AllBackends()[0], 2);
    Tier tier(TierKind::kHost);
    CacheShape shape = Shape(2, 3, Dtype::kF16);
    shape.codec = {.bits = bits, .residual = 128};
    SequenceCache cache(tier, shape);
    ASSERT_TRUE(RunPass(cx, cache, 1500).ok());
    const int64_t area_before = cache.ledger().Area();
    for (int layer = 0; layer < 2; ++layer) ASSERT_TRUE(cache.EncodeTail(cx, layer).ok());
    EXPECT_THAT(Broken(tier, {&cache}), IsEmpty());
    // (1500 - 128) / 64 = 21 blocks. 16 padded channels: codes of both, 2 of key parameters, 4 of the value's group.
    const int64_t coded = 21 * 64, entry_bytes = 2 * 16 * bits / 8 + 2 + 4;
    EXPECT_EQ(cache.ledger().live_bytes(), 6 * (coded * entry_bytes + (1500 - coded) * 2 * kHeadDim * 2));
    EXPECT_EQ(cache.HeldBytes(), static_cast<int64_t>(tier.owned_bytes()));
    EXPECT_EQ(cache.ledger().Area(), area_before) << "encoding evicts nothing";
    // One block per head at most is not full.
    EXPECT_LE(cache.HeldBytes() - cache.ledger().live_bytes(), 6 * static_cast<int64_t>(shape.format.block_bytes()));
    const auto copy = cache.Clone();
    ASSERT_TRUE(copy.ok());
    EXPECT_THAT(Broken(tier, {&cache, &*copy}), IsEmpty());
  }
}

// Encoding step by step, as generation does, and evictions of what is still plain.
TEST(SequenceCacheCodec, InvariantsHoldWhileDecodingAndEvicting) {
  Context cx(AllBackends()[0], 1);
  Tier tier(TierKind::kHost);
  CacheShape shape = Shape(1, 2);
  shape.codec = {.bits = 2, .residual = 20};
  SequenceCache cache(tier, shape);
  cache.ledger().set_recording(true);
  Rng rng(9);
  for (int step = 0; step < 150; ++step) {
    const bool is_prefill = rng.Below(4) == 0;
    ASSERT_TRUE(RunPass(cx, cache, is_prefill ? 30 : 1, is_prefill ? Phase::kPrefill : Phase::kDecode).ok());
    if (rng.Below(3) == 0) {
      const HeadStream& stream = cache.stream(0, 1);
      const int64_t begin =
          stream.num_coded_slots() +
          static_cast<int64_t>(rng.Below(static_cast<uint64_t>(stream.num_slots() - stream.num_coded_slots())));
      const std::vector<SlotRange> ranges = {{begin, std::min(begin + 5, stream.num_slots())}};
      cache.Evict(0, 1, ranges, EvictTime::kAfterAttention);
    }
    ASSERT_TRUE(cache.EncodeTail(cx, 0).ok());
    ASSERT_LT(cache.stream(0, 0).num_live() - cache.stream(0, 0).num_coded_slots(), 20 + 64);
    ASSERT_THAT(Broken(tier, {&cache}), IsEmpty()) << step;
  }
  EXPECT_GT(cache.stream(0, 0).num_coded_slots(), 500);
  EXPECT_GT(cache.stream(0, 1).num_coded_slots(), 300);
}

TEST(SequenceCacheCodec, WithoutACodecEncodingDoesNothing) {
  Context cx(AllBackends()[0], 1);
  Tier tier(TierKind::kHost);
  SequenceCache cache(tier, Shape(1, 1));
  ASSERT_TRUE(RunPass(cx, cache, 500).ok());
  ASSERT_TRUE(cache.EncodeTail(cx, 0).ok());
  EXPECT_EQ(cache.stream(0, 0).num_coded_slots(), 0);
  ExpectContents(cache);
}

// Two sequences share a tier; random ragged evictions between and inside passes; one leaves early.
TEST(SequenceCache, RandomEvictionsKeepEveryInvariant) {
  Context cx(AllBackends()[0], 1);
  Tier tier(TierKind::kHost);
  Rng rng(3);
  auto first = std::make_unique<SequenceCache>(tier, Shape(2, 3));
  SequenceCache second(tier, Shape(1, 2));
  const auto evict_some = [&](SequenceCache& cache, EvictTime time) {
    const int layer = static_cast<int>(rng.Below(static_cast<uint64_t>(cache.shape().num_layers)));
    const int head = static_cast<int>(rng.Below(static_cast<uint64_t>(cache.shape().num_kv_heads)));
    std::vector<SlotRange> ranges;
    const int64_t slots = cache.stream(layer, head).num_slots();
    for (int64_t at = static_cast<int64_t>(rng.Below(20)); at < slots; at += static_cast<int64_t>(rng.Below(20))) {
      const int64_t end = std::min<int64_t>(slots, at + static_cast<int64_t>(rng.Below(20)));
      ranges.push_back({at, end});
      at = end;
    }
    cache.Evict(layer, head, ranges, time);
  };
  for (int step = 0; step < 300; ++step) {
    std::vector<const SequenceCache*> sequences = {&second};
    if (step == 200) first.reset();
    if (first != nullptr) {
      evict_some(*first, EvictTime::kBeforeAttention);
      ASSERT_TRUE(RunPass(cx, *first, static_cast<int64_t>(rng.Below(40))).ok());
      evict_some(*first, EvictTime::kAfterAttention);
      ExpectContents(*first);
      sequences.push_back(first.get());
    }
    evict_some(second, EvictTime::kBeforeAttention);
    ASSERT_TRUE(RunPass(cx, second, 1, Phase::kDecode).ok());
    ExpectContents(second);
    ASSERT_THAT(Broken(tier, sequences), IsEmpty()) << step;
  }
  EXPECT_EQ(second.HeldBytes(), static_cast<int64_t>(tier.owned_bytes()));
}

TEST(SequenceCache, AnEvictionInsideAPassAfterAttentionCountsInThatPass) {
  Context cx(AllBackends()[0], 1);
  Tier tier(TierKind::kHost);
  SequenceCache cache(tier, Shape(1, 1));
  cache.ledger().set_recording(true);
  ASSERT_TRUE(cache.BeginPass({.first_token = 0, .num_tokens = 10}).ok());
  const std::vector<float> rows(10 * kHeadDim, 1.0f);
  ASSERT_TRUE(cache.Append(cx, 0, rows.data(), kHeadDim, rows.data(), kHeadDim).ok());
  const std::vector<SlotRange> ranges = {{1, 3}, {3, 5}, {7, 8}};
  cache.Evict(0, 0, ranges, EvictTime::kAfterAttention);
  cache.EndPass();
  EXPECT_EQ(cache.ledger().PeakEntries(), 10);
  EXPECT_EQ(cache.stream(0, 0).num_live(), 5);
  EXPECT_EQ(cache.ledger().Area(), Triangle(10));
  for (const LedgerLine& line : cache.ledger().lines())
    EXPECT_EQ(line.step, line.event == LedgerEvent::kEvict ? 10 : 0);
  EXPECT_EQ(cache.ledger().lines().size(), 3u);  // one append, neighbouring ranges in one line
  EXPECT_THAT(Broken(tier, {&cache}), IsEmpty());
}

// ---- Transient entries ----

// Rows of a pass with transient ones, appended to one layer; a transient row's key is that of the position it stands
// at.
Result<void> AppendRows(Context& cx, SequenceCache& cache, const PassInfo& pass, int layer) {
  const int num_kv_heads = cache.shape().num_kv_heads;
  std::vector<float> keys, values;
  for (int64_t t = 0; t < pass.num_tokens + pass.num_transient; ++t)
    for (int head = 0; head < num_kv_heads; ++head)
      for (int d = 0; d < kHeadDim; ++d) {
        keys.push_back(KeyAt(layer, head, pass.first_token + t, d));
        values.push_back(-keys.back());
      }
  const int64_t stride = num_kv_heads * kHeadDim;
  return cache.Append(cx, layer, keys.data(), stride, values.data(), stride);
}

TEST(SequenceCache, TransientEntriesLeaveEachLayerAndOnlyTheirOwnPeak) {
  Context cx(AllBackends()[0], 1);
  Tier tier(TierKind::kHost);
  SequenceCache cache(tier, Shape(3, 2)), without(tier, Shape(3, 2));
  int64_t expected_peak = 0;
  for (const int64_t num_tokens : {5, 16, 1, 31}) {
    const PassInfo pass{.first_token = cache.num_tokens(), .num_tokens = num_tokens, .num_transient = 7};
    ASSERT_TRUE(cache.BeginPass(pass).ok());
    for (int layer = 0; layer < 3; ++layer) {
      ASSERT_TRUE(AppendRows(cx, cache, pass, layer).ok());
      EXPECT_EQ(cache.stream(layer, 1).num_live(), cache.num_tokens() + 7);
      EXPECT_EQ(cache.stream(layer, 1).positions().back(), cache.num_tokens() + 6);
      EXPECT_EQ(cache.ledger().live_entries(layer * 2 + 1), cache.num_tokens());
      cache.RemoveTransient(layer);
      EXPECT_EQ(cache.stream(layer, 1).num_live(), cache.num_tokens());
    }
    cache.EndPass();
    expected_peak = 6 * cache.num_tokens() + 2 * 7;  // one layer's at a time
    ASSERT_TRUE(RunPass(cx, without, num_tokens).ok());
    EXPECT_EQ(cache.num_tokens(), without.num_tokens());
  }
  ExpectContents(cache);
  EXPECT_EQ(cache.ledger().Area(), without.ledger().Area());
  EXPECT_EQ(cache.ledger().PeakEntries(), without.ledger().PeakEntries());
  EXPECT_EQ(cache.ledger().TransientPeakEntries(), expected_peak);
  EXPECT_EQ(without.ledger().TransientPeakEntries(), without.ledger().PeakEntries());
  EXPECT_EQ(cache.HeldBytes(), without.HeldBytes());
  EXPECT_THAT(Broken(tier, {&cache, &without}), IsEmpty());
}

TEST(SequenceCache, RoomForTransientEntriesIsCheckedToo) {
  const size_t block_bytes = Shape(1, 1).format.block_bytes();
  Tier tier(TierKind::kHost, block_bytes);
  SequenceCache cache(tier, Shape(1, 1));
  const auto refused = cache.BeginPass({.num_tokens = 10, .num_transient = 7});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.failure().error, Error::kOutOfMemory);
  EXPECT_EQ(cache.num_tokens(), 0);
  EXPECT_TRUE(cache.BeginPass({.num_tokens = 10, .num_transient = 6}).ok());
}

TEST(SequenceCache, TakingBackWithoutTransientEntriesDoesNothing) {
  Context cx(AllBackends()[0], 1);
  Tier tier(TierKind::kHost);
  SequenceCache cache(tier, Shape(1, 2));
  ASSERT_TRUE(RunPass(cx, cache, 20).ok());
  cache.RemoveTransient(0);
  ExpectContents(cache);
  EXPECT_EQ(cache.stream(0, 0).num_live(), 20);
}

TEST(SequenceCache, ACopyHasBlocksScoresAndALedgerOfItsOwn) {
  Context cx(AllBackends()[0], 1);
  Tier tier(TierKind::kHost);
  CacheShape shape = Shape(2, 2);
  shape.has_scores = true;
  SequenceCache cache(tier, shape);
  ASSERT_TRUE(RunPass(cx, cache, 40).ok());
  for (float& score : cache.stream(1, 1).scores()) score = 3.0f;
  const SlotRange middle{5, 25};
  cache.Evict(1, 0, {&middle, 1});
  auto copy = cache.Clone();
  ASSERT_TRUE(copy.ok());
  ExpectContents(*copy);
  EXPECT_EQ(copy->ledger().Area(), cache.ledger().Area());
  EXPECT_EQ(copy->stream(1, 1).scores()[39], 3.0f);
  EXPECT_EQ(copy->stream(1, 0).num_live(), 20);
  EXPECT_EQ(tier.owned_bytes(), 2 * static_cast<size_t>(cache.HeldBytes()));
  ASSERT_TRUE(RunPass(cx, *copy, 9).ok());
  copy->stream(1, 1).scores()[0] = 7.0f;
  EXPECT_EQ(cache.num_tokens(), 40);
  EXPECT_EQ(cache.stream(1, 1).scores()[0], 3.0f);
  EXPECT_THAT(Broken(tier, {&cache, &*copy}), IsEmpty());
  ExpectContents(cache);
}

TEST(SequenceCache, ACopyThatDoesNotFitLeavesNothingBehind) {
  Context cx(AllBackends()[0], 1);
  Tier tier(TierKind::kHost, 7 * Shape(1, 1).format.block_bytes());
  SequenceCache cache(tier, Shape(2, 2));
  ASSERT_TRUE(RunPass(cx, cache, 10).ok());
  const auto copy = cache.Clone();
  ASSERT_FALSE(copy.ok());
  EXPECT_EQ(copy.failure().error, Error::kOutOfMemory);
  EXPECT_EQ(tier.owned_bytes(), static_cast<size_t>(cache.HeldBytes()));
  EXPECT_THAT(Broken(tier, {&cache}), IsEmpty());
}

// A range of slots may contain dead ones: the ledger hears of each entry once, by its own position.
TEST(SequenceCache, LinesNameThePositionsThatDie) {
  Context cx(AllBackends()[0], 1);
  Tier tier(TierKind::kHost);
  SequenceCache cache(tier, Shape(1, 1));
  cache.ledger().set_recording(true);
  ASSERT_TRUE(RunPass(cx, cache, 12).ok());
  const SlotRange hole{2, 4}, around{0, 8};
  cache.Evict(0, 0, {&hole, 1});
  cache.Evict(0, 0, {&around, 1});
  std::vector<std::pair<int64_t, int64_t>> runs;
  for (const LedgerLine& line : cache.ledger().lines())
    if (line.event == LedgerEvent::kEvict) runs.emplace_back(line.first_position, line.num_entries);
  EXPECT_EQ(runs, (std::vector<std::pair<int64_t, int64_t>>{{2, 2}, {0, 2}, {4, 4}}));
  EXPECT_THAT(Broken(tier, {&cache}), IsEmpty());
}

// ---- CheckInvariants must see damage of every kind. ----

// Names a private member: explicit instantiations may ([temp.spec.general]).
template <class Tag, typename Tag::Type kMember>
struct Grant {
  friend typename Tag::Type Granted(Tag) { return kMember; }
};
struct OwnedBlocks {
  using Type = int64_t BlockPool::*;
  friend Type Granted(OwnedBlocks);
};
template struct Grant<OwnedBlocks, &BlockPool::owned_blocks_>;
struct Positions {
  using Type = std::vector<int32_t> HeadStream::*;
  friend Type Granted(Positions);
};
template struct Grant<Positions, &HeadStream::positions_>;
struct LiveMasks {
  using Type = std::vector<uint16_t> HeadStream::*;
  friend Type Granted(LiveMasks);
};
template struct Grant<LiveMasks, &HeadStream::live_masks_>;
struct BlockIds {
  using Type = std::vector<uint32_t> HeadStream::*;
  friend Type Granted(BlockIds);
};
template struct Grant<BlockIds, &HeadStream::block_ids_>;
struct NumLive {
  using Type = int64_t HeadStream::*;
  friend Type Granted(NumLive);
};
template struct Grant<NumLive, &HeadStream::num_live_>;

class CheckInvariantsOn : public ::testing::Test {
 protected:
  CheckInvariantsOn() : tier_(TierKind::kHost), cache_(tier_, Shape(2, 2)), cx_(AllBackends()[0], 1) {
    CACHETTE_CHECK(RunPass(cx_, cache_, 40).ok());
    CACHETTE_CHECK(Broken(tier_, {&cache_}).empty());
  }
  HeadStream& stream() { return const_cast<HeadStream&>(cache_.stream(1, 0)); }
  BlockPool& pool() { return *tier_.pools().at(cache_.shape().format.block_bytes()); }
  std::string Report() {
    std::string all;
    for (const std::string& sentence : Broken(tier_, {&cache_})) all += sentence + "\n";
    return all;
  }

  Tier tier_;
  SequenceCache cache_;
  Context cx_;
};

TEST_F(CheckInvariantsOn, PositionsOutOfOrder) {
  auto& positions = stream().*Granted(Positions{});
  std::swap(positions[7], positions[8]);
  EXPECT_THAT(Report(), HasSubstr("sequence 0 layer 1 KV head 0: slot 8 holds position 7 after 8"));
  std::swap(positions[7], positions[8]);
  positions[8] = 7;  // twice
  EXPECT_THAT(Report(), HasSubstr("slot 8 holds position 7 after 7"));
  positions[8] = 8;
  positions[39] = 40;
  EXPECT_THAT(Report(), HasSubstr("holds position 40 of 40 tokens"));
  positions[39] = 39;
  EXPECT_EQ(Report(), "");
}

TEST_F(CheckInvariantsOn, CountsThatDiffer) {
  ++(stream().*Granted(NumLive{}));
  EXPECT_THAT(Report(), HasSubstr("counts 41 live entries, masks show 40"));
  EXPECT_THAT(Report(), HasSubstr("ledger has 40 live entries, stream 41"));
  EXPECT_THAT(Report(), HasSubstr("sequence 0: ledger total 160 entries, streams 161"));
}

TEST_F(CheckInvariantsOn, LedgerBytesThatDiffer) {
  cache_.ledger().Evict(2, 0, 1, 0);
  cache_.ledger().Append(2, 0, 1, 1);
  EXPECT_THAT(Report(), HasSubstr("bytes of entries"));
}

TEST_F(CheckInvariantsOn, MasksThatAreWrong) {
  auto& masks = stream().*Granted(LiveMasks{});
  masks[1] = 0;
  EXPECT_THAT(Report(), HasSubstr("block 1 has no live slot"));
  EXPECT_THAT(Report(), HasSubstr("counts 40 live entries, masks show 24"));
  masks[1] = 0xffff;
  masks[2] |= 1u << 8;
  EXPECT_THAT(Report(), HasSubstr("a slot past the last of 40 is live"));
}

TEST_F(CheckInvariantsOn, MoreBlocksThanAllowed) {
  auto& masks = stream().*Granted(LiveMasks{});
  masks = {1, 1, 1};
  EXPECT_THAT(Report(), HasSubstr("holds 3 blocks for 3 entries"));
}

TEST_F(CheckInvariantsOn, ListsOfUnequalLength) {
  (stream().*Granted(Positions{})).pop_back();
  EXPECT_THAT(Report(), HasSubstr("40 slots with 39 positions in 3 blocks with 3 masks and 3 ids"));
  (stream().*Granted(Positions{})).push_back(39);
  (stream().*Granted(LiveMasks{})).push_back(1);
  EXPECT_THAT(Report(), HasSubstr("4 masks"));
}

TEST_F(CheckInvariantsOn, ABlockOwnedTwiceOrByNobody) {
  auto& ids = stream().*Granted(BlockIds{});
  const uint32_t own = ids[0];
  ids[0] = cache_.stream(0, 0).block_ids()[0];
  EXPECT_THAT(Report(), HasSubstr("2 owners, reference count 1"));
  EXPECT_THAT(Report(), HasSubstr("12 owned, sequences hold 11"));
  ids[0] = 1u << 20;
  EXPECT_THAT(Report(), HasSubstr("1 owners, reference count 0"));
  ids[0] = own;
  EXPECT_EQ(Report(), "");
  tier_.AddRef(pool().block_bytes(), own);
  EXPECT_THAT(Report(), HasSubstr("1 owners, reference count 2"));
  tier_.Release(pool().block_bytes(), own);
  const auto stray = tier_.Allocate(pool().block_bytes());
  ASSERT_TRUE(stray.ok());
  EXPECT_THAT(Report(), HasSubstr("13 owned, sequences hold 12"));
  tier_.Release(pool().block_bytes(), stray->id);
  EXPECT_EQ(Report(), "");
}

TEST_F(CheckInvariantsOn, PoolsAndTierThatDisagree) {
  int64_t& owned = pool().*Granted(OwnedBlocks{});
  ++owned;
  EXPECT_THAT(Report(), HasSubstr("owned != "));
  EXPECT_THAT(Report(), HasSubstr("tier counts"));
  --owned;
  const auto past_the_tier = pool().Allocate();
  ASSERT_TRUE(past_the_tier.ok());
  EXPECT_THAT(Report(), HasSubstr("tier counts"));
  pool().Release(past_the_tier->id);
  EXPECT_EQ(Report(), "");
}

TEST_F(CheckInvariantsOn, ASequenceThatIsMissing) {
  const auto broken = Broken(tier_, {});
  ASSERT_EQ(broken.size(), 1u);
  EXPECT_THAT(broken[0], HasSubstr("12 owned, sequences hold 0"));
}

}  // namespace
}  // namespace cachette
