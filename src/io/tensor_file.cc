#include "io/tensor_file.h"

#include <fmt/format.h>

#include <limits>

#include "base/nearest.h"
#include "io/quoted.h"

namespace cachette {

int64_t TensorInfo::num_elements() const {
  int64_t product = 1;
  for (const int64_t dimension : shape) product *= dimension;
  return product;
}

int64_t TensorInfo::num_bytes() const { return static_cast<int64_t>(TensorBytes(dtype, shape).value_or(0)); }

std::optional<uint64_t> TensorBytes(Dtype dtype, std::span<const int64_t> shape) {
  const DtypeInfo& info = InfoOf(dtype);
  const int64_t cols = shape.empty() ? 1 : shape.back();
  if (cols % info.block_elements != 0) return std::nullopt;
  // Elements and bytes must both fit; a zero dimension does not excuse the others, so that no product overflows later.
  int64_t num_elements = 1, num_bytes = 0;
  for (const int64_t dimension : shape) {
    if (dimension != 0 && num_elements > std::numeric_limits<int64_t>::max() / dimension) return std::nullopt;
    num_elements *= dimension == 0 ? 1 : dimension;
  }
  if (__builtin_mul_overflow((num_elements + info.block_elements - 1) / info.block_elements,
                             static_cast<int64_t>(info.block_bytes), &num_bytes))
    return std::nullopt;
  for (const int64_t dimension : shape)
    if (dimension == 0) return 0;
  return static_cast<uint64_t>(num_bytes);
}

const TensorInfo* TensorFile::Find(std::string_view tensor_name) const {
  const auto at = index_.find(tensor_name);
  return at == index_.end() ? nullptr : &tensors_[at->second];
}

Result<const TensorInfo*> TensorFile::Get(std::string_view tensor_name) const {
  if (const TensorInfo* tensor = Find(tensor_name)) return tensor;
  if (const auto at = unsupported_.find(tensor_name); at != unsupported_.end())
    return Fail(Error::kUnsupported, fmt::format("{}: tensor {} is stored as {}; supported are F32, F16 and BF16",
                                                 name_, Quoted(tensor_name), Quoted(at->second)));
  std::vector<std::string> names;
  for (const TensorInfo& tensor : tensors_) names.push_back(tensor.name);
  const std::string nearest = NearestName(tensor_name, names);
  return Fail(Error::kNotFound, fmt::format("{}: has no tensor {}{}", name_, Quoted(tensor_name),
                                            nearest.empty() ? "" : fmt::format("; nearest is {}", Quoted(nearest))));
}

const MappedFile* TensorFile::MappingOf(const TensorInfo& tensor) const {
  for (const MappedFile& mapping : mappings_) {
    const std::span<const std::byte> all = mapping.bytes();
    if (tensor.bytes.data() >= all.data() && tensor.bytes.data() < all.data() + all.size()) return &mapping;
  }
  return nullptr;
}

void TensorFile::WillNeed(const TensorInfo& tensor) const {
  if (const MappedFile* mapping = MappingOf(tensor)) mapping->WillNeed(tensor.bytes);
}

void TensorFile::Drop(const TensorInfo& tensor) const {
  if (const MappedFile* mapping = MappingOf(tensor)) mapping->Drop(tensor.bytes);
}

bool TensorFile::Contains(std::string_view tensor_name) const {
  return index_.contains(tensor_name) || unsupported_.contains(tensor_name);
}

Result<void> TensorFile::AddTensor(TensorInfo tensor) {
  if (Contains(tensor.name))
    return Fail(Error::kCorrupt, fmt::format("{}: holds two tensors named {}", name_, Quoted(tensor.name)));
  index_.emplace(tensor.name, tensors_.size());
  tensors_.push_back(std::move(tensor));
  return Ok();
}

Result<void> TensorFile::AddUnsupported(std::string tensor_name, std::string dtype_name) {
  if (Contains(tensor_name))
    return Fail(Error::kCorrupt, fmt::format("{}: holds two tensors named {}", name_, Quoted(tensor_name)));
  unsupported_.emplace(std::move(tensor_name), std::move(dtype_name));
  return Ok();
}

std::string SupportedDtypes() {
  std::string list;
  for (int i = 0; i < kNumDtypes; ++i)
    list += fmt::format("{}{}", i == 0 ? "" : ", ", InfoOf(static_cast<Dtype>(i)).name);
  return list;
}

}  // namespace cachette
