#include "io/mapped_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <vector>

#include "io/temp_folder.h"

namespace cachette {
namespace {

using testing::HasSubstr;

// Resident memory of the mapping of path in this process, as the kernel counts it page by page; -1 when it does not
// say.
int64_t ResidentKib(const std::string& path) {
  std::ifstream stream("/proc/self/smaps");
  bool is_ours = false;
  for (std::string line; std::getline(stream, line);) {
    if (line.ends_with(path)) is_ours = true;
    if (is_ours && line.starts_with("Rss:")) return std::stoll(line.substr(4));
  }
  return -1;
}

int Sum(std::span<const std::byte> bytes) {
  int sum = 0;
  for (size_t i = 0; i < bytes.size(); i += 512) sum += static_cast<int>(bytes[i]);
  return sum;
}

TEST(MappedFile, MapsWholeFilesOfAnySize) {
  const TempFolder folder;
  for (const size_t num_bytes : {1u, 4095u, 4096u, 4097u, 100003u}) {
    std::string text(num_bytes, 'x');
    text.back() = 'y';
    auto opened = MappedFile::Open(folder.Write("f", text));
    ASSERT_TRUE(opened.ok()) << opened.failure().message;
    const MappedFile file = std::move(*opened);
    ASSERT_EQ(file.bytes().size(), num_bytes);
    EXPECT_EQ(file.bytes().back(), std::byte{'y'});
    EXPECT_EQ(file.path(), folder / "f");
  }
}

TEST(MappedFile, SurvivesMoves) {
  const TempFolder folder;
  auto a = MappedFile::Open(folder.Write("a", "first"));
  auto b = MappedFile::Open(folder.Write("b", "second"));
  ASSERT_TRUE(a.ok() && b.ok());
  const std::byte* address = a->bytes().data();
  *b = std::move(*a);
  EXPECT_EQ(b->bytes().data(), address);
  EXPECT_EQ(b->bytes().size(), 5u);
  EXPECT_EQ(b->path(), folder / "a");
}

TEST(MappedFile, DropTakesPagesOutOfResidentMemoryAndKeepsTheirContents) {
  const TempFolder folder;
  constexpr size_t kBytes = 32 << 20;
  std::string text(kBytes, '\0');
  for (size_t i = 0; i < kBytes; i += 512) text[i] = static_cast<char>(i / 512 % 100);
  auto file = MappedFile::Open(folder.Write("f", text));
  ASSERT_TRUE(file.ok());
  file->WillNeed(file->bytes());
  const int sum = Sum(file->bytes());
  const int64_t full = ResidentKib(file->path());
  file->Drop(file->bytes().subspan(1000, kBytes / 2));
  const int64_t half = ResidentKib(file->path());
  file->Drop(file->bytes());
  const int64_t none = ResidentKib(file->path());
  if (full < 0) GTEST_SKIP() << "the kernel does not say";
  EXPECT_EQ(full, 32 * 1024);
  // The kernel may have mapped the file in huge pages of 2 MiB, and drops those at either end of the range whole.
  EXPECT_NEAR(static_cast<double>(half), 16 * 1024, 2 * 2048);
  EXPECT_EQ(none, 0);
  file->Drop({});
  EXPECT_EQ(Sum(file->bytes()), sum);
}

TEST(MappedFileDeathTest, AdviceOutsideTheFileIsOurMistake) {
  const TempFolder folder;
  auto file = MappedFile::Open(folder.Write("f", "text"));
  ASSERT_TRUE(file.ok());
  const std::byte other[1] = {};
  EXPECT_DEATH(file->Drop(other), "internal error");
}

TEST(MappedFile, SaysWhyAFileCannotBeMapped) {
  const TempFolder folder;
  const auto expect = [](const std::string& path, Error error, const char* text) {
    const auto file = MappedFile::Open(path);
    ASSERT_FALSE(file.ok());
    EXPECT_EQ(file.failure().error, error);
    EXPECT_THAT(file.failure().message, testing::StartsWith(path + ": "));
    EXPECT_THAT(file.failure().message, HasSubstr(text));
  };
  expect(folder / "absent", Error::kNotFound, "no such file");
  expect(folder / "", Error::kInvalidArgument, "is a directory");
  expect(folder.Write("empty", ""), Error::kCorrupt, "0 bytes");
  expect(folder.Write("file", "x") + "/below", Error::kIo, "Not a directory");
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  expect(folder / "pipe", Error::kInvalidArgument, "not a regular file");  // and does not wait for a writer
  expect("/dev/null", Error::kInvalidArgument, "not a regular file");
}

TEST(MappedFile, SaysThatPermissionIsMissing) {
  const TempFolder folder;
  const std::string path = folder.Write("f", "x");
  std::filesystem::permissions(path, std::filesystem::perms::none);
  const bool is_root = geteuid() == 0;
  if (is_root && seteuid(65534) != 0) GTEST_SKIP() << "root reads everything";
  const auto file = MappedFile::Open(path);
  ASSERT_TRUE(!is_root || seteuid(0) == 0);
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.failure().error, Error::kIo);
  EXPECT_THAT(file.failure().message, HasSubstr("Permission denied"));
}

}  // namespace
}  // namespace cachette
