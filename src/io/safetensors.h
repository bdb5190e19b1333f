#pragma once
// safetensors: one file, or several behind a model.safetensors.index.json. Format: github.com/huggingface/safetensors.

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "io/tensor_file.h"

namespace cachette {

// Tensors of dtype F32, F16 and BF16. Others (index buffers and the like, which a model may carry and not need) are
// checked like the rest but fail only when Get asks for them. As the format demands, the tensors of a file cover its
// data exactly: overlaps, gaps, bytes after the last tensor and repeated JSON keys are kCorrupt.
class SafetensorsFile : public TensorFile {
 public:
  // path: a .safetensors file, or an index (.json) whose weight_map names files in the same folder; of those, only the
  // listed tensors are taken. Errors: those of MappedFile::Open; kCorrupt.
  static Result<SafetensorsFile> Open(const std::string& path);
  // One file from memory that outlives the SafetensorsFile. name is for messages.
  static Result<SafetensorsFile> Parse(std::span<const std::byte> bytes, std::string name);

  const std::map<std::string, std::string>& metadata() const { return metadata_; }  // of the header, or empty

 private:
  friend class SafetensorsParser;
  using TensorFile::TensorFile;
  static Result<SafetensorsFile> OpenOne(const std::string& path);
  static Result<SafetensorsFile> OpenIndex(const std::string& path);
  Result<void> Take(const SafetensorsFile& shard, const std::string& tensor_name);

  std::map<std::string, std::string> metadata_;
};

// Collects tensors and writes them as one file. Tensor bytes are referenced: they must outlive the last call.
class SafetensorsWriter {
 public:
  // dtype: kF32, kF16 or kBF16; bytes: row-major, TensorBytes(dtype, shape) of them. Errors: kInvalidArgument.
  Result<void> Add(const std::string& name, Dtype dtype, std::vector<int64_t> shape, std::span<const std::byte> bytes);
  void SetMetadata(const std::string& key, const std::string& value) { metadata_[key] = value; }

  // Tensor data starts 8-byte aligned, wider dtypes first, so every tensor is aligned to its elements.
  std::vector<std::byte> Serialise() const;
  // Replaces path whole or not at all. Errors: kIo.
  Result<void> Write(const std::string& path) const;

 private:
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace cachette
