#include <pthread.h>
#include <signal.h>

#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#include "cache/batch_reader.h"

namespace cachette {
namespace {

// Threads that sleep in pread: as many reads are with the device at once as there are threads and the waiting caller.
constexpr int kNumThreads = 6;

class ThreadReader final : public BatchReader {
 public:
  ThreadReader(int fd, bool tries_cache) : fd_(fd), tries_cache_(tries_cache) { threads_.reserve(kNumThreads); }

  ~ThreadReader() override {
    {
      const std::lock_guard lock(mutex_);
      is_ending_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  // Throws std::system_error when the system has no more threads. Signals are for the program's own threads.
  void StartThreads() {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      for (int i = 0; i < kNumThreads; ++i) threads_.emplace_back([this] { Work(); });
    } catch (...) {
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void Start(ReadBatch& batch) override {
    FileReadQueue missing;
    int64_t num_missing = 0;
    for (FileRead& read : batch.file_reads) {
      if (tries_cache_ && IsCached(read)) continue;
      missing.Push(read);
      ++num_missing;
    }
    batch.num_unfinished = num_missing;  // no thread knows the batch yet
    if (num_missing == 0) return;
    {
      const std::lock_guard lock(mutex_);
      while (missing.front() != nullptr) queue_.Push(missing.Pop());
    }
    num_missing > 1 ? work_.notify_all() : work_.notify_one();
  }

  // The caller has nothing else to do: it reads too.
  void Finish(ReadBatch& batch) override {
    std::unique_lock lock(mutex_);
    while (batch.num_unfinished > 0) {
      if (queue_.front() != nullptr && queue_.front()->batch == &batch)
        ReadFront(lock);
      else
        done_.wait(lock);
    }
  }

  void Abandon(ReadBatch& batch) override {
    std::unique_lock lock(mutex_);
    batch.num_unfinished -= queue_.Remove(batch);
    done_.wait(lock, [&] { return batch.num_unfinished == 0; });
  }

  const char* name() const override { return "threads"; }

 private:
  // Copies what needs no waiting; true when that was all.
  bool IsCached(FileRead& read) const {
    const ssize_t num_read = preadv2(fd_, read.places, read.num_places, read.offset_bytes, RWF_NOWAIT);
    if (num_read > 0) read.done_bytes = static_cast<size_t>(num_read);
    return read.done_bytes == read.num_bytes;
  }

  void ReadFront(std::unique_lock<std::mutex>& lock) {
    FileRead& read = queue_.Pop();
    lock.unlock();
    ReadRest(fd_, read);
    lock.lock();
    if (--read.batch->num_unfinished == 0) done_.notify_all();
  }

  void Work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      work_.wait(lock, [&] { return is_ending_ || queue_.front() != nullptr; });
      if (is_ending_) return;
      ReadFront(lock);
    }
  }

  int fd_;
  bool tries_cache_;
  std::mutex mutex_;  // guards what follows, and num_unfinished of batches under way
  std::condition_variable work_, done_;
  FileReadQueue queue_;
  bool is_ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

Result<std::unique_ptr<BatchReader>> MakeThreadReader(int fd, bool tries_cache) {
  auto reader = std::make_unique<ThreadReader>(fd, tries_cache);
  try {
    reader->StartThreads();
  } catch (const std::system_error& e) {
    return Fail(Error::kOutOfMemory, std::string("the system starts no threads to read the slow tier's file: ") +
                                         e.what() + "; raise the limit of threads (ulimit -u)");
  }
  return std::unique_ptr<BatchReader>(std::move(reader));
}

}  // namespace cachette
