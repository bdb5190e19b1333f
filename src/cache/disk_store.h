#pragma once

#include <memory>
#include <string>

#include "cache/record_store.h"

namespace cachette {

enum class DiskReader : uint8_t { kBest, kUring, kThreads };  // kBest: io_uring where it works, else threads

struct DiskOptions {
  std::string folder;
  bool is_direct = false;  // O_DIRECT
  DiskReader reader = DiskReader::kBest;
};

// Records in a file of its own in folder, which has no name there: it is gone when the store or the process is, however
// that ends, and `df` sees its bytes while `ls` does not. Never mapped, so a file cut short by somebody is an error and
// not a signal. The file grows in steps, its blocks reserved, so that a full disk is found by Allocate; it shrinks when
// the records at its end are free. Freed places before that are used again, not returned to the file system.
// Writes go to the file when Write returns (with the file cache: to that), reads run beside the caller.
// Errors: as RecordStore::Create.
Result<std::unique_ptr<RecordStore>> MakeDiskStore(const DiskOptions& options, size_t record_bytes, size_t limit_bytes);

}  // namespace cachette
