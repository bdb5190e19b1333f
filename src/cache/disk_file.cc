#include "cache/disk_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace cachette {
namespace {

// A file that no name leads to, or -1 with errno.
int OpenUnnamed(const std::string& folder) {
  // O_EXCL: nobody can give it a name later.
  const int fd = open(folder.c_str(), O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) return fd;
  // This file system cannot (NFS, FAT, old overlays). A kill between these two lines leaves an empty file.
  std::string path = folder + "/cachette-kv.XXXXXX";
  const int named_fd = mkostemp(path.data(), O_CLOEXEC);
  if (named_fd >= 0) unlink(path.c_str());
  return named_fd;
}

}  // namespace

DiskFile::DiskFile(int fd, std::string folder, bool is_direct)
    : fd_(fd), folder_(std::move(folder)), is_direct_(is_direct) {}

DiskFile::DiskFile(DiskFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      folder_(std::move(other.folder_)),
      is_direct_(other.is_direct_),
      size_bytes_(other.size_bytes_) {}

DiskFile::~DiskFile() {
  if (fd_ >= 0) close(fd_);
}

Result<DiskFile> DiskFile::Create(const std::string& folder, bool is_direct) {
  struct stat info;
  if (stat(folder.c_str(), &info) != 0)
    return Fail(errno == ENOENT ? Error::kNotFound : Error::kIo,
                fmt::format("slow tier: {}: {}; name a folder that exists", folder, std::strerror(errno)));
  if (!S_ISDIR(info.st_mode))
    return Fail(Error::kInvalidArgument,
                fmt::format("slow tier: {} is a {}, which stays untouched; name the folder in which a file may be made",
                            folder, S_ISREG(info.st_mode) ? "file" : "device or pipe"));
  const int fd = OpenUnnamed(folder);
  if (fd < 0)
    return Fail(Error::kIo,
                fmt::format("slow tier: no file can be made in {}: {}; name a folder that can be written to", folder,
                            std::strerror(errno)));
  DiskFile file(fd, folder, is_direct);
  if (is_direct && fcntl(fd, F_SETFL, O_DIRECT) != 0)
    return Fail(Error::kUnsupported,
                fmt::format("slow tier: the file system of {} has no direct I/O ({}); leave out ,direct or name a "
                            "folder on another disk",
                            folder, std::strerror(errno)));
  // Records are read here and there: reading ahead would move bytes that nobody asked for.
  if (!is_direct) (void)posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
  return file;
}

std::string DiskFile::where() const { return "slow tier's file in " + folder_; }

Failure DiskFile::WriteFailure(int code, const std::string& what) const {
  const std::string reason = fmt::format("{}: {}: {}", where(), what, std::strerror(code));
  if (code == ENOSPC || code == EDQUOT)
    return Fail(Error::kOutOfMemory,
                reason + "; free space there (df shows it), shorten the input or name another disk");
  if (code == EFBIG)
    return Fail(Error::kOutOfMemory, reason + "; raise the limit of file sizes (ulimit -f) or shorten the input");
  if (code == EINVAL && is_direct_) return Fail(Error::kIo, reason + "; leave out ,direct");
  return Fail(Error::kIo, reason);
}

int DiskFile::Extend(size_t num_bytes) {
  // Beyond the limit the system would send SIGXFSZ, whose default ends the program.
  rlimit most{};
  if (getrlimit(RLIMIT_FSIZE, &most) == 0 && most.rlim_cur != RLIM_INFINITY && num_bytes > most.rlim_cur) return EFBIG;
  int code = 0;
  do {
    code = fallocate(fd_, 0, static_cast<off_t>(size_bytes_), static_cast<off_t>(num_bytes - size_bytes_)) == 0 ? 0
                                                                                                                : errno;
  } while (code == EINTR);
  // No reservation there: a full disk will be found by Write.
  if (code == EOPNOTSUPP || code == ENOSYS) code = ftruncate(fd_, static_cast<off_t>(num_bytes)) == 0 ? 0 : errno;
  if (code == 0)
    size_bytes_ = num_bytes;
  else
    Shrink(size_bytes_);  // a part may have been reserved
  return code;
}

Result<void> DiskFile::Grow(size_t needed_bytes, size_t wanted_bytes) {
  if (needed_bytes <= size_bytes_) return Ok();
  int code = Extend(wanted_bytes);
  if (code != 0 && needed_bytes < wanted_bytes) code = Extend(needed_bytes);
  if (code == 0) return Ok();
  return WriteFailure(code,
                      fmt::format("cannot grow from {:.1f} to {:.1f} MiB", static_cast<double>(size_bytes_) / 0x1p20,
                                  static_cast<double>(needed_bytes) / 0x1p20));
}

void DiskFile::Shrink(size_t num_bytes) {
  if (ftruncate(fd_, static_cast<off_t>(num_bytes)) == 0) size_bytes_ = num_bytes;
}

Result<void> DiskFile::Write(size_t offset_bytes, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t num_written = pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset_bytes));
    if (num_written < 0 && errno == EINTR) continue;
    if (num_written <= 0)
      return WriteFailure(num_written < 0 ? errno : EIO,
                          fmt::format("cannot write {} bytes at {}", bytes.size(), offset_bytes));
    bytes = bytes.subspan(static_cast<size_t>(num_written));
    offset_bytes += static_cast<size_t>(num_written);
  }
  return Ok();
}

}  // namespace cachette
