#include "cache/unit_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "cache/small_cache.h"

namespace cachette {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const ops::KvFormat kFormat{Dtype::kF16, 8};

class UnitTableTest : public ::testing::TestWithParam<const char*> {
 protected:
  UnitTableTest() : fast_(TierKind::kHost) {
    const std::string place = GetParam();
    auto slow = RecordStore::Create(place == "disk" ? "disk:" + ::testing::TempDir() : place, kFormat.block_bytes());
    CACHETTE_CHECK(slow.ok());
    slow_ = *std::move(slow);
  }

  // A record whose bytes name it.
  int64_t Record(int fill) {
    const auto record = slow_->Allocate(1);
    CACHETTE_CHECK(record.ok());
    const std::vector<std::byte> data(kFormat.block_bytes(), static_cast<std::byte>(fill));
    CACHETTE_CHECK(slow_->Write(*record, data).ok());
    return *record;
  }
  // A unit of num_entries positions from first on, with records of its own; fill of its blocks: the unit's number.
  int64_t AddUnit(UnitTable& table, int32_t first, int64_t num_entries) {
    std::vector<int32_t> positions(static_cast<size_t>(num_entries));
    std::iota(positions.begin(), positions.end(), first);
    std::vector<int64_t> records;
    for (int64_t b = 0; b < (num_entries + kBlock - 1) / kBlock; ++b)
      records.push_back(Record(static_cast<int>(table.num_units())));
    return table.AddUnit(positions, records);
  }
  void Bring(UnitTable& table, int64_t unit_idx) {
    std::vector<RecordRead> reads;
    ASSERT_TRUE(table.MakeResident(unit_idx, reads).ok());
    ASSERT_EQ(static_cast<int64_t>(reads.size()), table.unit(unit_idx).num_blocks);
    ASSERT_TRUE(slow_->Read(reads).ok());
  }
  static bool IsFilled(const Block& block, int64_t fill) {
    return std::all_of(block.data, block.data + kFormat.block_bytes(),
                       [&](std::byte b) { return b == static_cast<std::byte>(fill); });
  }

  Tier fast_;
  std::unique_ptr<RecordStore> slow_;
};
INSTANTIATE_TEST_SUITE_P(Tiers, UnitTableTest, ::testing::Values("ram", "disk"),
                         [](const auto& place) { return std::string(place.param); });

TEST(UnitBlockMask, CountsFromTheFirstSlot) {
  EXPECT_EQ(UnitBlockMask(1, 0), 1);
  EXPECT_EQ(UnitBlockMask(15, 0), 0x7fff);
  EXPECT_EQ(UnitBlockMask(16, 0), 0xffff);
  EXPECT_EQ(UnitBlockMask(17, 0), 0xffff);
  EXPECT_EQ(UnitBlockMask(17, 1), 1);
  EXPECT_EQ(UnitBlockMask(16, 1), 0);
  EXPECT_EQ(UnitBlockMask(0, 0), 0);
}

TEST_P(UnitTableTest, AFreshTableHoldsNothing) {
  UnitTable table(fast_, *slow_, kFormat, 1);
  EXPECT_EQ(table.num_units(), 0);
  EXPECT_EQ(table.num_entries(), 0);
  EXPECT_EQ(table.metadata_bytes(), 0);
  EXPECT_EQ(table.slow_blocks(), 0);
  EXPECT_EQ(table.Find(0), nullptr);
  EXPECT_EQ(table.UnitOf(0), UnitTable::kNone);
  EXPECT_EQ(table.UnitOf(-1), UnitTable::kNone);
  EXPECT_THAT(table.pending(), IsEmpty());
  EXPECT_THAT(table.residents(), IsEmpty());
}

TEST_P(UnitTableTest, PagesPendKeepOrGo) {
  UnitTable table(fast_, *slow_, kFormat, 1);
  const int64_t records[] = {Record(0), Record(1), Record(2), Record(3)};
  for (int i = 0; i < 3; ++i) table.AddPage({records[i], static_cast<int32_t>(20 + kBlock * i)});
  table.AddPage({records[3], 100});  // after a gap
  EXPECT_EQ(table.num_entries(), 4 * kBlock);
  EXPECT_EQ(table.Find(19), nullptr);
  EXPECT_EQ(table.Find(20)->record, records[0]);
  EXPECT_EQ(table.Find(35)->record, records[0]);
  EXPECT_EQ(table.Find(36)->record, records[1]);
  EXPECT_EQ(table.Find(67)->record, records[2]);
  EXPECT_EQ(table.Find(68), nullptr);
  EXPECT_EQ(table.Find(99), nullptr);
  EXPECT_EQ(table.Find(115)->record, records[3]);
  EXPECT_EQ(table.Find(116), nullptr);
  table.SettlePending(1, /*keeps=*/true);
  EXPECT_EQ(table.pending().size(), 3u);
  EXPECT_EQ(table.Find(20)->record, records[0]) << "kept";
  table.SettlePending(2, /*keeps=*/false);
  EXPECT_EQ(table.pending().size(), 1u);
  EXPECT_EQ(table.Find(36), nullptr) << "released";
  EXPECT_EQ(slow_->ref_count(records[1]), 0u);
  EXPECT_EQ(slow_->ref_count(records[2]), 0u);
  EXPECT_EQ(slow_->ref_count(records[0]), 1u);
  EXPECT_EQ(table.Find(100)->record, records[3]) << "still pending";
  EXPECT_EQ(table.num_entries(), kBlock) << "settled pages count as units";
  table.SettlePending(0, false);
  EXPECT_EQ(table.slow_blocks(), 2);
}

TEST_P(UnitTableTest, UnitsOfEverySizeKnowTheirEntries) {
  UnitTable table(fast_, *slow_, kFormat, 2);
  int32_t first = 48;
  int64_t num_entries = 0, num_blocks = 0;
  for (const int64_t size : {1, 15, 16, 17, 31, 32, 33, 100}) {
    const int64_t u = AddUnit(table, first, size);
    EXPECT_EQ(u, table.num_units() - 1);
    EXPECT_EQ(table.unit(u).num_blocks, (size + kBlock - 1) / kBlock);
    EXPECT_EQ(table.unit_sizes()[static_cast<size_t>(u)], size);
    EXPECT_EQ(table.positions(u).front(), first);
    EXPECT_EQ(table.positions(u).back(), first + size - 1);
    EXPECT_EQ(table.UnitOf(first), u);
    EXPECT_EQ(table.UnitOf(static_cast<int32_t>(first + size - 1)), u);
    first += static_cast<int32_t>(size);
    num_entries += size;
    num_blocks += table.unit(u).num_blocks;
  }
  EXPECT_EQ(table.UnitOf(47), UnitTable::kNone);
  EXPECT_EQ(table.UnitOf(first), UnitTable::kNone);
  EXPECT_EQ(table.num_entries(), num_entries);
  EXPECT_EQ(table.slow_blocks(), num_blocks);
}

// Clusters interleave, and the first may begin anywhere.
TEST_P(UnitTableTest, PositionsOfUnitsMayInterleave) {
  UnitTable table(fast_, *slow_, kFormat, 1);
  table.AddUnit(std::vector<int32_t>{21, 23, 25}, std::vector<int64_t>{Record(0)});
  table.AddUnit(std::vector<int32_t>{16, 24}, std::vector<int64_t>{Record(0)});
  table.AddUnit(std::vector<int32_t>{22, 40}, std::vector<int64_t>{Record(0)});
  const std::vector<std::pair<int32_t, int64_t>> expected = {{15, -1}, {16, 1}, {17, -1}, {20, -1}, {21, 0},
                                                             {22, 2},  {23, 0}, {24, 1},  {25, 0},  {26, -1},
                                                             {39, -1}, {40, 2}, {41, -1}};
  for (const auto& [position, unit_idx] : expected) EXPECT_EQ(table.UnitOf(position), unit_idx) << position;
}

// The index has room for whole blocks of 16 units and fresh ones are zero.
TEST_P(UnitTableTest, TheIndexGrowsByBlocksOfUnitsAndKeepsWhatItHolds) {
  for (const int num_vectors : {1, 2}) {
    UnitTable table(fast_, *slow_, kFormat, num_vectors);
    const auto block_bytes = static_cast<size_t>(num_vectors * kFormat.head_dim * 16 * 2);
    for (int32_t u = 0; u < 33; ++u) {
      const int64_t bytes_before = table.metadata_bytes();
      AddUnit(table, u, 1);
      const auto num_blocks = static_cast<size_t>(u / 16 + 1);
      if (u % 16 == 0) {
        const std::byte* fresh = table.index() + (num_blocks - 1) * block_bytes;
        EXPECT_TRUE(std::all_of(fresh, fresh + block_bytes, [](std::byte b) { return b == std::byte{0}; }));
        std::memset(table.index() + (num_blocks - 1) * block_bytes, u + 1, block_bytes);
        EXPECT_GE(table.metadata_bytes() - bytes_before, static_cast<int64_t>(block_bytes));
      }
      for (size_t b = 0; b < num_blocks; ++b)
        EXPECT_EQ(table.index()[b * block_bytes + block_bytes - 1], static_cast<std::byte>(b * 16 + 1));
    }
  }
}

// A record that is a kept page and a unit's is one record.
TEST_P(UnitTableTest, SharedRecordsCountOnce) {
  UnitTable table(fast_, *slow_, kFormat, 1);
  const int64_t shared[] = {Record(0), Record(1)}, own = Record(2), page = Record(3);
  std::vector<int32_t> positions(32);
  std::iota(positions.begin(), positions.end(), 0);
  table.AddPage({shared[0], 0});
  table.AddPage({shared[1], 16});
  table.AddPage({page, 32});
  for (const int64_t record : shared) slow_->AddRef(record);
  table.AddUnit(positions, shared);
  table.SettlePending(2, true);
  EXPECT_EQ(table.slow_blocks(), 3);
  table.AddUnit(std::vector<int32_t>{32, 33}, std::vector<int64_t>{own});  // a copy: both exist
  table.SettlePending(1, true);
  EXPECT_EQ(table.slow_blocks(), 4);
  EXPECT_EQ(static_cast<size_t>(table.slow_blocks()) * kFormat.block_bytes(), slow_->owned_bytes());
  const auto copy = table.Clone();
  ASSERT_TRUE(copy.ok());
  EXPECT_EQ(copy->slow_blocks(), 4);
}

TEST_P(UnitTableTest, ResidentsComeAndGoInAnyOrder) {
  UnitTable table(fast_, *slow_, kFormat, 1);
  std::vector<int64_t> sizes;
  Rng rng(3);
  for (int32_t u = 0, first = 0; u < 20; ++u) {
    sizes.push_back(1 + static_cast<int64_t>(rng.Below(40)));
    AddUnit(table, first, sizes.back());
    first += static_cast<int32_t>(sizes.back());
  }
  std::set<int32_t> model;
  for (int step = 0; step < 300; ++step) {
    const auto u = static_cast<int32_t>(rng.Below(20));
    if (model.contains(u)) {
      table.DropResident(u);
      model.erase(u);
    } else {
      Bring(table, u);
      model.insert(u);
    }
    int64_t entries = 0, blocks = 0;
    for (const int32_t m : model) {
      entries += sizes[static_cast<size_t>(m)];
      blocks += table.unit(m).num_blocks;
      ASSERT_TRUE(table.IsResident(m));
      ASSERT_EQ(static_cast<int64_t>(table.blocks(m).size()), table.unit(m).num_blocks);
      for (const Block& block : table.blocks(m)) ASSERT_TRUE(IsFilled(block, m));
    }
    ASSERT_EQ(std::set<int32_t>(table.residents().begin(), table.residents().end()), model);
    ASSERT_EQ(table.residents().size(), model.size());
    ASSERT_EQ(table.resident_entries(), entries);
    ASSERT_EQ(table.resident_blocks(), blocks);
    ASSERT_EQ(fast_.owned_bytes(), static_cast<size_t>(blocks) * kFormat.block_bytes());
  }
}

TEST_P(UnitTableTest, AUnitWithoutRoomLeavesNoBlockBehind) {
  Tier tight(TierKind::kHost, 5 * kFormat.block_bytes());
  UnitTable table(tight, *slow_, kFormat, 1);
  AddUnit(table, 0, 3 * kBlock);
  AddUnit(table, 100, 3 * kBlock);
  AddUnit(table, 200, 2 * kBlock);
  std::vector<RecordRead> reads;
  ASSERT_TRUE(table.MakeResident(0, reads).ok());
  const auto refused = table.MakeResident(1, reads);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.failure().error, Error::kOutOfMemory);
  EXPECT_EQ(tight.owned_bytes(), 3 * kFormat.block_bytes());
  EXPECT_EQ(reads.size(), 3u);
  EXPECT_FALSE(table.IsResident(1));
  EXPECT_EQ(table.resident_blocks(), 3);
  ASSERT_TRUE(table.MakeResident(2, reads).ok());
  EXPECT_EQ(tight.owned_bytes(), tight.limit_bytes());
}

TEST_P(UnitTableTest, ACopySharesRecordsAndHasBlocksOfItsOwn) {
  {
    UnitTable table(fast_, *slow_, kFormat, 1);
    for (int32_t u = 0; u < 3; ++u) AddUnit(table, 50 * u, 20);
    table.AddPage({Record(9), 200});
    table.AddPage({Record(9), 216});
    table.SettlePending(1, true);
    Bring(table, 2);
    Bring(table, 0);
    table.last_used(2) = 77;
    const size_t slow_bytes = slow_->owned_bytes();
    {
      auto copy = table.Clone();
      ASSERT_TRUE(copy.ok());
      EXPECT_EQ(slow_->owned_bytes(), slow_bytes);
      EXPECT_EQ(slow_->ref_count(table.records(1)[0]), 2u);
      EXPECT_EQ(copy->pending().size(), 1u);
      EXPECT_EQ(copy->Find(200)->record, table.Find(200)->record);
      EXPECT_EQ(copy->last_used(2), 77);
      EXPECT_EQ(copy->metadata_bytes(), table.metadata_bytes());
      EXPECT_EQ(copy->UnitOf(119), 2);
      EXPECT_THAT(copy->residents(), ElementsAre(2, 0));
      EXPECT_NE(copy->blocks(2)[0].data, table.blocks(2)[0].data);
      for (const int64_t u : {0, 2})
        for (const Block& block : copy->blocks(u)) EXPECT_TRUE(IsFilled(block, u));
      table.DropResident(2);
      EXPECT_TRUE(copy->IsResident(2));
      UnitTable moved = *std::move(copy);
      EXPECT_TRUE(IsFilled(moved.blocks(2)[1], 2));
    }
    EXPECT_EQ(slow_->ref_count(table.records(1)[0]), 1u);
    EXPECT_EQ(fast_.owned_bytes(), 2 * kFormat.block_bytes());
  }
  EXPECT_EQ(fast_.owned_bytes(), 0u);
  EXPECT_EQ(slow_->owned_bytes(), 0u);
}

TEST_P(UnitTableTest, ACopyWithoutRoomLeavesNothingBehind) {
  Tier tight(TierKind::kHost, 7 * kFormat.block_bytes());
  UnitTable table(tight, *slow_, kFormat, 1);
  AddUnit(table, 0, 2 * kBlock);
  AddUnit(table, 100, 2 * kBlock);
  Bring(table, 0);
  Bring(table, 1);
  const auto copy = table.Clone();
  ASSERT_FALSE(copy.ok());
  EXPECT_EQ(tight.owned_bytes(), 4 * kFormat.block_bytes());
  EXPECT_EQ(slow_->ref_count(table.records(1)[1]), 1u);
}

}  // namespace
}  // namespace cachette
