#include "io/write_file.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace cachette {

Result<void> CheckReplaceable(const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode))
    return Fail(Error::kInvalidArgument,
                fmt::format("{}: is a {}, which would be replaced; name a new or regular file", path,
                            S_ISDIR(info.st_mode)   ? "folder"
                            : S_ISLNK(info.st_mode) ? "symbolic link"
                                                    : "device or pipe"));
  return Ok();
}

Result<void> WriteFile(const std::string& path, std::span<const std::byte> bytes) {
  CACHETTE_TRY(CheckReplaceable(path));
  std::string beside = path + ".XXXXXX";
  const int fd = mkstemp(beside.data());
  if (fd < 0) return Fail(Error::kIo, fmt::format("{}: cannot write there: {}", path, std::strerror(errno)));
  int code = 0;
  while (!bytes.empty() && code == 0) {
    const ssize_t num_written = write(fd, bytes.data(), bytes.size());
    if (num_written > 0)
      bytes = bytes.subspan(static_cast<size_t>(num_written));
    else if (num_written == 0 || errno != EINTR)
      code = num_written == 0 ? EIO : errno;
  }
  // mkstemp makes the file private; others may read what we write.
  if (code == 0 && fchmod(fd, 0644) != 0) code = errno;
  if (close(fd) != 0 && code == 0) code = errno;
  if (code == 0 && std::rename(beside.c_str(), path.c_str()) != 0) code = errno;
  if (code == 0) return Ok();
  unlink(beside.c_str());
  return Fail(Error::kIo, fmt::format("{}: cannot write: {}", path, std::strerror(code)));
}

}  // namespace cachette
