#include "io/sha256.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "io/temp_folder.h"

namespace cachette {
namespace {

// Published by NIST (FIPS 180-4 examples): "abc", and the empty message.
const std::string kAbc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
const std::string kEmpty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const std::string kMillionA = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

std::string Hash(std::string_view text) { return Sha256(std::as_bytes(std::span(text))); }

std::string TheOneFileIn(const std::string& folder) {
  std::string found;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) {
      EXPECT_EQ(found, "");
      found = entry.path();
    }
  return found;
}

TEST(Sha256, PublishedExamples) {
  EXPECT_EQ(Hash("abc"), kAbc);
  EXPECT_EQ(Hash(""), kEmpty);
  const TempFolder folder;
  EXPECT_EQ(*Sha256OfFile(folder.Write("abc", "abc")), kAbc);
  EXPECT_EQ(*Sha256OfFile(folder.Write("empty", "")), kEmpty);
  EXPECT_EQ(*Sha256OfFile(folder.Write("a", std::string(1'000'000, 'a'))), kMillionA);
  const std::string several_reads((2 << 20) + 17, 'z');
  EXPECT_EQ(*Sha256OfFile(folder.Write("z", several_reads)), Hash(several_reads));
}

TEST(Sha256, Failures) {
  const TempFolder folder;
  EXPECT_EQ(Sha256OfFile(folder / "absent").failure().error, Error::kNotFound);
  EXPECT_EQ(Sha256OfFile(folder / "").failure().error, Error::kInvalidArgument);
  EXPECT_EQ(RememberedSha256OfFile(folder / "absent", folder / "cache").failure().error, Error::kNotFound);
}

TEST(RememberedSha256, ReadsTheFileOnlyOnceUntilItChanges) {
  const TempFolder folder;
  const std::string cache = folder / "cache", path = folder.Write("m", "abc");
  EXPECT_EQ(*RememberedSha256OfFile(path, cache), kAbc);
  // Forge the remembered hash: if it comes back, the file was not read.
  const std::string line_file = TheOneFileIn(cache);
  std::stringstream line;
  line << std::ifstream(line_file).rdbuf();
  std::string text = line.str();
  text.replace(text.find(kAbc), 64, kEmpty);
  std::ofstream(line_file) << text;
  EXPECT_EQ(*RememberedSha256OfFile(path, cache), kEmpty);
  EXPECT_EQ(*RememberedSha256OfFile(folder / "./m", cache), kEmpty);  // the same file by another name
  EXPECT_EQ(*RememberedSha256OfFile(path, ""), kAbc);
  // Same size, other time of change; then other size.
  std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) + std::chrono::nanoseconds(1'000'000));
  EXPECT_EQ(*RememberedSha256OfFile(path, cache), kAbc);
  folder.Write("m", "abcd");
  EXPECT_EQ(*RememberedSha256OfFile(path, cache), Hash("abcd"));
}

TEST(RememberedSha256, DamagedMemoryIsHarmless) {
  const TempFolder folder;
  const std::string cache = folder / "cache", path = folder.Write("m", "abc");
  ASSERT_TRUE(RememberedSha256OfFile(path, cache).ok());
  const std::string line_file = TheOneFileIn(cache);
  std::stringstream line;
  line << std::ifstream(line_file).rdbuf();
  const std::string good = line.str();
  for (size_t keep = 0; keep < good.size(); ++keep) {
    std::ofstream(line_file) << good.substr(0, keep);
    EXPECT_EQ(*RememberedSha256OfFile(path, cache), kAbc);
  }
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = '\x07';
    std::ofstream(line_file) << bad;
    EXPECT_EQ(*RememberedSha256OfFile(path, cache), kAbc);
  }
}

TEST(RememberedSha256, WorksWhereNothingCanBeRemembered) {
  const TempFolder folder;
  const std::string path = folder.Write("m", "abc"), not_a_folder = folder.Write("file", "");
  EXPECT_EQ(*RememberedSha256OfFile(path, not_a_folder), kAbc);
  EXPECT_EQ(*RememberedSha256OfFile(path, "/proc/none"), kAbc);
}

// Sets a variable and puts it back.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    value ? setenv(name, value, 1) : unsetenv(name);
  }
  ~Environment() { before_ ? setenv(name_, before_->c_str(), 1) : unsetenv(name_); }

 private:
  const char* name_;
  std::optional<std::string> before_;
};

TEST(UserCacheFolder, FollowsXdg) {
  const Environment home("HOME", "/home/someone");
  {
    const Environment xdg("XDG_CACHE_HOME", "/tmp/xdg");
    EXPECT_EQ(UserCacheFolder(), "/tmp/xdg/cachette");
  }
  {
    const Environment xdg("XDG_CACHE_HOME", "relative");
    EXPECT_EQ(UserCacheFolder(), "/home/someone/.cache/cachette");
  }
  const Environment xdg("XDG_CACHE_HOME", nullptr), no_home("HOME", nullptr);
  EXPECT_EQ(UserCacheFolder(), "");
}

}  // namespace
}  // namespace cachette
