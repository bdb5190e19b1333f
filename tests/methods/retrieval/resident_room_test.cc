#include "methods/retrieval/resident_room.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

namespace cachette {
namespace {

using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr PassInfo kDecode{.phase = Phase::kDecode, .num_tokens = 1};
constexpr PassInfo kPrefill{.phase = Phase::kPrefill, .num_tokens = 1};

// Two layers of one KV head, 96 entries each, of which 64 rest in the slow tier as units of one block; two blocks of
// units are promised. A limit of 16 blocks, of which the streams hold 4.
class ResidentRoom : public ::testing::Test {
 protected:
  static constexpr int64_t kLimit = 16, kInStreams = 4;
  static CacheShape Shape() {
    return {.num_layers = 2,
            .num_kv_heads = 1,
            .format = {Dtype::kF16, 8},
            .units = {.num_index_vectors = 1, .local_entries = 64, .least_blocks = 2}};
  }
  ResidentRoom()
      : block_bytes_(Shape().format.block_bytes()),
        cx_(AllBackends()[0], 1),
        slow_(*RecordStore::Create("ram", block_bytes_)),
        tier_(TierKind::kHost, kLimit * block_bytes_),
        cache_(tier_, Shape(), slow_.get()),
        selections_(2) {
    const std::vector<float> rows(96 * 8, 1.0f);
    CACHETTE_CHECK(cache_.BeginPass({.num_tokens = 96, .is_last_prefill_chunk = true}).ok());
    for (int layer = 0; layer < 2; ++layer) {
      CACHETTE_CHECK(cache_.Append(cx_, layer, rows.data(), 8, rows.data(), 8).ok());
      const auto out = cache_.Offload(cx_, layer, 0, 16, 64);
      CACHETTE_CHECK(out.ok());
      for (int32_t p = 0; p < 4; ++p) cache_.units(layer, 0).AddPage({out->first_record + p, 16 + 16 * p});
      cache_.MakeRunUnits(layer, 0, 4, 16, true);
    }
    cache_.EndPass();
  }
  // Units come in; the first of the list was of use the longest ago.
  void Bring(int layer, const std::vector<int64_t>& units, int64_t first_used) {
    for (const int64_t unit_idx : units) {
      const SequenceCache::UnitRef ref{0, unit_idx};
      ASSERT_TRUE(cache_.Recall(layer, {&ref, 1}).ok());
      cache_.units(layer, 0).last_used(unit_idx) = first_used++;
    }
  }
  void Make(const PassInfo& pass, int64_t num_blocks) {
    MakeRoom(cache_, pass, static_cast<size_t>(num_blocks) * block_bytes_, selections_);
    const SequenceCache* const caches[] = {&cache_};
    EXPECT_THAT(CheckInvariants(tier_, caches), IsEmpty());
  }
  std::vector<int32_t> Residents(int layer) const {
    const auto residents = cache_.units(layer, 0).residents();
    return {residents.begin(), residents.end()};
  }
  int64_t RoomBlocks() const { return static_cast<int64_t>(tier_.room_bytes() / block_bytes_); }

  size_t block_bytes_;
  Context cx_;
  std::unique_ptr<RecordStore> slow_;
  Tier tier_;
  SequenceCache cache_;
  std::vector<UnitSelection> selections_;
};

TEST_F(ResidentRoom, LackingIsCountedInBlocks) {
  EXPECT_EQ(RoomBlocks(), kLimit - kInStreams);
  EXPECT_EQ(LackingBlocks(cache_, 0), 0);
  EXPECT_EQ(LackingBlocks(cache_, 12 * block_bytes_), 0);
  EXPECT_EQ(LackingBlocks(cache_, 12 * block_bytes_ + 1), 1);
  EXPECT_EQ(LackingBlocks(cache_, 14 * block_bytes_), 2);
  RoomPromise promise(tier_);
  promise.Set(3 * block_bytes_);
  EXPECT_EQ(LackingBlocks(cache_, 12 * block_bytes_), 3);
}

TEST_F(ResidentRoom, NothingLeavesWhereThereIsRoom) {
  Bring(0, {0, 1, 2, 3}, 0);
  Bring(1, {0, 1, 2, 3}, 4);
  Make(kDecode, 4);
  EXPECT_EQ(RoomBlocks(), 4);
}

TEST_F(ResidentRoom, OnlyWhatItTakesLeavesTheLeastRecentlyUsefulFirst) {
  Bring(0, {3, 1, 0, 2}, 10);
  Bring(1, {2, 3, 1, 0}, 9);  // 9 .. 12 beside 10 .. 13
  Make(kDecode, 5);
  EXPECT_THAT(Residents(0), UnorderedElementsAre(0, 1, 2, 3));
  EXPECT_THAT(Residents(1), UnorderedElementsAre(0, 1, 3)) << "one block, the oldest of all";
  Make(kDecode, 7);
  EXPECT_THAT(Residents(0), UnorderedElementsAre(0, 1, 2));
  EXPECT_THAT(Residents(1), UnorderedElementsAre(0, 1));
}

TEST_F(ResidentRoom, AtDecodeEveryHeadKeepsWhatItIsPromised) {
  Bring(0, {0, 1, 2, 3}, 0);
  Bring(1, {0, 1, 2, 3}, 4);
  Make(kDecode, 100);
  EXPECT_THAT(Residents(0), UnorderedElementsAre(2, 3));
  EXPECT_THAT(Residents(1), UnorderedElementsAre(2, 3));
  Make(kPrefill, 100);
  EXPECT_THAT(Residents(0), IsEmpty());
  EXPECT_THAT(Residents(1), IsEmpty());
}

TEST_F(ResidentRoom, GuessesGoFirstAndSelectedUnitsLast) {
  Bring(0, {0, 1, 2, 3}, 0);
  Bring(1, {0, 1, 2, 3}, 4);
  selections_[0].units = {0, 1};
  const std::vector<SequenceCache::GuessRef> guesses = {{0, cache_.units(1, 0).pages()[0], 1}};
  ASSERT_TRUE(cache_.StartGuesses(1, guesses).ok());
  EXPECT_EQ(RoomBlocks(), 3);
  Make(kDecode, 4);
  EXPECT_THAT(cache_.guesses(1, 0), IsEmpty());
  EXPECT_THAT(Residents(0), UnorderedElementsAre(0, 1, 2, 3)) << "the guess was enough";
  Make(kDecode, 6);
  EXPECT_THAT(Residents(0), UnorderedElementsAre(0, 1)) << "not the oldest two, which attention reads";
  EXPECT_THAT(selections_[0].units, UnorderedElementsAre(0, 1));
  Make(kPrefill, 12);
  EXPECT_THAT(Residents(0), IsEmpty());
  EXPECT_THAT(selections_[0].units, IsEmpty()) << "what left is not read";
}

// A pass counts what its units may need, and nobody else is let have it.
TEST_F(ResidentRoom, APassIsPromisedItsUnits) {
  EXPECT_EQ(cache_.least_blocks(0, 0), 2);
  EXPECT_EQ(cache_.BytesForPass(kPrefill), 2 * block_bytes_) << "a block of each stream, which are full";
  EXPECT_EQ(cache_.BytesForPass(kDecode), (2 + 2 * 2) * block_bytes_);
  Bring(0, {0, 1, 2}, 0);  // more than is promised
  Bring(1, {3}, 0);
  EXPECT_EQ(cache_.BytesForPass(kDecode), (2 + 1) * block_bytes_);
  const int64_t room = RoomBlocks();
  PassInfo pass = kDecode;
  pass.first_token = 96;
  const std::vector<float> row(8, 1.0f);
  ASSERT_TRUE(cache_.BeginPass(pass).ok());
  EXPECT_EQ(RoomBlocks(), room - 3);
  ASSERT_TRUE(cache_.Append(cx_, 0, row.data(), 8, row.data(), 8).ok());
  EXPECT_EQ(RoomBlocks(), room - 3) << "one promised block became an owned one";
  cache_.OpenRecall(0);
  EXPECT_EQ(RoomBlocks(), room - 3) << "this layer has its units";
  ASSERT_TRUE(cache_.Append(cx_, 1, row.data(), 8, row.data(), 8).ok());
  EXPECT_EQ(RoomBlocks(), room - 3);
  cache_.OpenRecall(1);
  EXPECT_EQ(RoomBlocks(), room - 2) << "room for the one that lacks";
  cache_.EndPass();
  EXPECT_EQ(tier_.promised_bytes(), 0u);
}

// Its own promise and what is free, but neither the rest of the pass nor the layer's own Append; and whatever the
// layer chooses in the end has the room that was taken for the guess.
TEST_F(ResidentRoom, ReadingAheadTakesWhatNobodyElseWasPromised) {
  PassInfo pass = kDecode;
  pass.first_token = 96;
  const std::vector<float> row(8, 1.0f);
  const std::vector<SequenceCache::UnitRef> refs = {{0, 3}, {0, 0}, {0, 1}, {0, 2}};
  for (int64_t free_blocks = 0; free_blocks <= 2; ++free_blocks) {
    SCOPED_TRACE(free_blocks);
    auto copy = cache_.Clone();
    ASSERT_TRUE(copy.ok());
    std::vector<Block> ballast;
    while (RoomBlocks() > 6 + free_blocks) ballast.push_back(*tier_.Allocate(block_bytes_));
    SequenceCache& cache = *copy;
    const auto expect_room = [&] { EXPECT_LE(tier_.owned_bytes() + tier_.promised_bytes(), tier_.limit_bytes()); };
    ASSERT_TRUE(cache.BeginPass(pass).ok());
    EXPECT_EQ(RoomBlocks(), free_blocks) << "two blocks for Append, two for each layer's units";
    ASSERT_TRUE(cache.Append(cx_, 0, row.data(), 8, row.data(), 8).ok());
    cache.OpenRecall(0);
    EXPECT_EQ(RoomBlocks(), 2 + free_blocks);
    const std::vector<SequenceCache::UnitRef> first = {{0, 1}, {0, 2}};
    ASSERT_TRUE(cache.Recall(0, first).ok());
    const auto num_ahead = cache.ReadAhead(1, refs);
    ASSERT_TRUE(num_ahead.ok());
    EXPECT_EQ(*num_ahead, std::min<int64_t>(4, 2 + free_blocks));
    EXPECT_TRUE(cache.IsAhead(1, {0, 3}));
    expect_room();
    EXPECT_EQ(RoomBlocks(), std::max<int64_t>(0, free_blocks - 2));
    ASSERT_TRUE(cache.Append(cx_, 1, row.data(), 8, row.data(), 8).ok());
    expect_room();
    cache.OpenRecall(1);
    const std::vector<SequenceCache::UnitRef> others = {{0, 2}, {0, 1}};
    ASSERT_TRUE(cache.Recall(1, others).ok()) << "what was not wanted left";
    EXPECT_EQ(cache.units(1, 0).resident_blocks(), 2);
    EXPECT_EQ(cache.ahead().num_blocks, 0);
    cache.EndPass();
    EXPECT_EQ(tier_.promised_bytes(), 0u);
    for (const Block& block : ballast) tier_.Release(block_bytes_, block.id);
  }
}

TEST_F(ResidentRoom, APromiseEndsWithItsSequence) {
  {
    SequenceCache other(tier_, Shape(), slow_.get());
    ASSERT_TRUE(other.BeginPass({.num_tokens = 20}).ok());
    EXPECT_EQ(tier_.promised_bytes(), 4 * block_bytes_);
    const SequenceCache moved = std::move(other);
    EXPECT_EQ(tier_.promised_bytes(), 4 * block_bytes_);
  }
  EXPECT_EQ(tier_.promised_bytes(), 0u);
}

}  // namespace
}  // namespace cachette
