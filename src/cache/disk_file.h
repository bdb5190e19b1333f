#pragma once
// A file without a name that grows, shrinks and is written to; every refusal of the system as one sentence.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"

namespace cachette {

// Move-only owner of the descriptor. Direct files (O_DIRECT) want addresses, offsets and lengths in multiples of
// kDirectAlignment.
class DiskFile {
 public:
  static constexpr size_t kDirectAlignment = 4096;

  // Errors: kNotFound (no such folder), kInvalidArgument (not a folder), kUnsupported (no direct I/O there), kIo.
  static Result<DiskFile> Create(const std::string& folder, bool is_direct);
  DiskFile(DiskFile&& other) noexcept;
  DiskFile& operator=(DiskFile&& other) = delete;
  ~DiskFile();

  // Grows to at least needed_bytes, or to wanted_bytes (>= needed_bytes) when that can be had.
  // Errors: kOutOfMemory (disk full, quota, size limit of files), kIo; the size is as before then.
  Result<void> Grow(size_t needed_bytes, size_t wanted_bytes);
  void Shrink(size_t num_bytes);  // best effort
  // Errors: kOutOfMemory (disk full), kIo.
  Result<void> Write(size_t offset_bytes, std::span<const std::byte> bytes);

  int fd() const { return fd_; }
  size_t size_bytes() const { return size_bytes_; }
  bool is_direct() const { return is_direct_; }
  std::string where() const;  // "slow tier's file in FOLDER"

 private:
  DiskFile(int fd, std::string folder, bool is_direct);
  int Extend(size_t num_bytes);  // 0 or errno
  Failure WriteFailure(int code, const std::string& what) const;

  int fd_;
  std::string folder_;
  bool is_direct_;
  size_t size_bytes_ = 0;
};

}  // namespace cachette
