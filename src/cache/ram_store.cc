#include "cache/ram_store.h"

#include <cstring>
#include <new>

namespace cachette {
namespace {

#ifdef NDEBUG
constexpr bool kVerifiesAlways = false;
#else
constexpr bool kVerifiesAlways = true;
#endif

// A block of a pool per record: numbers are consecutive, addresses need not be.
class RamStore final : public RecordStore {
 public:
  RamStore(size_t record_bytes, size_t limit_bytes, bool verifies)
      : RecordStore(record_bytes, limit_bytes, /*keeps_checksums=*/verifies), pool_(record_bytes) {}

  const std::byte* InPlace(int64_t record) const override {
    CACHETTE_CHECK(ref_count(record) > 0);
    return At(record);
  }
  TierKind kind() const override { return TierKind::kArena; }
  std::string_view reader_name() const override { return "memory"; }

 protected:
  Result<void> MakeRoom(int64_t first_record, int64_t num_records) override {
    const auto end = static_cast<size_t>(first_record + num_records);
    if (end > blocks_.size()) blocks_.resize(end);
    for (int64_t i = 0; i < num_records; ++i) {
      auto block = AllocateBlock();
      if (!block.ok()) {
        while (i-- > 0) FreeRoom(first_record + i);
        return std::move(block).failure();
      }
      blocks_[static_cast<size_t>(first_record + i)] = *block;
    }
    return Ok();
  }

  void FreeRoom(int64_t record) override { pool_.Release(blocks_[static_cast<size_t>(record)].id); }

  std::byte* Place(int64_t record) override { return At(record); }

  Result<void> WriteRecords(int64_t first_record, std::span<const std::byte> data) override {
    for (; !data.empty(); data = data.subspan(record_bytes()), ++first_record)
      std::memcpy(At(first_record), data.data(), record_bytes());
    return Ok();
  }

  Result<ReadTicket> StartReads(std::span<const RecordRead> reads) override {
    for (const RecordRead& read : reads) {
      std::memcpy(read.to, At(read.record), record_bytes());
      CACHETTE_TRY(Verify(read, "slow tier in RAM"));
    }
    return ReadTicket{};
  }
  Result<void> WaitFor(ReadTicket) override { return Ok(); }
  void DiscardReads(ReadTicket) override {}

 private:
  std::byte* At(int64_t record) const { return blocks_[static_cast<size_t>(record)].data; }

  // The pool's own lists may find no memory either.
  Result<Block> AllocateBlock() {
    try {
      return pool_.Allocate();
    } catch (const std::bad_alloc&) {
      return Fail(Error::kOutOfMemory,
                  "the machine has no memory left for the slow tier's list of blocks; lower the "
                  "context length or put the slow tier on a disk");
    }
  }

  BlockPool pool_;
  std::vector<Block> blocks_;  // by record
};

}  // namespace

std::unique_ptr<RecordStore> MakeRamStore(size_t record_bytes, size_t limit_bytes, bool verifies) {
  return std::make_unique<RamStore>(record_bytes, limit_bytes, verifies || kVerifiesAlways);
}

}  // namespace cachette
