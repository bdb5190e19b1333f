#pragma once
// What one layer and KV head keeps outside its stream: entries that left for the slow tier, grouped into units that are
// retrieved together. Some units are resident: copied into blocks of the fast tier, where attention reads them.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "cache/record_store.h"
#include "cache/tier.h"
#include "ops/attention/kv_view.h"

namespace cachette {

// kBlockTokens entries of consecutive positions in one record, as they left the stream.
struct Page {
  int64_t record = 0;
  int32_t first_position = 0;
};

// Entries fill the unit's blocks from the first slot on, one record per block; the last block may be partly empty.
struct Unit {
  int64_t first_entry = 0;  // in UnitTable::positions
  int64_t first_block = 0;  // in UnitTable::records
  int32_t num_entries = 0;
  int32_t num_blocks = 0;
};

// Live slots of the block_idx-th block of a unit with num_entries entries.
uint16_t UnitBlockMask(int64_t num_entries, int64_t block_idx);

class UnitTable {
 public:
  static constexpr int64_t kNone = -1;

  UnitTable(Tier& fast, RecordStore& slow, const ops::KvFormat& format, int num_index_vectors);
  ~UnitTable();
  UnitTable(UnitTable&&) noexcept;
  UnitTable& operator=(UnitTable&&) = delete;

  // A copy that shares the records and has resident blocks of its own. Errors: kOutOfMemory.
  Result<UnitTable> Clone() const;

  // Takes over the page's reference. Pages come in position order, each after all entries before it.
  void AddPage(const Page& page);
  // Pages in no unit yet.
  std::span<const Page> pending() const;
  std::span<const Page> pages() const { return pages_; }  // kept, then pending
  // The first num_pages pending pages are in units now, which were added before. keeps: their records stay, for Find;
  // else they are released.
  void SettlePending(int64_t num_pages, bool keeps);
  // The kept or pending page that holds a position, null when there is none.
  const Page* Find(int32_t position) const;

  // Takes over one reference of each record. positions [num_entries], records [blocks]. Returns the unit's number.
  int64_t AddUnit(std::span<const int32_t> positions, std::span<const int64_t> records);

  int64_t num_units() const { return static_cast<int64_t>(units_.size()); }
  const Unit& unit(int64_t unit_idx) const { return units_[static_cast<size_t>(unit_idx)]; }
  std::span<const int32_t> unit_sizes() const { return sizes_; }  // [num_units] entries
  std::span<const int32_t> positions(int64_t unit_idx) const;
  std::span<const int64_t> records(int64_t unit_idx) const;
  // The unit that holds a position, kNone when none does.
  int64_t UnitOf(int32_t position) const;
  int64_t num_entries() const;  // of pending pages and units

  // Index vectors in the layout of ops/retrieval/unit_scores.h; room for all units.
  std::byte* index() { return index_.data(); }
  const std::byte* index() const { return index_.data(); }

  // Allocates blocks in the fast tier for a unit and lists what must be read into them. The unit counts as resident
  // from now on. Errors: kOutOfMemory; nothing has changed then.
  Result<void> MakeResident(int64_t unit_idx, std::vector<RecordRead>& reads);
  // The same in two steps: blocks [num_blocks] that are the caller's until the unit takes them over.
  Result<std::vector<Block>> AllocateBlocks(int64_t unit_idx, std::vector<RecordRead>& reads) const;
  void MakeResident(int64_t unit_idx, std::vector<Block> blocks);
  void DropResident(int64_t unit_idx);
  bool IsResident(int64_t unit_idx) const { return frame_of_[static_cast<size_t>(unit_idx)] >= 0; }
  // The resident unit's blocks [num_blocks].
  std::span<const Block> blocks(int64_t unit_idx) const;
  std::span<const int32_t> residents() const { return residents_; }  // unit numbers, in no order
  int64_t resident_entries() const { return resident_entries_; }
  int64_t resident_blocks() const { return resident_blocks_; }
  // When the unit was last of use, for whoever chooses what to drop.
  int64_t& last_used(int64_t unit_idx) { return last_used_[static_cast<size_t>(unit_idx)]; }

  int64_t slow_blocks() const;     // records held, each once
  int64_t padding_blocks() const;  // of units and pending pages, beyond what their entries fill
  int64_t metadata_bytes() const;  // of index, positions and records

 private:
  void ReleaseAll();

  Tier* fast_;
  RecordStore* slow_;
  ops::KvFormat format_;
  int num_index_vectors_;
  std::vector<Page> pages_;    // kept, then pending
  int64_t num_shared_ = 0;     // of the kept pages: their record is a unit's too
  int64_t first_pending_ = 0;  // in pages_
  std::vector<Unit> units_;
  std::vector<int32_t> sizes_;  // [num_units]
  std::vector<int32_t> positions_;
  std::vector<int64_t> records_;
  std::vector<int32_t> unit_of_;  // [last position - first + 1], kNone where no unit holds it
  int32_t first_position_ = 0;    // of unit_of_
  std::vector<std::byte> index_;
  std::vector<int32_t> frame_of_;  // [num_units] index into residents_, -1: not resident
  std::vector<int64_t> last_used_;
  std::vector<int32_t> residents_;
  std::vector<std::vector<Block>> frames_;  // as residents_
  int64_t resident_entries_ = 0;
  int64_t resident_blocks_ = 0;
};

}  // namespace cachette
