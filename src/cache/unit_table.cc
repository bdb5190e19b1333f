#include "cache/unit_table.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace cachette {
namespace {

using ops::BlocksFor;
using ops::kBlockTokens;

constexpr int64_t kIndexUnits = 16;  // units of an index block

}  // namespace

uint16_t UnitBlockMask(int64_t num_entries, int64_t block_idx) {
  const int64_t count = std::clamp<int64_t>(num_entries - block_idx * kBlockTokens, 0, kBlockTokens);
  return static_cast<uint16_t>((1u << count) - 1u);
}

UnitTable::UnitTable(Tier& fast, RecordStore& slow, const ops::KvFormat& format, int num_index_vectors)
    : fast_(&fast), slow_(&slow), format_(format), num_index_vectors_(num_index_vectors) {}

UnitTable::UnitTable(UnitTable&&) noexcept = default;  // what is left behind holds no block and no record

UnitTable::~UnitTable() { ReleaseAll(); }

void UnitTable::ReleaseAll() {
  for (const std::vector<Block>& frame : frames_)
    for (const Block& block : frame) fast_->Release(format_.block_bytes(), block.id);
  for (const int64_t record : records_) slow_->Release(record);
  for (const Page& page : pages_) slow_->Release(page.record);
}

Result<UnitTable> UnitTable::Clone() const {
  UnitTable copy(*fast_, *slow_, format_, num_index_vectors_);
  for (const int64_t record : records_) slow_->AddRef(record);
  for (const Page& page : pages_) slow_->AddRef(page.record);
  copy.pages_ = pages_;
  copy.first_pending_ = first_pending_;
  copy.num_shared_ = num_shared_;
  copy.units_ = units_;
  copy.sizes_ = sizes_;
  copy.positions_ = positions_;
  copy.records_ = records_;
  copy.unit_of_ = unit_of_;
  copy.first_position_ = first_position_;
  copy.index_ = index_;
  copy.frame_of_.assign(frame_of_.size(), -1);
  copy.last_used_ = last_used_;
  std::vector<RecordRead> reads;  // not needed: the bytes are here
  for (const int32_t unit_idx : residents_) {
    CACHETTE_TRY(copy.MakeResident(unit_idx, reads));
    const std::span<const Block> from = blocks(unit_idx), to = copy.blocks(unit_idx);
    for (size_t b = 0; b < from.size(); ++b) std::memcpy(to[b].data, from[b].data, format_.block_bytes());
  }
  return copy;
}

void UnitTable::AddPage(const Page& page) { pages_.push_back(page); }

std::span<const Page> UnitTable::pending() const {
  return std::span(pages_).subspan(static_cast<size_t>(first_pending_));
}

void UnitTable::SettlePending(int64_t num_pages, bool keeps) {
  if (keeps) {
    for (const Page& page : pending().first(static_cast<size_t>(num_pages))) {
      const int64_t unit_idx = UnitOf(page.first_position);
      if (unit_idx == kNone) continue;
      const std::span<const int64_t> of_unit = records(unit_idx);
      if (std::find(of_unit.begin(), of_unit.end(), page.record) != of_unit.end()) ++num_shared_;
    }
    first_pending_ += num_pages;
    return;
  }
  const auto begin = pages_.begin() + first_pending_;
  for (auto it = begin; it != begin + num_pages; ++it) slow_->Release(it->record);
  pages_.erase(begin, begin + num_pages);
}

const Page* UnitTable::Find(int32_t position) const {
  const auto after = std::upper_bound(pages_.begin(), pages_.end(), position,
                                      [](int32_t p, const Page& page) { return p < page.first_position; });
  if (after == pages_.begin()) return nullptr;
  const Page& page = *std::prev(after);
  return position < page.first_position + kBlockTokens ? &page : nullptr;
}

int64_t UnitTable::AddUnit(std::span<const int32_t> positions, std::span<const int64_t> records) {
  CACHETTE_CHECK(!positions.empty() &&
                 static_cast<int64_t>(records.size()) == BlocksFor(static_cast<int64_t>(positions.size())));
  const int64_t unit_idx = num_units();
  units_.push_back({static_cast<int64_t>(positions_.size()), static_cast<int64_t>(records_.size()),
                    static_cast<int32_t>(positions.size()), static_cast<int32_t>(records.size())});
  sizes_.push_back(static_cast<int32_t>(positions.size()));
  positions_.insert(positions_.end(), positions.begin(), positions.end());
  records_.insert(records_.end(), records.begin(), records.end());
  if (unit_of_.empty()) first_position_ = *std::min_element(positions.begin(), positions.end());
  for (const int32_t position : positions) {
    // Units of one build cover a stretch of positions in any order; the stretch begins where the last one ended.
    if (position < first_position_) {
      unit_of_.insert(unit_of_.begin(), static_cast<size_t>(first_position_ - position), static_cast<int32_t>(kNone));
      first_position_ = position;
    }
    const auto at = static_cast<size_t>(position - first_position_);
    if (at >= unit_of_.size()) unit_of_.resize(at + 1, static_cast<int32_t>(kNone));
    unit_of_[at] = static_cast<int32_t>(unit_idx);
  }
  frame_of_.push_back(-1);
  last_used_.push_back(0);
  if (unit_idx % kIndexUnits == 0)
    index_.resize(index_.size() + static_cast<size_t>(num_index_vectors_ * format_.head_dim * kIndexUnits) * 2);
  return unit_idx;
}

std::span<const int32_t> UnitTable::positions(int64_t unit_idx) const {
  const Unit& u = unit(unit_idx);
  return std::span(positions_).subspan(static_cast<size_t>(u.first_entry), static_cast<size_t>(u.num_entries));
}

std::span<const int64_t> UnitTable::records(int64_t unit_idx) const {
  const Unit& u = unit(unit_idx);
  return std::span(records_).subspan(static_cast<size_t>(u.first_block), static_cast<size_t>(u.num_blocks));
}

int64_t UnitTable::UnitOf(int32_t position) const {
  const int64_t at = position - first_position_;
  return at >= 0 && at < static_cast<int64_t>(unit_of_.size()) ? unit_of_[static_cast<size_t>(at)] : kNone;
}

int64_t UnitTable::num_entries() const {
  return static_cast<int64_t>(positions_.size()) + static_cast<int64_t>(pending().size()) * kBlockTokens;
}

Result<void> UnitTable::MakeResident(int64_t unit_idx, std::vector<RecordRead>& reads) {
  CACHETTE_TRY(std::vector<Block> frame, AllocateBlocks(unit_idx, reads));
  MakeResident(unit_idx, std::move(frame));
  return Ok();
}

Result<std::vector<Block>> UnitTable::AllocateBlocks(int64_t unit_idx, std::vector<RecordRead>& reads) const {
  const std::span<const int64_t> of_unit = records(unit_idx);
  std::vector<Block> frame;
  for (size_t b = 0; b < of_unit.size(); ++b) {
    Result<Block> block = fast_->Allocate(format_.block_bytes());
    if (!block.ok()) {
      for (const Block& taken : frame) fast_->Release(format_.block_bytes(), taken.id);
      return std::move(block).failure();
    }
    frame.push_back(*block);
  }
  for (size_t b = 0; b < of_unit.size(); ++b) reads.push_back({of_unit[b], frame[b].data});
  return frame;
}

void UnitTable::MakeResident(int64_t unit_idx, std::vector<Block> frame) {
  CACHETTE_CHECK(!IsResident(unit_idx));
  frame_of_[static_cast<size_t>(unit_idx)] = static_cast<int32_t>(residents_.size());
  residents_.push_back(static_cast<int32_t>(unit_idx));
  frames_.push_back(std::move(frame));
  resident_entries_ += unit(unit_idx).num_entries;
  resident_blocks_ += unit(unit_idx).num_blocks;
}

void UnitTable::DropResident(int64_t unit_idx) {
  const auto at = static_cast<size_t>(frame_of_[static_cast<size_t>(unit_idx)]);
  for (const Block& block : frames_[at]) fast_->Release(format_.block_bytes(), block.id);
  frame_of_[static_cast<size_t>(unit_idx)] = -1;
  if (at + 1 < residents_.size()) {
    residents_[at] = residents_.back();
    frames_[at] = std::move(frames_.back());
    frame_of_[static_cast<size_t>(residents_[at])] = static_cast<int32_t>(at);
  }
  residents_.pop_back();
  frames_.pop_back();
  resident_entries_ -= unit(unit_idx).num_entries;
  resident_blocks_ -= unit(unit_idx).num_blocks;
}

std::span<const Block> UnitTable::blocks(int64_t unit_idx) const {
  return frames_[static_cast<size_t>(frame_of_[static_cast<size_t>(unit_idx)])];
}

int64_t UnitTable::slow_blocks() const { return static_cast<int64_t>(records_.size() + pages_.size()) - num_shared_; }

int64_t UnitTable::padding_blocks() const {
  return static_cast<int64_t>(records_.size() + pending().size()) - BlocksFor(num_entries());
}

int64_t UnitTable::metadata_bytes() const {
  return static_cast<int64_t>(index_.size() + sizeof(int32_t) * (positions_.size() + unit_of_.size()) +
                              sizeof(int64_t) * (records_.size() + pages_.size() * 2));
}

}  // namespace cachette
