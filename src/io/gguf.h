#pragma once
// GGUF version 2 and 3, little-endian. Format: github.com/ggml-org/ggml, docs/gguf.md.

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "io/gguf_value.h"
#include "io/tensor_file.h"

namespace cachette {

// A GGUF file whose whole header was checked: counts, lengths, types, alignment, shapes, offsets, duplicates, overlaps.
// Strings are views into the file and live as long as it. Thread-safe to read.
// A getter fails with kNotFound (no such key) or kCorrupt (value of another type), in one sentence with file and key;
// with a fallback, a missing key yields it and only a wrong type fails.
class GgufFile : public TensorFile {
 public:
  // Errors: those of MappedFile::Open; kCorrupt; kUnsupported (another version, big-endian, split over several files,
  // nested arrays, or any tensor of a type outside base/dtype.h). Cost: one pass over the header.
  static Result<GgufFile> Open(const std::string& path);
  // The same from memory that outlives the GgufFile. name is for messages.
  static Result<GgufFile> Parse(std::span<const std::byte> bytes, std::string name);

  uint32_t version() const { return version_; }
  uint64_t alignment_bytes() const { return alignment_bytes_; }
  const std::map<std::string_view, GgufValue>& metadata() const { return metadata_; }
  const GgufValue* FindValue(std::string_view key) const;  // null when missing

  Result<int64_t> GetInt(std::string_view key) const;
  Result<int64_t> GetInt(std::string_view key, int64_t fallback) const;
  Result<double> GetFloat(std::string_view key) const;  // integers too
  Result<double> GetFloat(std::string_view key, double fallback) const;
  Result<bool> GetBool(std::string_view key) const;
  Result<bool> GetBool(std::string_view key, bool fallback) const;
  Result<std::string_view> GetString(std::string_view key) const;
  Result<std::string_view> GetString(std::string_view key, std::string_view fallback) const;
  // A scalar reads as one element: fields that may differ per layer are written either way.
  Result<std::vector<int64_t>> GetInts(std::string_view key) const;                  // integers and bools
  Result<std::vector<float>> GetFloats(std::string_view key) const;                  // numbers
  Result<std::span<const std::string_view>> GetStrings(std::string_view key) const;  // arrays only

 private:
  friend class GgufParser;
  using TensorFile::TensorFile;

  uint32_t version_ = 0;
  uint64_t alignment_bytes_ = 32;
  std::map<std::string_view, GgufValue> metadata_;
};

}  // namespace cachette
