#include "cache/disk_store.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "cache/batch_reader.h"
#include "cache/small_cache.h"
#include "io/temp_folder.h"

namespace cachette {
namespace {

using ::testing::HasSubstr;

// What a descriptor of this process leads to, "" when it is closed.
std::string LinkOf(int fd) {
  std::error_code code;
  return std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd), code);
}

// The descriptor of the store's file, by its folder: it has no name. -1: there is none.
int FindFile(const TempFolder& folder) {
  const std::string prefix = std::filesystem::canonical(folder / "").string() + "/";
  for (int fd = 3; fd < 1000; ++fd)
    if (LinkOf(fd).starts_with(prefix)) return fd;
  return -1;
}

class DiskStoreTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto store = RecordStore::Create("disk:" + (folder_ / "") + GetParam(), kRecordBytes);
    if (!store.ok()) {
      ASSERT_THAT(store.failure().error, testing::AnyOf(Error::kUnavailable, Error::kUnsupported));
      GTEST_SKIP() << store.failure().message;
    }
    store_ = std::move(*store);
    fd_ = FindFile(folder_);
    ASSERT_GE(fd_, 0);
    // Record r holds bytes r + 1.
    ASSERT_EQ(*store_->Allocate(kNumRecords), 0);
    for (int64_t record = 0; record < kNumRecords; ++record)
      ASSERT_TRUE(store_->Write(record, std::vector(kRecordBytes, static_cast<std::byte>(record + 1))).ok());
  }
  void TearDown() override {
    store_.reset();
    EXPECT_TRUE(std::filesystem::is_empty(folder_ / ""));
  }

  Result<void> ReadOne(int64_t record) {
    const RecordRead read{record, place_};
    CACHETTE_TRY(store_->Read({&read, 1}));
    EXPECT_EQ(place_[0], static_cast<std::byte>(record + 1));
    EXPECT_EQ(place_[kRecordBytes - 1], static_cast<std::byte>(record + 1));
    return Ok();
  }
  // Out of the system's file cache, as far as it lets go.
  void DropCache() const {
    ASSERT_EQ(fdatasync(fd_), 0);
    ASSERT_EQ(posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED), 0);
  }
  // Puts another file behind the store's descriptor; the old one as a new descriptor.
  int Replace(const char* path, int flags) const {
    const int saved = dup(fd_), other = open(path, flags | O_CLOEXEC);
    EXPECT_GE(saved, 0);
    EXPECT_GE(other, 0);
    EXPECT_GE(dup2(other, fd_), 0);
    close(other);
    return saved;
  }
  void PutBack(int saved) const {
    ASSERT_GE(dup2(saved, fd_), 0);
    close(saved);
  }

  static constexpr int64_t kNumRecords = 40;
  alignas(4096) std::byte place_[kRecordBytes];
  TempFolder folder_;
  std::unique_ptr<RecordStore> store_;
  int fd_ = -1;
};

INSTANTIATE_TEST_SUITE_P(, DiskStoreTest, testing::Values(",uring", ",threads", ",uring,direct", ",threads,direct"),
                         [](const auto& param) {
                           std::string name = param.param + 1;
                           std::replace(name.begin(), name.end(), ',', '_');
                           return name;
                         });

TEST_P(DiskStoreTest, TheFileHasNoName) {
  EXPECT_TRUE(std::filesystem::is_empty(folder_ / ""));
  EXPECT_THAT(LinkOf(fd_), HasSubstr("(deleted)"));
  store_.reset();
  EXPECT_EQ(FindFile(folder_), -1);
}

TEST_P(DiskStoreTest, ReadsWhatTheFileCacheNoLongerHolds) {
  DropCache();
  std::vector<std::byte> bytes(kNumRecords * kRecordBytes + 64);
  auto* const base =
      reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(bytes.data()) + 63) / 64 * 64);  // not 4096
  std::vector<RecordRead> reads;
  for (int64_t i = 0; i < kNumRecords; ++i) {
    const int64_t record = (i * 7 + 3) % kNumRecords;
    if (record % 3 != 0) reads.push_back({record, base + static_cast<size_t>(record) * kRecordBytes});
  }
  const auto outcome = store_->Read(reads);
  ASSERT_TRUE(outcome.ok()) << outcome.failure().message;
  for (const RecordRead& read : reads)
    for (size_t i = 0; i < kRecordBytes; i += 511) ASSERT_EQ(read.to[i], static_cast<std::byte>(read.record + 1));
}

TEST_P(DiskStoreTest, AFlippedBitIsFoundAndNamed) {
  const char flipped = 0x0a;  // record 10 holds 0x0b
  const int plain = open(("/proc/self/fd/" + std::to_string(fd_)).c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(plain, 0);
  ASSERT_EQ(pwrite(plain, &flipped, 1, 10 * kRecordBytes + 1234), 1);
  ASSERT_EQ(fdatasync(plain), 0);
  close(plain);
  const auto outcome = ReadOne(10);
  ASSERT_FALSE(outcome.ok());
  EXPECT_EQ(outcome.failure().error, Error::kCorrupt);
  EXPECT_THAT(outcome.failure().message, HasSubstr("record 10 "));
  EXPECT_THAT(outcome.failure().message, HasSubstr(folder_ / ""));
  EXPECT_TRUE(ReadOne(9).ok());
  EXPECT_TRUE(ReadOne(11).ok());
}

TEST_P(DiskStoreTest, AFileCutShortIsAnErrorNotASignal) {
  for (const size_t num_bytes : {20 * kRecordBytes, 10 * kRecordBytes + 1000, size_t{0}}) {
    ASSERT_EQ(ftruncate(fd_, static_cast<off_t>(num_bytes)), 0);
    const auto first_missing = static_cast<int64_t>(num_bytes / kRecordBytes);
    if (first_missing > 0) {
      EXPECT_TRUE(ReadOne(first_missing - 1).ok());
    }
    for (const int64_t record : {first_missing, kNumRecords - 1}) {
      const auto outcome = ReadOne(record);
      ASSERT_FALSE(outcome.ok());
      EXPECT_EQ(outcome.failure().error, Error::kCorrupt);
      EXPECT_THAT(outcome.failure().message, HasSubstr("cut it short"));
      EXPECT_THAT(outcome.failure().message, HasSubstr("record " + std::to_string(record) + " "));
    }
  }
}

TEST_P(DiskStoreTest, AReadThatTheSystemRefusesIsASentence) {
  const int saved = Replace((folder_ / "").c_str(), O_RDONLY | O_DIRECTORY);
  const auto outcome = ReadOne(3);
  ASSERT_FALSE(outcome.ok());
  EXPECT_EQ(outcome.failure().error, Error::kIo);
  EXPECT_THAT(outcome.failure().message, HasSubstr("record 3 "));
  PutBack(saved);
  EXPECT_TRUE(ReadOne(3).ok());
}

TEST_P(DiskStoreTest, AFullDiskAtAWriteLeavesTheRecordUnwritten) {
  const std::vector<std::byte> data(3 * kRecordBytes, std::byte{9});
  const int64_t first = *store_->Allocate(3);
  const int saved = Replace("/dev/full", O_RDWR);
  const auto outcome = store_->Write(first, data);
  ASSERT_FALSE(outcome.ok());
  EXPECT_EQ(outcome.failure().error, Error::kOutOfMemory);
  EXPECT_THAT(outcome.failure().message, HasSubstr("No space left"));
  PutBack(saved);
  EXPECT_EQ(store_->traffic().records_written, kNumRecords);
  ASSERT_TRUE(store_->Write(first, data).ok());
  const RecordRead read{first + 2, place_};
  ASSERT_TRUE(store_->Read({&read, 1}).ok());
  EXPECT_EQ(place_[17], std::byte{9});
}

TEST_P(DiskStoreTest, ALimitOfFileSizesIsFoundBeforeItsSignal) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  struct stat info {};
  ASSERT_EQ(fstat(fd_, &info), 0);
  // SIGXFSZ is not ignored here: it would end the test.
  rlimit most = before;
  most.rlim_cur = static_cast<rlim_t>(info.st_size) + 10 * kRecordBytes;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &most), 0);
  const auto in_file = info.st_size / static_cast<int64_t>(kRecordBytes) - kNumRecords;
  const auto refused = store_->Allocate(in_file + 11);
  const auto taken = store_->Allocate(in_file + 10);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.failure().error, Error::kOutOfMemory);
  EXPECT_THAT(refused.failure().message, HasSubstr("ulimit -f"));
  ASSERT_TRUE(taken.ok()) << taken.failure().message;
  EXPECT_EQ(*taken, kNumRecords);
}

TEST_P(DiskStoreTest, TheFileGrowsInStepsAndShrinksWhenItsEndIsFree) {
  const auto file_bytes = [&] {
    struct stat info {};
    EXPECT_EQ(fstat(fd_, &info), 0);
    return info.st_size;
  };
  const int64_t step_bytes = file_bytes();
  EXPECT_GE(step_bytes, kNumRecords * static_cast<int64_t>(kRecordBytes));
  const int64_t step_records = step_bytes / static_cast<int64_t>(kRecordBytes);
  const int64_t first = *store_->Allocate(3 * step_records);
  EXPECT_EQ(file_bytes(), 4 * step_bytes);
  for (int64_t record = first; record < first + 3 * step_records - 1; ++record) store_->Release(record);
  EXPECT_EQ(file_bytes(), 4 * step_bytes);  // the last record is owned
  store_->Release(first + 3 * step_records - 1);
  EXPECT_EQ(file_bytes(), step_bytes);
  for (int64_t record = 0; record < kNumRecords; ++record) ASSERT_TRUE(ReadOne(record).ok());
}

TEST(DiskStore, AStepEndsAtTheLimit) {
  const TempFolder folder;
  auto store = RecordStore::Create("disk:" + (folder / ""), kRecordBytes, 5 * kRecordBytes + 1);
  ASSERT_TRUE(store.ok()) << store.failure().message;
  ASSERT_TRUE((*store)->Allocate(2).ok());
  struct stat info {};
  ASSERT_EQ(fstat(FindFile(folder), &info), 0);
  EXPECT_EQ(info.st_size, 5 * static_cast<off_t>(kRecordBytes));
}

TEST(DiskStore, RefusesWhatIsNoFolderAndLeavesItAlone) {
  const auto refusal = [](const std::string& path) {
    const auto store = RecordStore::Create("disk:" + path, kRecordBytes);
    EXPECT_FALSE(store.ok()) << path;
    EXPECT_THAT(store.failure().message, HasSubstr(path));
    return store.ok() ? Error::kCancelled : store.failure().error;
  };
  const TempFolder folder;
  const std::string foreign = folder.Write("foreign", "somebody's");
  EXPECT_EQ(refusal(foreign), Error::kInvalidArgument);
  EXPECT_EQ(std::filesystem::file_size(foreign), 10u);
  EXPECT_EQ(refusal("/dev/null"), Error::kInvalidArgument);
  EXPECT_EQ(refusal("/no/such/folder"), Error::kNotFound);
  EXPECT_EQ(refusal("/proc/self"), Error::kIo);  // nobody makes files there, root included
}

TEST(DiskStore, DirectReadsNeedWholePages) {
  const auto store = RecordStore::Create("disk:" + testing::TempDir() + ",direct", 4096 + 64);
  ASSERT_FALSE(store.ok());
  EXPECT_EQ(store.failure().error, Error::kInvalidArgument);
  EXPECT_THAT(store.failure().message, HasSubstr("4160"));
}

TEST(DiskStore, AKilledProcessLeavesNothing) {
  const TempFolder folder;
  const pid_t child = fork();
  if (child == 0) {
    auto store = RecordStore::Create("disk:" + (folder / ""), kRecordBytes);
    if (store.ok() && (*store)->Allocate(100).ok() &&
        (*store)->Write(0, std::vector<std::byte>(100 * kRecordBytes)).ok())
      raise(SIGKILL);
    _exit(1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_TRUE(std::filesystem::is_empty(folder / ""));
}

// 1 MiB of tmpfs, in a child with its own mounts.
TEST(DiskStore, AFullDiskIsFoundByAllocate) {
  constexpr int kNoRights = 77;
  const TempFolder folder;
  const pid_t child = fork();
  if (child == 0) {
    if ((unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) ||
        mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("tmpfs", (folder / "").c_str(), "tmpfs", 0, "size=1m") != 0)
      _exit(kNoRights);
    auto store = RecordStore::Create("disk:" + (folder / ""), kRecordBytes);
    if (!store.ok()) _exit(2);
    const auto all = (*store)->Allocate(300);
    if (all.ok() || all.failure().error != Error::kOutOfMemory || (*store)->owned_bytes() != 0) _exit(3);
    if (all.failure().message.find("No space left") == std::string::npos) _exit(4);
    // The step does not fit either, what is needed does.
    if (!(*store)->Allocate(200).ok()) _exit(5);
    if (!(*store)->Write(0, std::vector<std::byte>(200 * kRecordBytes, std::byte{1})).ok()) _exit(6);
    _exit((*store)->Allocate(100).ok() ? 7 : 0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == kNoRights) GTEST_SKIP() << "no rights to mount";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(FileReadQueue, RemovesABatchAndKeepsTheOrderOfTheRest) {
  ReadBatch one, two;
  std::vector<FileRead> reads(7);
  for (size_t i = 0; i < reads.size(); ++i) reads[i].batch = i % 3 == 0 ? &one : &two;
  FileReadQueue queue;
  for (FileRead& read : reads) queue.Push(read);
  EXPECT_EQ(queue.Remove(one), 3);
  EXPECT_EQ(queue.Remove(one), 0);
  queue.Push(reads[0]);
  for (const size_t i : {1u, 2u, 4u, 5u, 0u}) EXPECT_EQ(&queue.Pop(), &reads[i]);
  EXPECT_EQ(queue.front(), nullptr);
  EXPECT_EQ(queue.Remove(two), 0);
}

}  // namespace
}  // namespace cachette
