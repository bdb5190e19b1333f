#include "cache/disk_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "cache/batch_reader.h"
#include "cache/disk_file.h"

namespace cachette {
namespace {

constexpr size_t kGrowBytes = 32u << 20;  // of the file at once; it shrinks when twice as much is free at its end
// One read of the file: neighbours go together, but not so many that other readers have nothing to do.
constexpr size_t kMostReadBytes = 256u << 10;
constexpr size_t kMostPlaces = 64;
constexpr size_t kDirectWriteBytes = 1u << 20;  // through aligned memory at once

constexpr size_t RoundUp(size_t value, size_t step) { return (value + step - 1) / step * step; }

// Memory for O_DIRECT: page-aligned, grows, keeps nothing.
class AlignedBytes {
 public:
  // Throws std::bad_alloc.
  std::byte* Reserve(size_t num_bytes) {
    if (num_bytes > capacity_) {
      bytes_.reset();
      capacity_ = 0;
      const size_t rounded = RoundUp(num_bytes, DiskFile::kDirectAlignment);
      bytes_.reset(static_cast<std::byte*>(std::aligned_alloc(DiskFile::kDirectAlignment, rounded)));
      if (bytes_ == nullptr) throw std::bad_alloc();
      capacity_ = rounded;
    }
    return bytes_.get();
  }

 private:
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<std::byte, Free> bytes_;
  size_t capacity_ = 0;
};

bool IsAligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % DiskFile::kDirectAlignment == 0; }

struct StoreBatch : ReadBatch {
  int64_t id = 0;                 // 0: at rest
  std::vector<RecordRead> reads;  // in order of records; places[i] receives reads[i]
  AlignedBytes bounce;            // where a destination is not aligned for direct I/O
};

class DiskStore final : public RecordStore {
 public:
  DiskStore(DiskFile file, std::unique_ptr<BatchReader> reader, size_t record_bytes, size_t limit_bytes)
      : RecordStore(record_bytes, limit_bytes, /*keeps_checksums=*/true),
        file_(std::move(file)),
        reader_(std::move(reader)),
        reader_name_(fmt::format("{}{}", reader_->name(), file_.is_direct() ? ",direct" : "")) {}

  ~DiskStore() override {
    for (const auto& batch : batches_)
      if (batch->id != 0) reader_->Abandon(*batch);
  }

  const std::byte* InPlace(int64_t record) const override {
    CACHETTE_CHECK(ref_count(record) > 0);
    return nullptr;
  }
  TierKind kind() const override { return TierKind::kDisk; }
  std::string_view reader_name() const override { return reader_name_; }

 protected:
  Result<void> MakeRoom(int64_t first_record, int64_t num_records) override {
    const size_t needed = OffsetOf(first_record + num_records);
    // Steps end at the limit: somebody gave that much and no more.
    const size_t most = limit_bytes() - limit_bytes() % record_bytes();
    return file_.Grow(needed, std::max(needed, std::min(RoundUp(needed, kGrowBytes), most)));
  }

  void FreeRoom(int64_t) override {
    const size_t used = OffsetOf(end_record());
    if (file_.size_bytes() >= used + 2 * kGrowBytes) file_.Shrink(RoundUp(used, kGrowBytes));
  }

  std::byte* Place(int64_t) override { return nullptr; }

  Result<void> WriteRecords(int64_t first_record, std::span<const std::byte> data) override {
    const size_t offset = OffsetOf(first_record);
    if (!file_.is_direct() || IsAligned(data.data())) return file_.Write(offset, data);
    const size_t most = std::max(record_bytes(), kDirectWriteBytes / record_bytes() * record_bytes());
    try {
      std::byte* const aligned = write_bounce_.Reserve(std::min(most, data.size()));
      for (size_t done = 0; done < data.size(); done += most) {
        const size_t num_bytes = std::min(most, data.size() - done);
        std::memcpy(aligned, data.data() + done, num_bytes);
        CACHETTE_TRY(file_.Write(offset + done, {aligned, num_bytes}));
      }
    } catch (const std::bad_alloc&) {
      return Fail(Error::kOutOfMemory, fmt::format("{}: the machine has no memory left for direct I/O; leave out "
                                                   ",direct or shorten the input",
                                                   file_.where()));
    }
    return Ok();
  }

  Result<ReadTicket> StartReads(std::span<const RecordRead> reads) override {
    StoreBatch& batch = RestingBatch();
    batch.reads.assign(reads.begin(), reads.end());
    std::sort(batch.reads.begin(), batch.reads.end(),
              [](const RecordRead& a, const RecordRead& b) { return a.record < b.record; });
    ChoosePlaces(batch);
    ChooseFileReads(batch);
    // Nothing fails from here on.
    for (const RecordRead& read : batch.reads) AddRef(read.record);
    batch.id = next_id_++;
    reader_->Start(batch);
    return ReadTicket{batch.id};
  }

  Result<void> WaitFor(ReadTicket ticket) override {
    StoreBatch& batch = BatchOf(ticket);
    reader_->Finish(batch);
    Result<void> outcome = CheckReads(batch);
    for (size_t i = 0; i < batch.reads.size() && outcome.ok(); ++i) {
      if (batch.places[i].iov_base != batch.reads[i].to)
        std::memcpy(batch.reads[i].to, batch.places[i].iov_base, record_bytes());
      outcome = Verify(batch.reads[i], file_.where());
    }
    Rest(batch);
    return outcome;
  }

  void DiscardReads(ReadTicket ticket) override {
    StoreBatch& batch = BatchOf(ticket);
    reader_->Abandon(batch);
    Rest(batch);
  }

 private:
  size_t OffsetOf(int64_t record) const { return static_cast<size_t>(record) * record_bytes(); }

  StoreBatch& RestingBatch() {
    for (const auto& batch : batches_)
      if (batch->id == 0) return *batch;
    return *batches_.emplace_back(std::make_unique<StoreBatch>());
  }

  StoreBatch& BatchOf(ReadTicket ticket) {
    const auto it = std::find_if(batches_.begin(), batches_.end(), [&](const auto& b) { return b->id == ticket.id; });
    CACHETTE_CHECK(it != batches_.end());
    return **it;
  }

  void Rest(StoreBatch& batch) {
    batch.id = 0;
    for (const RecordRead& read : batch.reads) Release(read.record);
  }

  void ChoosePlaces(StoreBatch& batch) const {
    const auto needs_bounce = [&](const RecordRead& read) { return file_.is_direct() && !IsAligned(read.to); };
    const auto num_bounces = static_cast<size_t>(std::count_if(batch.reads.begin(), batch.reads.end(), needs_bounce));
    std::byte* bounce = num_bounces > 0 ? batch.bounce.Reserve(num_bounces * record_bytes()) : nullptr;
    batch.places.clear();
    for (const RecordRead& read : batch.reads) {
      const bool bounces = needs_bounce(read);
      batch.places.push_back({bounces ? bounce : read.to, record_bytes()});
      if (bounces) bounce += record_bytes();
    }
  }

  // Consecutive records become one read.
  void ChooseFileReads(StoreBatch& batch) const {
    const size_t most_places = std::clamp<size_t>(kMostReadBytes / record_bytes(), 1, kMostPlaces);
    batch.file_reads.clear();
    for (size_t i = 0; i < batch.reads.size(); ++i) {
      const bool continues = i > 0 && batch.reads[i].record == batch.reads[i - 1].record + 1 &&
                             static_cast<size_t>(batch.file_reads.back().num_places) < most_places;
      if (!continues)
        batch.file_reads.push_back({.offset_bytes = static_cast<int64_t>(OffsetOf(batch.reads[i].record)),
                                    .places = &batch.places[i],
                                    .batch = &batch});
      ++batch.file_reads.back().num_places;
      batch.file_reads.back().num_bytes += record_bytes();
    }
  }

  Result<void> CheckReads(const StoreBatch& batch) const {
    for (const FileRead& read : batch.file_reads) {
      if (read.error == 0) continue;
      const int64_t record =
          (read.offset_bytes + static_cast<int64_t>(read.done_bytes)) / static_cast<int64_t>(record_bytes());
      if (read.error == FileRead::kCutShort)
        return Fail(Error::kCorrupt,
                    fmt::format("{}: it ends inside or before record {} (byte {}): somebody cut it short; run again",
                                file_.where(), record, read.offset_bytes + static_cast<int64_t>(read.done_bytes)));
      return Fail(Error::kIo,
                  fmt::format("{}: reading record {} at byte {} failed: {}; check the disk, or name another",
                              file_.where(), record, read.offset_bytes, std::strerror(read.error)));
    }
    return Ok();
  }

  DiskFile file_;
  std::unique_ptr<BatchReader> reader_;  // reads from file_
  std::string reader_name_;
  std::vector<std::unique_ptr<StoreBatch>> batches_;  // under way and at rest
  int64_t next_id_ = 1;
  AlignedBytes write_bounce_;
};

Result<std::unique_ptr<BatchReader>> MakeReader(const DiskFile& file, DiskReader wanted) {
  if (wanted != DiskReader::kThreads) {
    auto uring = MakeUringReader(file.fd());
    if (uring.ok() || wanted == DiskReader::kUring) return uring;
  }
  return MakeThreadReader(file.fd(), /*tries_cache=*/!file.is_direct());
}

}  // namespace

Result<std::unique_ptr<RecordStore>> MakeDiskStore(const DiskOptions& options, size_t record_bytes,
                                                   size_t limit_bytes) {
  if (options.is_direct && record_bytes % DiskFile::kDirectAlignment != 0)
    return Fail(Error::kInvalidArgument,
                fmt::format("slow tier: direct I/O reads multiples of {} bytes and a record here has {}; leave out "
                            ",direct",
                            DiskFile::kDirectAlignment, record_bytes));
  CACHETTE_TRY(DiskFile file, DiskFile::Create(options.folder, options.is_direct));
  CACHETTE_TRY(std::unique_ptr<BatchReader> reader, MakeReader(file, options.reader));
  return std::unique_ptr<RecordStore>(
      std::make_unique<DiskStore>(std::move(file), std::move(reader), record_bytes, limit_bytes));
}

}  // namespace cachette
