#pragma once
// Recorded logits of an independent implementation (tests/data/README.md says how they were made).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

namespace cachette::test {

struct ReferenceCase {
  std::vector<int32_t> ids;
  std::vector<int64_t> positions;
  std::vector<float> logits;  // [positions][vocab_size]
};

// Root mean square difference between the reference and itself in coarser arithmetic: what noise alone makes.
struct ReferenceNoise {
  double float32 = 0, bf16_linear = 0, int8_activations = 0, f16_kv = 0;
};

struct TinyReference {
  std::string name;
  std::string model;    // path
  std::string adapter;  // path, or ""
  double logits_rms = 0;
  ReferenceNoise noise;
  std::vector<ReferenceCase> cases;
};

inline ReferenceNoise NoiseOf(const nlohmann::json& json) {
  const auto rms = [&](const char* kind) { return json.contains(kind) ? json[kind]["rms"].get<double>() : 0.0; };
  return {rms("float32"), rms("bf16_linear"), rms("int8_activations"), rms("f16_kv")};
}

inline TinyReference LoadTinyReference(const std::filesystem::path& folder) {
  const nlohmann::json json = nlohmann::json::parse(std::ifstream(folder / "expected.json"));
  TinyReference reference;
  reference.name = json["name"];
  reference.model = (folder / json["model"].get<std::string>()).lexically_normal().string();
  if (json.contains("adapter")) reference.adapter = (folder / json["adapter"].get<std::string>()).lexically_normal();
  reference.logits_rms = json["logits_rms"];
  reference.noise = NoiseOf(json["noise"]);
  const size_t vocab = json["vocab_size"];
  std::ifstream file(folder / json["logits_file"].get<std::string>(), std::ios::binary);
  for (const nlohmann::json& item : json["cases"]) {
    ReferenceCase& one = reference.cases.emplace_back();
    one.ids = item["ids"].get<std::vector<int32_t>>();
    one.positions = item["positions"].get<std::vector<int64_t>>();
    one.logits.resize(one.positions.size() * vocab);
    file.seekg(static_cast<std::streamoff>(item["first_row"].get<size_t>() * vocab * sizeof(float)));
    file.read(reinterpret_cast<char*>(one.logits.data()),
              static_cast<std::streamsize>(one.logits.size() * sizeof(float)));
  }
  return reference;
}

// Folders below tests/data/models that hold an expected.json, by name.
inline std::vector<std::string> TinyReferenceNames() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(CACHETTE_TEST_DATA "/models"))
    if (std::filesystem::exists(entry.path() / "expected.json")) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

inline double RmsDifference(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

}  // namespace cachette::test
