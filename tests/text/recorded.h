#pragma once
// The recordings in tests/data/tokenizer and the models tests may find on this machine.

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

namespace cachette {

inline std::string ReadRecorded(const std::string& name) {
  std::ifstream file(std::string(CACHETTE_TEST_DATA) + "/tokenizer/" + name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// tools/record_tokenizer_ids.py and tools/record_chat_templates.py write these.
inline nlohmann::ordered_json RecordedJson(const std::string& name) {
  return nlohmann::ordered_json::parse(ReadRecorded(name));
}

// Path of a model file in $CACHETTE_MODELS, the source tree's models/ or the user's cache; "" when there is none.
inline std::string FindModelFile(const std::string& name) {
  std::vector<std::filesystem::path> folders = {CACHETTE_MODELS_DIR};
  if (const char* models = std::getenv("CACHETTE_MODELS")) folders.insert(folders.begin(), models);
  if (const char* home = std::getenv("HOME")) folders.push_back(std::filesystem::path(home) / ".cache/cachette/models");
  for (const auto& folder : folders) {
    std::error_code ignored;
    if (std::filesystem::exists(folder / name, ignored)) return (folder / name).string();
  }
  return "";
}

}  // namespace cachette
