#include "cli/input.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "text/utf8.h"

namespace cachette::cli {

Result<void> CheckUtf8(const std::string& text, const std::string& where) {
  const size_t invalid = FindInvalidUtf8(text);
  if (invalid == std::string::npos) return Ok();
  return Fail(Error::kInvalidArgument,
              fmt::format("{} is not valid UTF-8 at byte {} (0x{:02x}); convert it first, e.g. with iconv", where,
                          invalid, static_cast<unsigned char>(text[invalid])));
}

Result<std::string> ReadText(const std::string& path) {
  const bool is_stdin = path == "-";
  const std::string where = is_stdin ? "standard input" : path;
  struct stat status {};
  if (!is_stdin && stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode))
    return Fail(Error::kInvalidArgument, fmt::format("{} is a folder, not a text file", path));
  std::unique_ptr<FILE, int (*)(FILE*)> opened(nullptr, std::fclose);
  if (!is_stdin) {
    opened.reset(std::fopen(path.c_str(), "rb"));
    if (opened == nullptr)
      return Fail(errno == ENOENT ? Error::kNotFound : Error::kIo,
                  fmt::format("{} cannot be read: {}", path, std::strerror(errno)));
  }
  FILE* const file = is_stdin ? stdin : opened.get();
  std::string text;
  char buffer[1 << 16];
  for (size_t count; (count = std::fread(buffer, 1, sizeof buffer, file)) > 0;) text.append(buffer, count);
  if (std::ferror(file)) return Fail(Error::kIo, fmt::format("{} cannot be read: {}", where, std::strerror(errno)));
  CACHETTE_TRY(CheckUtf8(text, where));
  return text;
}

Result<std::string> ReadTexts(const std::vector<std::string>& paths) {
  if (std::count(paths.begin(), paths.end(), "-") > 1)
    return Fail(Error::kInvalidArgument, "standard input ('-') is asked for twice; it can be read once");
  std::string all;
  for (const std::string& path : paths) {
    CACHETTE_TRY(const std::string text, ReadText(path));
    if (!all.empty()) all += all.ends_with('\n') ? "\n" : "\n\n";
    all += text;
  }
  return all;
}

}  // namespace cachette::cli
