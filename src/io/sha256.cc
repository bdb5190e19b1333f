#include "io/sha256.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <system_error>
#include <vector>

#include "io/write_file.h"

namespace cachette {
namespace {

class Hasher {
 public:
  Hasher() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    CACHETTE_CHECK(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }
  void Add(std::span<const std::byte> bytes) {
    CACHETTE_CHECK(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1);
  }
  std::string Finish() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int num_bytes = 0;
    CACHETTE_CHECK(EVP_DigestFinal_ex(context_.get(), digest, &num_bytes) == 1);
    std::string hex;
    for (unsigned int i = 0; i < num_bytes; ++i) hex += fmt::format("{:02x}", digest[i]);
    return hex;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

// "size nanoseconds" of a regular file, by which a change is noticed; "" when it cannot be read.
std::string Stamp(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return "";
  return fmt::format("{} {}.{:09}", status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
}

// The hash behind prefix in the first line of the file, or "" when there is no such line.
std::string Recall(const std::string& file_path, const std::string& prefix) {
  std::ifstream stream(file_path);
  std::string line(prefix.size() + 64, '\0');
  if (!stream.read(line.data(), static_cast<std::streamsize>(line.size())) || !line.starts_with(prefix)) return "";
  line.erase(0, prefix.size());
  return line.find_first_not_of("0123456789abcdef") == std::string::npos ? line : "";
}

void Remember(const std::string& file_path, const std::string& line) {
  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(file_path).parent_path(), ignored);
  (void)WriteFile(file_path, std::as_bytes(std::span(line)));
}

}  // namespace

std::string Sha256(std::span<const std::byte> bytes) {
  Hasher hasher;
  hasher.Add(bytes);
  return hasher.Finish();
}

Result<std::string> Sha256OfFile(const std::string& path) {
  struct stat status;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0 && errno == ENOENT) return Fail(Error::kNotFound, fmt::format("{}: no such file; check the path", path));
  if (fd < 0) return Fail(Error::kIo, fmt::format("{}: cannot open it: {}", path, std::strerror(errno)));
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    close(fd);
    return Fail(Error::kInvalidArgument, fmt::format("{}: is not a regular file", path));
  }
  Hasher hasher;
  std::vector<std::byte> buffer(1 << 20);
  ssize_t num_read;
  while ((num_read = read(fd, buffer.data(), buffer.size())) != 0) {
    if (num_read < 0 && errno == EINTR) continue;
    if (num_read < 0) break;
    hasher.Add({buffer.data(), static_cast<size_t>(num_read)});
  }
  const int code = num_read < 0 ? errno : 0;
  close(fd);
  if (code != 0) return Fail(Error::kIo, fmt::format("{}: cannot read it: {}", path, std::strerror(code)));
  return hasher.Finish();
}

Result<std::string> RememberedSha256OfFile(const std::string& path, const std::string& cache_folder) {
  const std::string stamp = Stamp(path);
  std::error_code error;
  const std::string absolute = std::filesystem::canonical(path, error).string();
  if (cache_folder.empty() || stamp.empty() || error) return Sha256OfFile(path);
  const std::string prefix = fmt::format("sha256 1 {} {}\n", stamp, absolute);
  const std::string file_path =
      fmt::format("{}/sha256/{}", cache_folder, Sha256(std::as_bytes(std::span(absolute))).substr(0, 32));
  if (std::string hash = Recall(file_path, prefix); !hash.empty()) return hash;
  CACHETTE_TRY(std::string hash, Sha256OfFile(path));
  if (Stamp(path) == stamp) Remember(file_path, prefix + hash + "\n");  // else it changed while it was read
  return hash;
}

std::string UserCacheFolder() {
  if (const char* folder = std::getenv("XDG_CACHE_HOME"); folder && folder[0] == '/')  // XDG: relative ones are void
    return std::string(folder) + "/cachette";
  if (const char* home = std::getenv("HOME"); home && home[0] == '/') return std::string(home) + "/.cache/cachette";
  return "";
}

}  // namespace cachette
