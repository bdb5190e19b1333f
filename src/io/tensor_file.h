#pragma once
// What GGUF and safetensors files have in common: named tensors over bytes that are mapped, not read.

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/result.h"
#include "io/mapped_file.h"

namespace cachette {

// One tensor: row-major, rows of shape.back() elements in RowBytes(dtype, shape.back()) bytes each, no gaps.
struct TensorInfo {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;        // slowest first; empty for a scalar (safetensors only)
  std::span<const std::byte> bytes;  // in the file. GGUF: at least 8-byte aligned in a mapped file; safetensors: where
                                     // its writer put it, so read with Dequantize or memcpy, never through a float*
  int64_t num_elements() const;      // 1 for a scalar
  int64_t num_bytes() const;         // of dtype and shape: bytes.size() where bytes are at hand
};

// Bytes of a tensor of that shape (dimensions >= 0); nothing when they do not fit 63 bits or when the last dimension
// is not a multiple of the dtype's block.
std::optional<uint64_t> TensorBytes(Dtype dtype, std::span<const int64_t> shape);

// The tensors of one model or adapter, in one file or several. Movable; spans stay valid when moved and die with it.
class TensorFile {
 public:
  const std::string& name() const { return name_; }                    // its path, for messages
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // in file order

  const TensorInfo* Find(std::string_view tensor_name) const;  // null when missing or of an unsupported dtype
  // Errors: kNotFound (with the nearest name), kUnsupported (safetensors tensor of a dtype outside base/dtype.h).
  Result<const TensorInfo*> Get(std::string_view tensor_name) const;

  // See MappedFile. No effect on tensors that were parsed from memory.
  void WillNeed(const TensorInfo& tensor) const;
  void Drop(const TensorInfo& tensor) const;

 protected:
  explicit TensorFile(std::string name) : name_(std::move(name)) {}
  // The file a message is about: name() or one of its shards.
  Result<void> AddTensor(TensorInfo tensor);  // kCorrupt when the name is taken
  Result<void> AddUnsupported(std::string tensor_name, std::string dtype_name);
  const MappedFile* MappingOf(const TensorInfo& tensor) const;
  bool Contains(std::string_view tensor_name) const;

  std::string name_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, size_t, std::less<>> index_;             // name -> place in tensors_
  std::map<std::string, std::string, std::less<>> unsupported_;  // name -> dtype as the file calls it
  std::vector<MappedFile> mappings_;                             // empty when parsed from memory
};

// "f32, f16, ...": the dtypes that base/dtype.h knows.
std::string SupportedDtypes();

}  // namespace cachette
