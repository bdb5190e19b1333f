#include "cache/record_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <new>

#include "base/clock.h"
#include "cache/disk_store.h"
#include "cache/ram_store.h"

#ifdef CACHETTE_X86
#include <xxh_x86dispatch.h>  // 4 KiB in 0.15 us instead of 0.54 with SSE2 alone (AVX-512)
#else
#include <xxhash.h>
#endif

namespace cachette {
namespace {

// 64 bits of XXH3: against bit rot and mixed-up records, not against an adversary.
uint64_t Checksum(const std::byte* bytes, size_t num_bytes) { return XXH3_64bits(bytes, num_bytes); }

// Adds the time until it goes to seconds.
class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds) {}
  ~Stopwatch() { seconds_ += SecondsSince(begin_); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& seconds_;
  Clock::time_point begin_ = Clock::now();
};

Failure NoMemory(std::string_view purpose) {
  return Fail(Error::kOutOfMemory,
              fmt::format("the machine has no memory left for {}; lower the budget or the context length", purpose));
}

Failure BadSpec(std::string_view spec, std::string_view problem) {
  return Fail(Error::kInvalidArgument,
              fmt::format("slow tier '{}': {}; say ram or disk:FOLDER, then perhaps ,verify (ram) or ,direct, ,uring, "
                          ",threads (disk)",
                          spec, problem));
}

struct Spec {
  std::string_view place;  // "ram" or "disk"
  std::string folder;
  bool has_verify = false, has_direct = false, has_uring = false, has_threads = false;
};

Result<Spec> ParseSpec(std::string_view text) {
  constexpr std::string_view kDisk = "disk:";
  Spec spec;
  const size_t comma = std::min(text.find(','), text.size());
  const std::string_view head = text.substr(0, comma);
  if (head == "ram") {
    spec.place = "ram";
  } else if (head.starts_with(kDisk)) {
    spec.place = "disk";
    spec.folder = head.substr(kDisk.size());
    if (spec.folder.empty()) return BadSpec(text, "no folder is named");
  } else {
    return BadSpec(text, "there is no such tier");
  }
  for (size_t at = comma; at < text.size();) {
    const size_t end = std::min(text.find(',', at + 1), text.size());
    const std::string_view option = text.substr(at + 1, end - at - 1);
    const bool is_disk = spec.place == "disk";
    bool* const has = option == "verify" && !is_disk   ? &spec.has_verify
                      : option == "direct" && is_disk  ? &spec.has_direct
                      : option == "uring" && is_disk   ? &spec.has_uring
                      : option == "threads" && is_disk ? &spec.has_threads
                                                       : nullptr;
    if (has == nullptr)
      return BadSpec(text,
                     fmt::format("'{}' is no option of {} (a folder's name cannot hold a comma)", option, spec.place));
    *has = true;
    at = end;
  }
  if (spec.has_uring && spec.has_threads) return BadSpec(text, "uring and threads exclude each other");
  return spec;
}

}  // namespace

Result<std::unique_ptr<RecordStore>> RecordStore::Create(std::string_view spec_text, size_t record_bytes,
                                                         size_t limit_bytes) {
  CACHETTE_CHECK(record_bytes > 0 && record_bytes % 64 == 0);
  CACHETTE_TRY(const Spec spec, ParseSpec(spec_text));
  try {
    if (spec.place == "ram") return MakeRamStore(record_bytes, limit_bytes, spec.has_verify);
    const DiskReader reader = spec.has_uring     ? DiskReader::kUring
                              : spec.has_threads ? DiskReader::kThreads
                                                 : DiskReader::kBest;
    return MakeDiskStore({.folder = spec.folder, .is_direct = spec.has_direct, .reader = reader}, record_bytes,
                         limit_bytes);
  } catch (const std::bad_alloc&) {
    return NoMemory("a slow tier");
  }
}

RecordStore::RecordStore(size_t record_bytes, size_t limit_bytes, bool keeps_checksums)
    : record_bytes_(record_bytes), limit_bytes_(limit_bytes), keeps_checksums_(keeps_checksums) {}

Result<int64_t> RecordStore::Allocate(int64_t num_records) {
  CACHETTE_CHECK(num_records > 0);
  if (static_cast<size_t>(num_records) > limit_bytes_ / record_bytes_ - static_cast<size_t>(owned_records_))
    return Fail(Error::kOutOfMemory,
                fmt::format("slow tier ({}): {:.1f} MiB of KV held and {:.1f} MiB more needed pass the limit of {:.1f} "
                            "MiB; raise --slow-kv-bytes or shorten the input",
                            TierName(kind()), static_cast<double>(owned_bytes()) / 0x1p20,
                            static_cast<double>(num_records) * static_cast<double>(record_bytes_) / 0x1p20,
                            static_cast<double>(limit_bytes_) / 0x1p20));
  try {
    const int64_t first_record = FindFree(num_records);
    const auto end = static_cast<size_t>(first_record + num_records);
    if (end > records_.capacity()) records_.reserve(std::max(end, 2 * records_.capacity()));
    CACHETTE_TRY(MakeRoom(first_record, num_records));
    TakeFree(first_record, num_records);  // cannot fail any more
    return first_record;
  } catch (const std::bad_alloc&) {
    return NoMemory("the list of records of the slow tier");
  }
}

int64_t RecordStore::FindFree(int64_t num_records) const {
  for (const auto& [first_record, num_free] : free_runs_)
    if (num_free >= num_records) return first_record;
  return end_record();
}

// From the front of a free run, or from the end: no list node has to be made.
void RecordStore::TakeFree(int64_t first_record, int64_t num_records) {
  if (first_record == end_record()) {
    records_.resize(static_cast<size_t>(first_record + num_records));
  } else {
    auto run = free_runs_.extract(first_record);
    run.key() += num_records;
    run.mapped() -= num_records;
    if (run.mapped() > 0) free_runs_.insert(std::move(run));
  }
  for (int64_t i = 0; i < num_records; ++i) records_[static_cast<size_t>(first_record + i)] = Record{.ref_count = 1};
  owned_records_ += num_records;
  peak_records_ = std::max(peak_records_, owned_records_);
}

const RecordStore::Record& RecordStore::Owned(int64_t record) const {
  CACHETTE_CHECK(ref_count(record) > 0);
  return records_[static_cast<size_t>(record)];
}

RecordStore::Record& RecordStore::Owned(int64_t record) {
  return const_cast<Record&>(static_cast<const RecordStore*>(this)->Owned(record));
}

uint32_t RecordStore::ref_count(int64_t record) const {
  return record >= 0 && record < end_record() ? records_[static_cast<size_t>(record)].ref_count : 0;
}

void RecordStore::AddRef(int64_t record) { ++Owned(record).ref_count; }

void RecordStore::Release(int64_t record) {
  if (--Owned(record).ref_count > 0) return;
  --owned_records_;
  GiveBack(record);
  FreeRoom(record);
}

void RecordStore::GiveBack(int64_t record) {
  if (record + 1 == end_record()) {
    while (!records_.empty() && records_.back().ref_count == 0) records_.pop_back();
    while (!free_runs_.empty() && std::prev(free_runs_.end())->first >= end_record())
      free_runs_.erase(std::prev(free_runs_.end()));
    return;
  }
  const auto after = free_runs_.upper_bound(record);
  const auto before = after == free_runs_.begin() ? free_runs_.end() : std::prev(after);
  const bool touches_before = before != free_runs_.end() && before->first + before->second == record;
  const bool touches_after = after != free_runs_.end() && after->first == record + 1;
  if (touches_before) {
    before->second += 1;
    if (touches_after) {
      before->second += after->second;
      free_runs_.erase(after);
    }
  } else if (touches_after) {
    auto run = free_runs_.extract(after);
    run.key() = record;
    run.mapped() += 1;
    free_runs_.insert(std::move(run));
  } else {
    try {
      free_runs_.emplace(record, 1);
    } catch (const std::bad_alloc&) {
      // Not even a list node is left: the number stays unused until the records behind it go.
    }
  }
}

Result<void> RecordStore::Write(int64_t first_record, std::span<const std::byte> data) {
  CACHETTE_CHECK(data.size() % record_bytes_ == 0);
  const auto num_records = static_cast<int64_t>(data.size() / record_bytes_);
  for (int64_t i = 0; i < num_records; ++i) CACHETTE_CHECK(!Owned(first_record + i).is_written);
  if (num_records == 0) return Ok();
  const Stopwatch stopwatch(traffic_.write_seconds);
  CACHETTE_TRY(WriteRecords(first_record, data));
  for (int64_t i = 0; i < num_records; ++i)
    MarkWritten(first_record + i, data.data() + static_cast<size_t>(i) * record_bytes_);
  return Ok();
}

Result<void> RecordStore::WriteMade(Context& cx, int64_t first_record, int64_t num_records, const RecordMaker& make) {
  constexpr int64_t kRecordsPerTask = 16;
  CACHETTE_CHECK(num_records > 0);
  for (int64_t i = 0; i < num_records; ++i) CACHETTE_CHECK(!Owned(first_record + i).is_written);
  const auto make_all = [&](const auto& place_of) {
    cx.ParallelFor((num_records + kRecordsPerTask - 1) / kRecordsPerTask, [&](int64_t task) {
      const int64_t end = std::min(num_records, (task + 1) * kRecordsPerTask);
      for (int64_t i = task * kRecordsPerTask; i < end; ++i) make(i, place_of(i));
    });
  };
  if (Place(first_record) == nullptr) {
    const ScratchScope scope(cx.scratch());
    const size_t num_bytes = static_cast<size_t>(num_records) * record_bytes_;
    std::byte* const packed = cx.scratch().Allocate(num_bytes);
    make_all([&](int64_t i) { return packed + static_cast<size_t>(i) * record_bytes_; });
    return Write(first_record, {packed, num_bytes});
  }
  const Stopwatch stopwatch(traffic_.write_seconds);
  make_all([&](int64_t i) { return Place(first_record + i); });
  for (int64_t i = 0; i < num_records; ++i) MarkWritten(first_record + i, Place(first_record + i));
  return Ok();
}

void RecordStore::MarkWritten(int64_t record, const std::byte* bytes) {
  Record& written = Owned(record);
  written.is_written = true;
  if (keeps_checksums_) written.checksum = Checksum(bytes, record_bytes_);
  traffic_.records_written += 1;
  traffic_.bytes_written += static_cast<int64_t>(record_bytes_);
}

Result<ReadTicket> RecordStore::StartRead(std::span<const RecordRead> reads) {
  for (const RecordRead& read : reads) {
    CACHETTE_CHECK(Owned(read.record).is_written);
    CACHETTE_CHECK(read.to != nullptr && reinterpret_cast<uintptr_t>(read.to) % 64 == 0);
  }
  if (reads.empty()) return ReadTicket{};
  const Stopwatch stopwatch(traffic_.read_seconds);
  try {
    CACHETTE_TRY(const ReadTicket ticket, StartReads(reads));
    ++traffic_.batches_read;
    traffic_.records_read += static_cast<int64_t>(reads.size());
    traffic_.bytes_read += static_cast<int64_t>(reads.size() * record_bytes_);
    return ticket;
  } catch (const std::bad_alloc&) {
    return NoMemory("a list of reads from the slow tier");
  }
}

Result<void> RecordStore::Wait(ReadTicket ticket) {
  if (ticket.id == 0) return Ok();
  const Stopwatch stopwatch(traffic_.read_seconds);
  return WaitFor(ticket);
}

void RecordStore::Discard(ReadTicket ticket) {
  if (ticket.id != 0) DiscardReads(ticket);
}

Result<void> RecordStore::Read(std::span<const RecordRead> reads) {
  CACHETTE_TRY(const ReadTicket ticket, StartRead(reads));
  return Wait(ticket);
}

Result<void> RecordStore::Verify(const RecordRead& read, std::string_view where) const {
  if (!keeps_checksums_) return Ok();
  const uint64_t expected = Owned(read.record).checksum, found = Checksum(read.to, record_bytes_);
  if (found == expected) return Ok();
  return Fail(Error::kCorrupt,
              fmt::format("{}: record {} ({} bytes) is not what was written (checksum {:016x} instead of {:016x}): the "
                          "medium failed or somebody changed it; check it before another run",
                          where, read.record, record_bytes_, found, expected));
}

}  // namespace cachette
