#pragma once
// Scattered reads of one file, several at a time: what the disk store asks of the system, in two ways.

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"

namespace cachette {

struct ReadBatch;

// One run of consecutive bytes of the file, into one place after the other.
struct FileRead {
  static constexpr int kCutShort = -1;  // the file ends before the run does

  int64_t offset_bytes = 0;
  iovec* places = nullptr;  // [num_places]
  int num_places = 0;
  size_t num_bytes = 0;  // of all places
  size_t done_bytes = 0;
  int error = 0;  // 0, errno or kCutShort; valid when it has ended
  ReadBatch* batch = nullptr;
  FileRead* next = nullptr;  // in a FileReadQueue
};

// Reads waited for together. Lists and memory stay where they are until the batch has ended.
struct ReadBatch {
  std::vector<iovec> places;
  std::vector<FileRead> file_reads;
  int64_t num_unfinished = 0;  // the reader's
};

// First in, first out, through FileRead::next: nothing is allocated.
class FileReadQueue {
 public:
  FileRead* front() const { return front_; }
  void Push(FileRead& read);
  FileRead& Pop();
  // Takes out the reads of batch; how many they were.
  int64_t Remove(const ReadBatch& batch);

 private:
  FileRead* front_ = nullptr;
  FileRead* back_ = nullptr;
};

// Calls come from one thread at a time. Every batch started must have been finished before the reader goes.
class BatchReader {
 public:
  virtual ~BatchReader() = default;
  // Begins all file_reads.
  virtual void Start(ReadBatch& batch) = 0;
  // Returns when all of them have ended, well or not.
  virtual void Finish(ReadBatch& batch) = 0;
  // The same, but what has not begun stays undone.
  virtual void Abandon(ReadBatch& batch) = 0;
  virtual const char* name() const = 0;
};

// Both read from fd, which outlives them. tries_cache: what the system's file cache holds is copied at once, without a
// change of thread (useless with O_DIRECT).
// Errors: kUnavailable (no io_uring here: an old kernel, a container that forbids it), kOutOfMemory (no threads).
Result<std::unique_ptr<BatchReader>> MakeUringReader(int fd);
Result<std::unique_ptr<BatchReader>> MakeThreadReader(int fd, bool tries_cache);

// Reads what is missing of read and sets its error.
void ReadRest(int fd, FileRead& read);

}  // namespace cachette
