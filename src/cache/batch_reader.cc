#include "cache/batch_reader.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace cachette {

void FileReadQueue::Push(FileRead& read) {
  read.next = nullptr;
  (front_ == nullptr ? front_ : back_->next) = &read;
  back_ = &read;
}

FileRead& FileReadQueue::Pop() {
  FileRead& read = *front_;
  front_ = read.next;
  return read;
}

int64_t FileReadQueue::Remove(const ReadBatch& batch) {
  int64_t num_removed = 0;
  FileReadQueue kept;
  while (front_ != nullptr) {
    FileRead& read = Pop();
    if (read.batch == &batch)
      ++num_removed;
    else
      kept.Push(read);
  }
  *this = kept;
  return num_removed;
}

void ReadRest(int fd, FileRead& read) {
  read.error = 0;
  size_t begin = 0;  // of the place in the run
  for (int i = 0; i < read.num_places; ++i) {
    const iovec& place = read.places[i];
    const size_t end = begin + place.iov_len;
    while (read.done_bytes < end) {
      const ssize_t num_read = pread(fd, static_cast<char*>(place.iov_base) + (read.done_bytes - begin),
                                     end - read.done_bytes, read.offset_bytes + static_cast<off_t>(read.done_bytes));
      if (num_read < 0 && errno == EINTR) continue;
      if (num_read <= 0) {
        // Direct I/O stops in the middle of a sector at the end of the file only, and cannot go on from there.
        const bool is_past_end = num_read == 0 || (errno == EINVAL && read.done_bytes > 0);
        read.error = is_past_end ? FileRead::kCutShort : errno;
        return;
      }
      read.done_bytes += static_cast<size_t>(num_read);
    }
    begin = end;
  }
}

}  // namespace cachette
