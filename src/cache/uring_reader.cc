#include <fmt/format.h>
#include <liburing.h>

#include <cerrno>
#include <cstring>

#include "cache/batch_reader.h"

namespace cachette {
namespace {

constexpr unsigned kMostInFlight = 256;  // several layers' batches; the completion queue has twice that

class UringReader final : public BatchReader {
 public:
  explicit UringReader(int fd) : fd_(fd) {}
  ~UringReader() override {
    if (has_ring_) io_uring_queue_exit(&ring_);
  }

  // 0 or an errno. A container may let the ring be made and forbid its use: one empty request goes through.
  int Open() {
    const int code = io_uring_queue_init(kMostInFlight, &ring_, 0);
    if (code < 0) return -code;
    has_ring_ = true;
    io_uring_prep_nop(io_uring_get_sqe(&ring_));
    const int num_submitted = io_uring_submit_and_wait(&ring_, 1);
    if (num_submitted < 0) return -num_submitted;
    io_uring_cqe* cqe = nullptr;
    if (io_uring_peek_cqe(&ring_, &cqe) != 0) return EIO;
    io_uring_cqe_seen(&ring_, cqe);
    return 0;
  }

  void Start(ReadBatch& batch) override {
    for (FileRead& read : batch.file_reads) queue_.Push(read);
    batch.num_unfinished = static_cast<int64_t>(batch.file_reads.size());
    Submit(/*num_awaited=*/0);
  }

  void Finish(ReadBatch& batch) override {
    Collect();
    while (batch.num_unfinished > 0) {
      Submit(/*num_awaited=*/1);
      Collect();
    }
  }

  void Abandon(ReadBatch& batch) override {
    batch.num_unfinished -= queue_.Remove(batch);
    Finish(batch);
  }

  const char* name() const override { return "io_uring"; }

 private:
  // Hands over as many reads as have a place and returns when num_awaited of all have ended.
  void Submit(unsigned num_awaited) {
    while (queue_.front() != nullptr && num_in_flight_ < kMostInFlight) {
      io_uring_sqe* const sqe = io_uring_get_sqe(&ring_);
      if (sqe == nullptr) break;
      FileRead& read = queue_.Pop();
      io_uring_prep_readv(sqe, fd_, read.places, static_cast<unsigned>(read.num_places),
                          static_cast<uint64_t>(read.offset_bytes));
      io_uring_sqe_set_data(sqe, &read);
      ++num_in_flight_;
    }
    // The kernel may be short of memory for the moment or be interrupted; what was not taken is offered again. Anything
    // else means that the ring is not what we think.
    const int code = io_uring_submit_and_wait(&ring_, num_awaited);
    CACHETTE_CHECK(code >= 0 || code == -EINTR || code == -EAGAIN || code == -EBUSY);
  }

  void Collect() {
    io_uring_cqe* cqe = nullptr;
    while (io_uring_peek_cqe(&ring_, &cqe) == 0) {
      FileRead& read = *static_cast<FileRead*>(io_uring_cqe_get_data(cqe));
      const int code = cqe->res;
      io_uring_cqe_seen(&ring_, cqe);
      --num_in_flight_;
      --read.batch->num_unfinished;
      if (code >= 0) read.done_bytes = static_cast<size_t>(code);
      // A short read, or one that ended with the thread that had asked for it.
      const bool is_unfinished =
          code >= 0 ? read.done_bytes < read.num_bytes : code == -EINTR || code == -EAGAIN || code == -ECANCELED;
      if (is_unfinished)
        ReadRest(fd_, read);
      else
        read.error = code < 0 ? -code : 0;
    }
  }

  int fd_;
  io_uring ring_{};
  bool has_ring_ = false;
  FileReadQueue queue_;  // no place in the ring yet
  unsigned num_in_flight_ = 0;
};

}  // namespace

Result<std::unique_ptr<BatchReader>> MakeUringReader(int fd) {
  auto reader = std::make_unique<UringReader>(fd);
  if (const int code = reader->Open(); code != 0)
    return Fail(Error::kUnavailable, fmt::format("io_uring cannot be used here: {}; leave out ,uring to read with "
                                                 "threads",
                                                 std::strerror(code)));
  return std::unique_ptr<BatchReader>(std::move(reader));
}

}  // namespace cachette
