#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include <unistd.h>

namespace cachette {

// A file with the given text, removed with the object.
class TextFile {
 public:
  explicit TextFile(std::string_view text) {
    static int count = 0;
    path_ = (std::filesystem::temp_directory_path() /
             ("cachette-test-" + std::to_string(getpid()) + "-" + std::to_string(count++)))
                .string();
    std::ofstream(path_, std::ios::binary) << text;
  }
  ~TextFile() { std::filesystem::remove(path_); }
  TextFile(const TextFile&) = delete;
  TextFile& operator=(const TextFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace cachette
