#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/gguf_value.h"

namespace cachette {

// Builds a GGUF file byte by byte, right or wrong: nothing is checked, every field can be set.
class GgufBuilder {
 public:
  uint32_t version = 3;
  std::string magic = "GGUF";
  uint64_t alignment_bytes = 32;               // of the data; the metadata key is yours to add
  int64_t extra_tensors = 0, extra_pairs = 0;  // added to the counts in the header

  template <class T>
  GgufBuilder& Scalar(std::string_view key, GgufType type, T value) {
    Pair(key, type);
    Put(pairs_, value);
    return *this;
  }
  GgufBuilder& String(std::string_view key, std::string_view value) {
    Pair(key, GgufType::kString);
    PutString(pairs_, value);
    return *this;
  }
  template <class T>
  GgufBuilder& Array(std::string_view key, GgufType type, const std::vector<T>& values) {
    Pair(key, GgufType::kArray);
    Put(pairs_, static_cast<uint32_t>(type));
    Put(pairs_, static_cast<uint64_t>(values.size()));
    for (const T value : values) Put(pairs_, value);
    return *this;
  }
  GgufBuilder& Strings(std::string_view key, const std::vector<std::string>& values) {
    Pair(key, GgufType::kArray);
    Put(pairs_, static_cast<uint32_t>(GgufType::kString));
    Put(pairs_, static_cast<uint64_t>(values.size()));
    for (const std::string& value : values) PutString(pairs_, value);
    return *this;
  }
  // A tensor of type number `type` with dims fastest first, at the next aligned offset, holding `bytes`.
  GgufBuilder& Tensor(std::string_view name, uint32_t type, const std::vector<uint64_t>& dims,
                      std::span<const std::byte> bytes) {
    data_.resize((data_.size() + alignment_bytes - 1) / alignment_bytes * alignment_bytes);
    TensorAt(name, type, dims, data_.size());
    data_.insert(data_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  // Only the description.
  GgufBuilder& TensorAt(std::string_view name, uint32_t type, const std::vector<uint64_t>& dims, uint64_t offset) {
    PutString(infos_, name);
    Put(infos_, static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) Put(infos_, dim);
    Put(infos_, type);
    Put(infos_, offset);
    ++num_tensors_;
    return *this;
  }
  // A key whose type and value are the bytes given.
  GgufBuilder& RawPair(std::string_view key, std::span<const std::byte> type_and_value) {
    PutString(pairs_, key);
    pairs_.insert(pairs_.end(), type_and_value.begin(), type_and_value.end());
    ++num_pairs_;
    return *this;
  }

  std::vector<std::byte> Build() const {
    std::vector<std::byte> out;
    for (const char c : magic) out.push_back(static_cast<std::byte>(c));
    Put(out, version);
    Put(out, num_tensors_ + static_cast<uint64_t>(extra_tensors));
    Put(out, num_pairs_ + static_cast<uint64_t>(extra_pairs));
    out.insert(out.end(), pairs_.begin(), pairs_.end());
    out.insert(out.end(), infos_.begin(), infos_.end());
    if (!data_.empty()) out.resize((out.size() + alignment_bytes - 1) / alignment_bytes * alignment_bytes);
    out.insert(out.end(), data_.begin(), data_.end());
    return out;
  }
  size_t header_bytes() const { return 24 + pairs_.size() + infos_.size(); }

  template <class T>
  static void Put(std::vector<std::byte>& out, T value) {
    const auto* at = reinterpret_cast<const std::byte*>(&value);
    out.insert(out.end(), at, at + sizeof(T));
  }
  static void PutString(std::vector<std::byte>& out, std::string_view text) {
    Put(out, static_cast<uint64_t>(text.size()));
    for (const char c : text) out.push_back(static_cast<std::byte>(c));
  }

 private:
  void Pair(std::string_view key, GgufType type) {
    PutString(pairs_, key);
    Put(pairs_, static_cast<uint32_t>(type));
    ++num_pairs_;
  }

  std::vector<std::byte> pairs_, infos_, data_;
  uint64_t num_pairs_ = 0, num_tensors_ = 0;
};

}  // namespace cachette
