#include "io/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

namespace cachette {
namespace {

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
};

Failure SystemFailure(const std::string& path, const char* action) {
  const int code = errno;
  if (code == ENOENT) return Fail(Error::kNotFound, fmt::format("{}: no such file; check the path", path));
  return Fail(Error::kIo, fmt::format("{}: cannot {}: {}", path, action, std::strerror(code)));
}

}  // namespace

Result<MappedFile> MappedFile::Open(const std::string& path) {
  // O_NONBLOCK: opening a named pipe must fail below, not wait for a writer.
  const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) return SystemFailure(path, "open it");
  struct stat status;
  if (fstat(file.fd, &status) != 0) return SystemFailure(path, "ask for its size");
  if (S_ISDIR(status.st_mode))
    return Fail(Error::kInvalidArgument, fmt::format("{}: is a directory; name a file in it", path));
  if (!S_ISREG(status.st_mode))
    return Fail(Error::kInvalidArgument, fmt::format("{}: is not a regular file and cannot be mapped", path));
  if (status.st_size == 0)
    return Fail(Error::kCorrupt, fmt::format("{}: is empty (0 bytes); fetch or write it again", path));
  const auto num_bytes = static_cast<size_t>(status.st_size);
  void* start = mmap(nullptr, num_bytes, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (start == MAP_FAILED) return SystemFailure(path, "map it into memory");
  return MappedFile(path, {static_cast<const std::byte*>(start), num_bytes});
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::WillNeed(std::span<const std::byte> range) const { Advise(range, MADV_WILLNEED); }
void MappedFile::Drop(std::span<const std::byte> range) const { Advise(range, MADV_DONTNEED); }

void MappedFile::Advise(std::span<const std::byte> range, int advice) const {
  if (range.empty()) return;
  CACHETTE_CHECK(range.data() >= bytes_.data() && range.data() + range.size() <= bytes_.data() + bytes_.size());
  const auto page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t begin = static_cast<size_t>(range.data() - bytes_.data()) / page_bytes * page_bytes;
  const size_t end = static_cast<size_t>(range.data() - bytes_.data()) + range.size();
  // A hint: when the kernel declines, the pages merely stay as they were.
  (void)madvise(const_cast<std::byte*>(bytes_.data()) + begin, end - begin, advice);
}

}  // namespace cachette
