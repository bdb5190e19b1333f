#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/result.h"

namespace cachette {

// A whole file mapped read-only. Movable; bytes() keeps its address when moved. A file that another program truncates
// while it is mapped ends this program (SIGBUS): replace model files by renaming, not in place.
class MappedFile {
 public:
  // Errors: kNotFound (no such file), kInvalidArgument (a directory or device), kCorrupt (0 bytes), kIo (the rest).
  static Result<MappedFile> Open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return bytes_; }  // page-aligned start, never empty

  // Hints for a range within bytes(). WillNeed starts reading it from disk; Drop takes its pages out of this process's
  // resident memory (they stay in the system's file cache, a later read maps them again). Pages that the range
  // shares with neighbours are included.
  void WillNeed(std::span<const std::byte> range) const;
  void Drop(std::span<const std::byte> range) const;

 private:
  MappedFile(std::string path, std::span<const std::byte> bytes) : path_(std::move(path)), bytes_(bytes) {}
  void Advise(std::span<const std::byte> range, int advice) const;

  std::string path_;
  std::span<const std::byte> bytes_;
};

}  // namespace cachette
