#include "engine/find_model.h"

#include <fmt/format.h>

#include <filesystem>

#include "io/sha256.h"

namespace cachette {
namespace {

namespace fs = std::filesystem;

constexpr int kParentsSearched = 3;  // build/release/cachette -> the source tree's models/

}  // namespace

std::vector<std::string> ModelFolders() {
  std::vector<std::string> folders = {"models"};
  std::error_code error;
  fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
  for (int i = 0; i < kParentsSearched && !error && folder.has_relative_path(); ++i, folder = folder.parent_path())
    folders.push_back((folder / "models").string());
  if (const std::string cache = UserCacheFolder(); !cache.empty())
    folders.push_back((fs::path(cache) / "models").string());
  return folders;
}

Result<std::string> FindModel(const std::string& name) {
  std::error_code ignored;
  if (!name.empty() && (name.starts_with("synthetic:") || fs::exists(name, ignored))) return name;
  const std::string file = name.empty() ? kDefaultModelFile : name;
  for (const std::string& folder : ModelFolders()) {
    const fs::path path = fs::path(folder) / file;
    if (fs::exists(path, ignored)) return path.string();
  }
  if (name.empty())
    return Fail(Error::kNotFound,
                fmt::format("the default model {} is in none of {}; run 'make model' or name one with --model",
                            kDefaultModelFile, fmt::join(ModelFolders(), ", ")));
  return Fail(Error::kNotFound, fmt::format("model {} does not exist", name));
}

}  // namespace cachette
