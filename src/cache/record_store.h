#pragma once
// Where KV blocks rest outside the fast tier: records of one size, written once, read in batches.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cache/tier.h"
#include "tensor/context.h"

namespace cachette {

// One record wanted. to [record_bytes] is 64-byte aligned and stays valid until the batch was waited for or discarded.
struct RecordRead {
  int64_t record = 0;
  std::byte* to = nullptr;
};

// A batch of reads under way; a default one is a batch that is done. Plain value: copies name the same batch.
struct ReadTicket {
  int64_t id = 0;
};

// Since the store was made. Seconds are those its caller spent inside Write, and inside StartRead and Wait.
struct RecordTraffic {
  int64_t records_written = 0;
  int64_t bytes_written = 0;
  double write_seconds = 0.0;
  int64_t batches_read = 0;
  int64_t records_read = 0;
  int64_t bytes_read = 0;
  double read_seconds = 0.0;
};

// Reference-counted records of one size. A record is allocated, written once, read any number of times, and its place
// is used again after the last Release. Calls come from one thread at a time, whichever.
// On disk every read is verified against a checksum kept in memory; in RAM in debug builds and on request.
class RecordStore {
 public:
  static constexpr size_t kUnlimited = Tier::kUnlimited;

  // spec: "ram", or "disk:FOLDER", each with options behind commas:
  //   ram,verify           checksums in RAM too
  //   disk:FOLDER,direct   past the system's file cache (O_DIRECT); record_bytes a multiple of 4096
  //   disk:FOLDER,uring    io_uring or nothing;  disk:FOLDER,threads  reader threads. Default: io_uring where it works
  // The file has no name in FOLDER from the start, so nothing is left behind however the process ends.
  // record_bytes: a multiple of 64. limit_bytes: most bytes of allocated records.
  // Errors: kInvalidArgument (spec), kNotFound (no such folder), kUnsupported (direct I/O there), kUnavailable (uring),
  // kOutOfMemory, kIo.
  static Result<std::unique_ptr<RecordStore>> Create(std::string_view spec, size_t record_bytes,
                                                     size_t limit_bytes = kUnlimited);
  // Reads under way end first: nothing is written to anybody's memory afterwards.
  virtual ~RecordStore() = default;
  RecordStore(const RecordStore&) = delete;
  RecordStore& operator=(const RecordStore&) = delete;

  // The first of num_records (> 0) consecutive records with one reference each.
  // Errors: kOutOfMemory (limit, machine memory, disk full), kIo; nothing changes then.
  Result<int64_t> Allocate(int64_t num_records);
  void AddRef(int64_t record);
  void Release(int64_t record);

  // Fills whole records from first_record on, each allocated and never written before. data may be unaligned.
  // Errors: kOutOfMemory (disk full), kIo; the records count as not written then and may be written again.
  Result<void> Write(int64_t first_record, std::span<const std::byte> data);
  // The same where the bytes come from several places: make(i, to) makes record first_record + i at to, 64-byte
  // aligned, once for each i, on cx's threads, and must not throw. In RAM that is the record's own place; on disk
  // scratch of cx holds all of them. Errors: as Write.
  using RecordMaker = std::function<void(int64_t, std::byte*)>;
  Result<void> WriteMade(Context& cx, int64_t first_record, int64_t num_records, const RecordMaker& make);

  // Starts to read written records; every to is filled when Wait returned without error. Several batches may be under
  // way. They hold references: a record released meanwhile keeps its bytes.
  // Every ticket ends in one Wait or Discard. Errors of either: kCorrupt (a checksum differs, the file was cut short),
  // kIo, kOutOfMemory.
  Result<ReadTicket> StartRead(std::span<const RecordRead> reads);
  Result<void> Wait(ReadTicket ticket);
  // Ends a batch nobody wants any more: afterwards its memory is no longer written to.
  void Discard(ReadTicket ticket);
  Result<void> Read(std::span<const RecordRead> reads);

  // The record's bytes where they can be read in place (RAM), valid until its last Release; null on disk.
  virtual const std::byte* InPlace(int64_t record) const = 0;
  virtual TierKind kind() const = 0;                 // kArena or kDisk
  virtual std::string_view reader_name() const = 0;  // "memory", "io_uring", "threads", "io_uring,direct", ...

  size_t record_bytes() const { return record_bytes_; }
  size_t limit_bytes() const { return limit_bytes_; }
  size_t owned_bytes() const { return static_cast<size_t>(owned_records_) * record_bytes_; }
  size_t peak_bytes() const { return static_cast<size_t>(peak_records_) * record_bytes_; }
  uint32_t ref_count(int64_t record) const;  // 0: free
  const RecordTraffic& traffic() const { return traffic_; }

 protected:
  RecordStore(size_t record_bytes, size_t limit_bytes, bool keeps_checksums);

  // Room for records [first_record, first_record + num_records), which nobody owns. Nothing changes on failure.
  virtual Result<void> MakeRoom(int64_t first_record, int64_t num_records) = 0;
  // The record's last reference is gone; end_record() already tells without it.
  virtual void FreeRoom(int64_t record) = 0;
  // The record's place where it can be written to (RAM), else null.
  virtual std::byte* Place(int64_t record) = 0;
  virtual Result<void> WriteRecords(int64_t first_record, std::span<const std::byte> data) = 0;
  virtual Result<ReadTicket> StartReads(std::span<const RecordRead> reads) = 0;
  virtual Result<void> WaitFor(ReadTicket ticket) = 0;
  virtual void DiscardReads(ReadTicket ticket) = 0;

  // Errors: kCorrupt, naming the record and where it came from.
  Result<void> Verify(const RecordRead& read, std::string_view where) const;
  int64_t end_record() const { return static_cast<int64_t>(records_.size()); }  // one past the last owned record

 private:
  struct Record {
    uint64_t checksum = 0;
    uint32_t ref_count = 0;
    bool is_written = false;
  };
  Record& Owned(int64_t record);
  const Record& Owned(int64_t record) const;
  int64_t FindFree(int64_t num_records) const;
  void TakeFree(int64_t first_record, int64_t num_records);
  void GiveBack(int64_t record);
  void MarkWritten(int64_t record, const std::byte* bytes);

  size_t record_bytes_;
  size_t limit_bytes_;
  bool keeps_checksums_;
  std::vector<Record> records_;           // by number; the last one is owned
  std::map<int64_t, int64_t> free_runs_;  // first record -> records, below the end, apart from each other
  int64_t owned_records_ = 0;
  int64_t peak_records_ = 0;
  RecordTraffic traffic_;
};

}  // namespace cachette
