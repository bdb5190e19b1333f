// SequenceCache between two tiers: what leaves comes back bit by bit, whatever the dtype and wherever it rested, and a
// full tier leaks nothing.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "base/rng.h"
#include "cache/sequence_cache.h"
#include "cache/small_cache.h"
#include "ops/attention/kv_store.h"

namespace cachette {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

CacheShape Shape(Dtype dtype, int num_layers = 1, int num_kv_heads = 2) {
  return {.num_layers = num_layers,
          .num_kv_heads = num_kv_heads,
          .format = {dtype, kHeadDim},
          .units = {.num_index_vectors = 1, .local_entries = 64}};
}

std::unique_ptr<RecordStore> Store(const std::string& place, const CacheShape& shape,
                                   size_t limit_bytes = RecordStore::kUnlimited) {
  auto store = RecordStore::Create(place == "disk" ? "disk:" + ::testing::TempDir() : place, shape.format.block_bytes(),
                                   limit_bytes);
  CACHETTE_CHECK(store.ok());
  return *std::move(store);
}

using Entry = std::vector<float>;  // key, then value, as f32: exact in every dtype

UnitSplit SplitBy(const std::vector<int32_t>& labels) {
  UnitSplit split;
  for (int32_t label = 0; label <= *std::max_element(labels.begin(), labels.end()); ++label) {
    for (size_t i = 0; i < labels.size(); ++i)
      if (labels[i] == label) split.entries.push_back(static_cast<int32_t>(i));
    split.ends.push_back(static_cast<int32_t>(split.entries.size()));
  }
  return split;
}

// One tier pair and one sequence whose entries are random; keeps what was written to compare with.
struct Fixture {
  Fixture(const CacheShape& shape, const std::string& place, size_t fast_bytes = Tier::kUnlimited,
          size_t slow_bytes = RecordStore::kUnlimited)
      : cx(AllBackends()[0], 2),
        slow(Store(place, shape, slow_bytes)),
        fast(TierKind::kHost, fast_bytes),
        cache(fast, shape, slow.get()) {}

  Result<void> Append(int64_t num_tokens) {
    const CacheShape& shape = cache.shape();
    const int64_t width = shape.num_kv_heads * kHeadDim;
    CACHETTE_TRY(cache.BeginPass({.first_token = cache.num_tokens(), .num_tokens = num_tokens}));
    for (int layer = 0; layer < shape.num_layers; ++layer) {
      std::vector<float> keys, values;
      for (int64_t i = 0; i < num_tokens * width; ++i) keys.push_back(static_cast<float>(rng.Normal()));
      for (int64_t i = 0; i < num_tokens * width; ++i) values.push_back(static_cast<float>(rng.Normal()));
      CACHETTE_TRY(cache.Append(cx, layer, keys.data(), width, values.data(), width));
    }
    cache.EndPass();
    return Ok();
  }
  static Entry Load(const ops::KvFormat& format, const std::byte* const* blocks, int64_t slot) {
    Entry entry(2 * kHeadDim);
    ops::LoadEntry(format, blocks, slot, entry.data(), entry.data() + kHeadDim);
    return entry;
  }
  // Entries of a stream by position.
  std::map<int32_t, Entry> Stored(int layer, int head) const {
    std::map<int32_t, Entry> stored;
    const HeadStream& stream = cache.stream(layer, head);
    for (int64_t slot = 0; slot < stream.num_slots(); ++slot)
      if (stream.IsLive(slot))
        stored[stream.positions()[static_cast<size_t>(slot)]] = Load(stream.format(), stream.blocks(), slot);
    return stored;
  }
  // Moves pages from the first_rank-th entry on.
  void OffloadPages(int layer, int head, int64_t first_rank, int64_t num_pages) {
    const auto out = cache.Offload(cx, layer, head, first_rank, num_pages * kBlock);
    ASSERT_TRUE(out.ok()) << out.failure().message;
    for (int64_t p = 0; p < num_pages; ++p)
      cache.units(layer, head).AddPage({out->first_record + p, out->positions[static_cast<size_t>(p * kBlock)]});
  }
  std::vector<std::string> Broken(const SequenceCache* other = nullptr) const {
    std::vector<const SequenceCache*> all = {&cache};
    if (other != nullptr) all.push_back(other);
    return CheckInvariants(fast, all);
  }
  // What the view holds of a head, by the entries themselves.
  std::multiset<Entry> Seen(int layer, int head) const {
    std::multiset<Entry> seen;
    const ops::KvRow row = cache.AttentionRow(layer, head);
    for (int64_t slot = 0; slot < row.num_slots; ++slot)
      if (row.live_masks == nullptr || ((row.live_masks[slot / kBlock] >> (slot % kBlock)) & 1) != 0)
        seen.insert(Load(cache.shape().format, row.blocks, slot));
    return seen;
  }
  static std::multiset<Entry> EntriesOf(const std::map<int32_t, Entry>& stored) {
    std::multiset<Entry> entries;
    for (const auto& [position, entry] : stored) entries.insert(entry);
    return entries;
  }

  Context cx;
  Rng rng{7};
  std::unique_ptr<RecordStore> slow;
  Tier fast;
  SequenceCache cache;
};

class Offload : public ::testing::TestWithParam<std::tuple<const char*, Dtype>> {
 protected:
  std::string place() const { return std::get<0>(GetParam()); }
  Dtype dtype() const { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Tiers, Offload,
                         ::testing::Combine(::testing::Values("ram", "disk"),
                                            ::testing::Values(Dtype::kF16, Dtype::kBF16, Dtype::kF32)),
                         [](const auto& p) {
                           return std::string(std::get<0>(p.param)) + "_" + InfoOf(std::get<1>(p.param)).name;
                         });

// Aligned or not, whole blocks or not, with dead slots among them: in order, packed, and nothing else moves.
TEST_P(Offload, EntriesComeBackAsTheyLeft) {
  for (const auto& [first_rank, num_entries] :
       std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {16, 16}, {16, 32}, {3, 16}, {5, 40}, {16, 33}, {0, 96}}) {
    for (const bool has_holes : {false, true}) {
      Fixture f(Shape(dtype()), place());
      ASSERT_TRUE(f.Append(100).ok());
      const SlotRange holes[] = {{18, 19}, {30, 33}};
      if (has_holes) f.cache.Evict(0, 1, holes);
      const std::map<int32_t, Entry> stored = f.Stored(0, 1);
      const auto out = f.cache.Offload(f.cx, 0, 1, first_rank, num_entries);
      ASSERT_TRUE(out.ok());
      ASSERT_EQ(static_cast<int64_t>(out->positions.size()), num_entries);
      EXPECT_EQ(f.cache.stream(0, 1).num_live(), static_cast<int64_t>(stored.size()) - num_entries);
      EXPECT_EQ(f.cache.stream(0, 0).num_live(), 100);
      std::vector<int64_t> records(static_cast<size_t>((num_entries + kBlock - 1) / kBlock));
      std::iota(records.begin(), records.end(), out->first_record);
      UnitTable& table = f.cache.units(0, 1);
      table.AddUnit(out->positions, records);
      ASSERT_THAT(f.Broken(), IsEmpty());
      const SequenceCache::UnitRef ref{1, 0};
      ASSERT_TRUE(f.cache.Recall(0, {&ref, 1}).ok());
      ASSERT_THAT(f.Broken(), IsEmpty());
      std::vector<const std::byte*> blocks;
      for (const Block& block : table.blocks(0)) blocks.push_back(block.data);
      auto next = stored.begin();
      std::advance(next, first_rank);
      for (int64_t i = 0; i < num_entries; ++i, ++next) {
        EXPECT_EQ(out->positions[static_cast<size_t>(i)], next->first);
        EXPECT_EQ(Fixture::Load(f.cache.shape().format, blocks.data(), i), next->second) << "entry " << i;
      }
      // What stayed is what it was.
      for (const auto& [position, entry] : f.Stored(0, 1)) EXPECT_EQ(entry, stored.at(position));
      EXPECT_EQ(f.cache.ledger().Area(), Triangle(100) * 2) << "nothing dies";
    }
  }
}

TEST_P(Offload, UnitsByLabelHoldTheirEntriesInOrder) {
  for (const bool keeps_pages : {false, true}) {
    Fixture f(Shape(dtype()), place());
    ASSERT_TRUE(f.Append(100).ok());
    const std::map<int32_t, Entry> stored = f.Stored(0, 0);
    f.OffloadPages(0, 0, 16, 4);
    std::vector<int32_t> labels;
    for (int i = 0; i < 48; ++i) labels.push_back(i % 3 == 0 ? 1 : i < 40 ? 0 : 2);
    std::vector<float> keys;
    ASSERT_TRUE(f.cache.LoadPendingKeys(f.cx, 0, 0, 3, keys).ok());
    ASSERT_EQ(keys.size(), 48u * kHeadDim);
    for (int i = 0; i < 48; ++i)
      EXPECT_TRUE(
          std::equal(keys.begin() + i * kHeadDim, keys.begin() + (i + 1) * kHeadDim, stored.at(16 + i).begin()));
    ASSERT_TRUE(f.cache.MakeUnits(f.cx, 0, 0, 3, SplitBy(labels), keys, keeps_pages).ok());
    ASSERT_THAT(f.Broken(), IsEmpty());
    const UnitTable& table = f.cache.units(0, 0);
    EXPECT_EQ(table.num_units(), 3);
    EXPECT_EQ(table.pending().size(), 1u);
    EXPECT_EQ(table.Find(20) != nullptr, keeps_pages);
    EXPECT_EQ(table.slow_blocks(), 2 + 1 + 1 + 1 + (keeps_pages ? 3 : 0));
    EXPECT_EQ(f.slow->owned_bytes(), static_cast<size_t>(table.slow_blocks()) * f.slow->record_bytes());
    f.cache.BeginView(0, 1);
    ASSERT_TRUE(f.cache.ViewEverything(0).ok());
    f.cache.SealView();
    EXPECT_EQ(f.Seen(0, 0), Fixture::EntriesOf(stored)) << "and no padding";
    f.cache.EndView();
    const SequenceCache::UnitRef refs[] = {{0, 0}, {0, 1}, {0, 2}};
    ASSERT_TRUE(f.cache.Recall(0, refs).ok());
    for (int64_t u = 0; u < 3; ++u) {
      const std::span<const int32_t> positions = table.positions(u);
      EXPECT_TRUE(std::is_sorted(positions.begin(), positions.end()));
      std::vector<const std::byte*> blocks;
      for (const Block& block : table.blocks(u)) blocks.push_back(block.data);
      for (size_t i = 0; i < positions.size(); ++i) {
        EXPECT_EQ(labels[static_cast<size_t>(positions[i] - 16)], u);
        EXPECT_EQ(Fixture::Load(f.cache.shape().format, blocks.data(), static_cast<int64_t>(i)),
                  stored.at(positions[i]));
      }
    }
  }
}

TEST_P(Offload, RunsShareTheirPagesRecords) {
  for (const bool keeps_pages : {false, true}) {
    Fixture f(Shape(dtype()), place());
    ASSERT_TRUE(f.Append(100).ok());
    f.OffloadPages(0, 0, 16, 5);
    const int64_t written = f.slow->traffic().records_written;
    f.cache.MakeRunUnits(0, 0, 5, 32, keeps_pages);
    EXPECT_EQ(f.slow->traffic().records_written, written) << "nothing is copied";
    const UnitTable& table = f.cache.units(0, 0);
    EXPECT_THAT(std::vector<int32_t>(table.unit_sizes().begin(), table.unit_sizes().end()), ElementsAre(32, 32, 16));
    EXPECT_EQ(table.positions(2).front(), 80);
    EXPECT_EQ(table.slow_blocks(), 5);
    EXPECT_EQ(f.slow->owned_bytes(), 5 * f.slow->record_bytes());
    EXPECT_EQ(table.Find(95) != nullptr, keeps_pages);
    ASSERT_THAT(f.Broken(), IsEmpty());
    f.cache.BookHeld();
    EXPECT_GT(f.cache.ledger().ByteArea(TierKind::kHost), 0);
  }
}

// Sinks, resident units or everything, the recent rest; each once.
TEST_P(Offload, AViewShowsWhatItWasGiven) {
  Fixture f(Shape(dtype()), place());
  ASSERT_TRUE(f.Append(100).ok());
  const std::multiset<Entry> everything = Fixture::EntriesOf(f.Stored(0, 0));
  const std::map<int32_t, Entry> stored = f.Stored(0, 0);
  for (int head = 0; head < 2; ++head) f.OffloadPages(0, head, 16, 4);
  for (int head = 0; head < 2; ++head) f.cache.MakeRunUnits(0, head, 3, 16, false);
  EXPECT_FALSE(f.cache.has_view(0));
  EXPECT_EQ(f.Seen(0, 0), Fixture::EntriesOf(f.Stored(0, 0))) << "without a view: the stream";
  f.cache.BeginView(0, 1);
  ASSERT_TRUE(f.cache.ViewEverything(0).ok());
  ASSERT_THAT(f.Broken(), IsEmpty()) << "staged blocks are owned";
  f.cache.SealView();
  EXPECT_TRUE(f.cache.has_view(0));
  EXPECT_EQ(f.Seen(0, 0), everything);
  const ops::KvRow row = f.cache.AttentionRow(0, 0);
  EXPECT_EQ(row.live_masks, nullptr) << "whole blocks need no masks";
  for (int64_t i = 0; i < 20; ++i)  // the newest come last, where a causal mask expects them
    EXPECT_EQ(Fixture::Load(row.format, row.blocks, row.num_slots - 20 + i), stored.at(static_cast<int32_t>(80 + i)));
  f.cache.EndView();
  ASSERT_THAT(f.Broken(), IsEmpty());
  EXPECT_EQ(f.cache.staged().size(), 0u);

  const SequenceCache::UnitRef refs[] = {{0, 1}, {1, 2}};
  ASSERT_TRUE(f.cache.Recall(0, refs).ok());
  f.cache.BeginView(0, 1);
  f.cache.ViewResident(0, 0, 1);
  f.cache.SealView();
  std::multiset<Entry> expected;
  for (const auto& [position, entry] : stored)
    if (position < 16 || position >= 80 || (position >= 32 && position < 48)) expected.insert(entry);
  EXPECT_EQ(f.Seen(0, 0), expected);
  f.cache.EndView();
  ASSERT_THAT(f.Broken(), IsEmpty());
}

// The limit of the fast tier, from no room at all to enough: failures in the middle leave no block that nobody owns.
TEST_P(Offload, AFullFastTierLeaksNothing) {
  const CacheShape shape = Shape(dtype());
  const size_t block_bytes = shape.format.block_bytes();
  int num_failures = 0;
  for (int64_t room = 0; room <= 8; ++room) {
    // Twice 7 blocks come, then twice 4 leave.
    Fixture f(shape, place(), 14 * block_bytes);
    ASSERT_TRUE(f.Append(100).ok());
    for (int head = 0; head < 2; ++head) f.OffloadPages(0, head, 16, 4);
    for (int head = 0; head < 2; ++head) f.cache.MakeRunUnits(0, head, 4, 32, /*keeps_pages=*/true);
    std::vector<Block> ballast;
    while (f.fast.owned_bytes() + static_cast<size_t>(room) * block_bytes < f.fast.limit_bytes())
      ballast.push_back(*f.fast.Allocate(block_bytes));
    const auto release = [&] {
      for (const Block& block : ballast) f.fast.Release(block_bytes, block.id);
      ballast.clear();
    };
    f.cache.BeginView(0, 1);
    const auto everything = f.cache.ViewEverything(0);
    EXPECT_EQ(everything.ok(), place() == "ram" || room >= 8) << room;
    if (!everything.ok()) {
      ++num_failures;
      EXPECT_EQ(everything.failure().error, Error::kOutOfMemory);
      EXPECT_FALSE(f.cache.has_view(0));
      EXPECT_EQ(f.cache.staged().size(), 0u);
    }
    f.cache.EndView();
    // Guesses: as many as there is room for.
    std::vector<SequenceCache::GuessRef> guesses;
    for (int head = 0; head < 2; ++head)
      for (const Page& page : f.cache.units(0, head).pages()) guesses.push_back({head, page, 0xf0f0});
    ASSERT_EQ(guesses.size(), 8u);
    ASSERT_TRUE(f.cache.StartGuesses(0, guesses).ok());
    ASSERT_TRUE(f.cache.SettleGuesses(0).ok());
    EXPECT_EQ(static_cast<int64_t>(f.cache.guesses(0, 0).size() + f.cache.guesses(0, 1).size()), room);
    // What is here already is not read again, and stays where it is.
    const std::byte* const first = room > 0 ? f.cache.guesses(0, 0)[0].block.data : nullptr;
    guesses[0].wanted = 1;
    const auto again = f.cache.StartGuesses(0, {guesses.data(), 1});
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(again->num_pages, 0);
    EXPECT_EQ(f.cache.guesses(0, 1).size(), 0u);
    ASSERT_EQ(f.cache.guesses(0, 0).size(), room > 0 ? 1u : 0u);
    if (room > 0) {
      EXPECT_EQ(f.cache.guesses(0, 0)[0].block.data, first);
      EXPECT_EQ(f.cache.guesses(0, 0)[0].wanted, 1);
    }
    ASSERT_TRUE(f.cache.StartGuesses(0, {}).ok());
    EXPECT_EQ(f.cache.guesses(0, 0).size(), 0u);
    const SequenceCache::UnitRef refs[] = {{0, 0}, {1, 0}, {0, 1}, {1, 1}};
    const auto recalled = f.cache.Recall(0, refs);
    EXPECT_EQ(recalled.ok(), room >= 8) << room;
    EXPECT_TRUE(recalled.ok() || recalled.failure().error == Error::kOutOfMemory);
    release();
    ASSERT_THAT(f.Broken(), IsEmpty());
  }
  EXPECT_EQ(num_failures, place() == "ram" ? 0 : 8);
}

TEST_P(Offload, AFullSlowTierLeavesTheStreamAsItWas) {
  const CacheShape shape = Shape(dtype());
  Fixture f(shape, place(), Tier::kUnlimited, 5 * shape.format.block_bytes());
  ASSERT_TRUE(f.Append(200).ok());
  f.OffloadPages(0, 0, 16, 4);
  const std::map<int32_t, Entry> stored = f.Stored(0, 0);
  const auto refused = f.cache.Offload(f.cx, 0, 0, 16, 2 * kBlock);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.failure().error, Error::kOutOfMemory);
  EXPECT_THAT(refused.failure().message, HasSubstr("slow tier"));
  EXPECT_EQ(f.Stored(0, 0), stored);
  ASSERT_THAT(f.Broken(), IsEmpty());
  // Units of one entry each take more blocks than there are.
  std::vector<int32_t> labels(64);
  std::iota(labels.begin(), labels.end(), 0);
  std::vector<float> keys;
  ASSERT_TRUE(f.cache.LoadPendingKeys(f.cx, 0, 0, 4, keys).ok());
  ASSERT_FALSE(f.cache.MakeUnits(f.cx, 0, 0, 4, SplitBy(labels), keys, false).ok());
  EXPECT_EQ(f.cache.units(0, 0).pending().size(), 4u);
  ASSERT_THAT(f.Broken(), IsEmpty());
}

// A copy in the middle of everything: shares records, owns blocks, has no guesses.
TEST_P(Offload, ACopyGoesItsOwnWay) {
  Fixture f(Shape(dtype(), 2), place());
  ASSERT_TRUE(f.Append(100).ok());
  for (int layer = 0; layer < 2; ++layer)
    for (int head = 0; head < 2; ++head) {
      f.OffloadPages(layer, head, 16, 4);
      f.cache.MakeRunUnits(layer, head, 2, 16, true);
    }
  const SequenceCache::UnitRef refs[] = {{0, 0}, {1, 1}};
  ASSERT_TRUE(f.cache.Recall(1, refs).ok());
  const SequenceCache::GuessRef guess{1, f.cache.units(1, 1).pages()[0], 1};
  ASSERT_TRUE(f.cache.StartGuesses(1, {&guess, 1}).ok());
  {
    auto copy = f.cache.Clone();
    ASSERT_TRUE(copy.ok());
    EXPECT_EQ(copy->guesses(1, 1).size(), 0u);
    ASSERT_TRUE(copy->SettleGuesses(1).ok());
    EXPECT_THAT(f.Broken(&*copy), IsEmpty());
    SequenceCache moved = *std::move(copy);
    f.cache.units(1, 0).DropResident(0);
    EXPECT_TRUE(moved.units(1, 0).IsResident(0));
    const auto out = moved.Offload(f.cx, 0, 0, 16, 3);
    ASSERT_TRUE(out.ok());
    moved.units(0, 0).AddUnit(out->positions, std::vector<int64_t>{out->first_record});
    EXPECT_THAT(f.Broken(&moved), IsEmpty());
    EXPECT_EQ(f.cache.ledger().total_live_entries(), 400);
    EXPECT_EQ(moved.ledger().total_live_entries(), 400);
  }
  ASSERT_TRUE(f.cache.SettleGuesses(1).ok());
  EXPECT_THAT(f.Broken(), IsEmpty());
}

// Reading ahead makes nothing resident; Recall takes what it names of it, and the rest leaves.
TEST_P(Offload, WhatWasReadAheadIsTakenOrLeaves) {
  Fixture f(Shape(dtype(), 2), place());
  ASSERT_TRUE(f.Append(100).ok());
  std::vector<std::map<int32_t, Entry>> stored;
  for (int head = 0; head < 2; ++head) {
    stored.push_back(f.Stored(1, head));
    f.OffloadPages(1, head, 16, 4);
    f.cache.MakeRunUnits(1, head, 4, 16, false);
  }
  const auto num_blocks = [&] { return f.fast.owned_bytes() / f.cache.shape().format.block_bytes(); };
  const size_t num_before = num_blocks();
  ASSERT_TRUE(f.cache.BeginPass({.phase = Phase::kDecode, .first_token = 100, .num_tokens = 1}).ok());
  const std::vector<SequenceCache::UnitRef> likely = {{0, 2}, {0, 0}, {1, 3}, {1, 1}};
  const auto num_ahead = f.cache.ReadAhead(1, likely);
  ASSERT_TRUE(num_ahead.ok());
  EXPECT_EQ(*num_ahead, 4);
  EXPECT_EQ(num_blocks(), num_before + 4);
  EXPECT_EQ(f.cache.units(1, 0).resident_blocks(), 0);
  for (const SequenceCache::UnitRef& ref : likely) EXPECT_TRUE(f.cache.IsAhead(1, ref));
  EXPECT_FALSE(f.cache.IsAhead(1, {0, 1}));
  EXPECT_FALSE(f.cache.IsAhead(0, {0, 0})) << "another layer";
  EXPECT_THAT(f.Broken(), IsEmpty());
  const int64_t num_read = f.slow->traffic().records_read;
  const std::vector<SequenceCache::UnitRef> wanted = {{1, 3}, {0, 1}, {0, 2}};
  ASSERT_TRUE(f.cache.Recall(1, wanted).ok());
  EXPECT_EQ(f.slow->traffic().records_read, num_read + 1) << "the others were there";
  EXPECT_EQ(num_blocks(), num_before + 3);
  EXPECT_FALSE(f.cache.IsAhead(1, {0, 0}));
  EXPECT_THAT(f.Broken(), IsEmpty());
  for (const SequenceCache::UnitRef& ref : wanted) {
    const UnitTable& table = f.cache.units(1, ref.kv_head);
    ASSERT_TRUE(table.IsResident(ref.unit_idx));
    const std::byte* const block = table.blocks(ref.unit_idx)[0].data;
    for (int64_t i = 0; i < kBlock; ++i)
      EXPECT_EQ(Fixture::Load(f.cache.shape().format, &block, i),
                stored[static_cast<size_t>(ref.kv_head)].at(table.positions(ref.unit_idx)[static_cast<size_t>(i)]));
  }

  // It is in nobody's way: not a copy's, not another layer's, not the next pass's, and it ends with the sequence.
  const std::vector<SequenceCache::UnitRef> rest = {{0, 0}, {1, 1}};
  ASSERT_TRUE(f.cache.ReadAhead(1, rest).ok());
  ASSERT_TRUE(f.cache.ReadAhead(1, rest).ok());
  EXPECT_EQ(num_blocks(), num_before + 5);
  ASSERT_TRUE(f.cache.Recall(0, {}).ok());
  EXPECT_TRUE(f.cache.IsAhead(1, {0, 0}));
  {
    const auto copy = f.cache.Clone();
    ASSERT_TRUE(copy.ok());
    EXPECT_FALSE(copy->IsAhead(1, {0, 0}));
    EXPECT_THAT(f.Broken(&*copy), IsEmpty());
  }
  ASSERT_TRUE(f.cache.Recall(1, {}).ok());
  EXPECT_EQ(num_blocks(), num_before + 3);
  ASSERT_TRUE(f.cache.ReadAhead(1, rest).ok());
  ASSERT_TRUE(f.cache.BeginPass({.phase = Phase::kDecode, .first_token = f.cache.num_tokens(), .num_tokens = 1}).ok());
  EXPECT_EQ(num_blocks(), num_before + 3) << "of a pass that was given up";
  ASSERT_TRUE(f.cache.ReadAhead(1, rest).ok());
}

// A read ahead that fails is an error for whoever wants its units, and nobody's where they are not wanted.
TEST(OffloadAhead, AFailedReadIsAnErrorWhereItsUnitsAreWanted) {
  const std::string folder = std::filesystem::canonical(::testing::TempDir()) / fmt::format("ahead_{}", getpid());
  for (const char* reader : {"", ",threads"}) {
    std::filesystem::create_directory(folder);
    Fixture f(Shape(Dtype::kF16), "disk:" + folder + reader);
    ASSERT_TRUE(f.Append(100).ok());
    f.OffloadPages(0, 1, 16, 4);
    f.cache.MakeRunUnits(0, 1, 4, 16, false);
    ASSERT_TRUE(f.cache.BeginPass({.phase = Phase::kDecode, .first_token = 100, .num_tokens = 1}).ok());
    int file = -1;  // it has no name
    for (int fd = 3; fd < 1000 && file < 0; ++fd) {
      std::error_code code;
      const std::string link = std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd), code);
      if (link.starts_with(folder + "/")) file = fd;
    }
    ASSERT_GE(file, 0);
    ASSERT_EQ(ftruncate(file, 0), 0);
    const std::vector<SequenceCache::UnitRef> likely = {{1, 2}, {1, 0}};
    ASSERT_TRUE(f.cache.ReadAhead(0, likely).ok());
    ASSERT_TRUE(f.cache.Recall(0, {}).ok());
    ASSERT_TRUE(f.cache.ReadAhead(0, likely).ok());
    const auto recalled = f.cache.Recall(0, std::span(likely).first(1));
    ASSERT_FALSE(recalled.ok());
    EXPECT_EQ(recalled.failure().error, Error::kCorrupt);
    EXPECT_THAT(recalled.failure().message, HasSubstr("cut it short"));
    EXPECT_FALSE(f.cache.units(0, 1).IsResident(2));
  }
  std::filesystem::remove_all(folder);
}

// Of one layer all that comes, of the others what stays.
TEST(OffloadRoom, BytesToAppendCountWhatStaysAndOneLayerPassing) {
  CacheShape shape = Shape(Dtype::kF16, 3, 2);  // local_entries 64: four blocks
  const size_t block_bytes = shape.format.block_bytes();
  Fixture f(shape, "ram");
  EXPECT_EQ(f.cache.BytesToAppend(0), 0u);
  EXPECT_EQ(f.cache.BytesToAppend(1), 6 * block_bytes);
  EXPECT_EQ(f.cache.BytesToAppend(64), 24 * block_bytes);
  EXPECT_EQ(f.cache.BytesToAppend(160), (24 + 2 * 6) * block_bytes) << "six more of each head of one layer";
  ASSERT_TRUE(f.Append(64).ok());
  EXPECT_EQ(f.cache.BytesToAppend(1), 2 * block_bytes);
  shape.units.whole_layers = {true, false, true};
  Fixture dense(shape, "ram");
  EXPECT_EQ(dense.cache.BytesToAppend(160), (2 * 20 + 8 + 12) * block_bytes);
  shape.units.num_index_vectors = 0;  // no units: everything stays
  Tier tier(TierKind::kHost);
  const SequenceCache plain(tier, shape);
  EXPECT_EQ(plain.BytesToAppend(160), 60 * block_bytes);
}

// What a disk's records are copied to while a layer of a prompt is attended to is held like anything else.
TEST(OffloadRoom, StagedCopiesAreBooked) {
  const CacheShape shape = Shape(Dtype::kF16);
  std::map<std::string, int64_t> areas;
  for (const std::string place : {"ram", "disk"}) {
    Fixture f(shape, place);
    ASSERT_TRUE(f.Append(100).ok());
    f.OffloadPages(0, 0, 16, 3);
    f.OffloadPages(0, 1, 16, 2);
    f.cache.BookHeld();
    const size_t num_staged = place == "disk" ? 5 : 0;
    EXPECT_EQ(f.cache.BytesToStage(0), num_staged * shape.format.block_bytes());
    ASSERT_TRUE(f.cache.BeginPass({.first_token = 100, .num_tokens = 4}).ok());
    const std::vector<float> rows(4 * 2 * kHeadDim, 1.0f);
    ASSERT_TRUE(f.cache.Append(f.cx, 0, rows.data(), 2 * kHeadDim, rows.data(), 2 * kHeadDim).ok());
    f.cache.BeginView(0, 1);
    ASSERT_TRUE(f.cache.ViewEverything(0).ok());
    EXPECT_EQ(f.cache.staged().size(), num_staged);
    f.cache.EndView();
    f.cache.BookHeld();
    f.cache.EndPass();
    areas[place] = f.cache.ledger().ByteArea(TierKind::kHost);
    EXPECT_THAT(f.Broken(), IsEmpty());
  }
  EXPECT_EQ(areas["disk"] - areas["ram"], 4 * 5 * static_cast<int64_t>(shape.format.block_bytes()))
      << "at every step of the pass";
}

// ---- CheckInvariants must see damage of units too. ----

class CheckUnits : public ::testing::Test {
 protected:
  CheckUnits() : f_(Shape(Dtype::kF16), "ram") {
    CACHETTE_CHECK(f_.Append(100).ok());
    f_.OffloadPages(0, 1, 16, 4);
    f_.cache.MakeRunUnits(0, 1, 3, 16, true);
    CACHETTE_CHECK(f_.Broken().empty());
  }
  std::string Report() const {
    std::string all;
    for (const std::string& sentence : f_.Broken()) all += sentence + "\n";
    return all;
  }
  Fixture f_;
};

TEST_F(CheckUnits, ARecordReferencedTooOftenOrByNobody) {
  const int64_t record = f_.cache.units(0, 1).records(0)[0];
  f_.slow->AddRef(record);
  EXPECT_THAT(Report(), HasSubstr("2 owners, reference count 3"));
  f_.slow->Release(record);
  const auto stray = f_.slow->Allocate(1);
  EXPECT_THAT(Report(), HasSubstr("the slow tier holds 5 records, sequences name 4"));
  f_.slow->Release(*stray);
  EXPECT_EQ(Report(), "");
}

TEST_F(CheckUnits, AnEntryInTwoPlacesOrMissing) {
  const auto record = f_.slow->Allocate(1);
  f_.cache.units(0, 1).AddUnit(std::vector<int32_t>{17}, std::vector<int64_t>{*record});
  EXPECT_THAT(Report(), HasSubstr("a unit holds position 17, which stands elsewhere too"));
  EXPECT_THAT(Report(), HasSubstr("position 17 of unit 0 leads to unit 3"));
  EXPECT_THAT(Report(), HasSubstr("ledger has 100 live entries, stream 101"));
}

TEST_F(CheckUnits, ABlockOfAResidentOrAGuessCounts) {
  const SequenceCache::UnitRef ref{1, 1};
  ASSERT_TRUE(f_.cache.Recall(0, {&ref, 1}).ok());
  EXPECT_EQ(Report(), "");
  const Block block = f_.cache.units(0, 1).blocks(1)[0];
  f_.fast.AddRef(f_.slow->record_bytes(), block.id);
  EXPECT_THAT(Report(), HasSubstr("1 owners, reference count 2"));
  f_.fast.Release(f_.slow->record_bytes(), block.id);
  const SequenceCache::GuessRef guess{1, f_.cache.units(0, 1).pages()[1], 3};
  ASSERT_TRUE(f_.cache.StartGuesses(0, {&guess, 1}).ok());
  ASSERT_TRUE(f_.cache.SettleGuesses(0).ok());
  EXPECT_EQ(Report(), "");
}

}  // namespace
}  // namespace cachette
