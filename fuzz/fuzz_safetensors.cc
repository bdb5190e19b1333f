#include "fuzz_target.h"
#include "io/safetensors.h"

namespace cachette::fuzz::safetensors {

// What parses must come back the same after being written again.
void Run(std::span<const std::byte> input) {
  const auto file = SafetensorsFile::Parse(input, "fuzz");
  if (!file.ok()) {
    CACHETTE_CHECK(file.failure().error == Error::kCorrupt);
    return;
  }
  SafetensorsWriter writer;
  size_t num_written = 0;
  for (const TensorInfo& tensor : file->tensors()) {
    CACHETTE_CHECK(tensor.bytes.empty() || (tensor.bytes.data() >= input.data() &&
                                            tensor.bytes.data() + tensor.bytes.size() <= input.data() + input.size()));
    if (writer.Add(tensor.name, tensor.dtype, tensor.shape, tensor.bytes).ok()) ++num_written;
  }
  for (const auto& [key, value] : file->metadata()) writer.SetMetadata(key, value);
  const std::vector<std::byte> bytes = writer.Serialise();
  const auto again = SafetensorsFile::Parse(bytes, "again");
  CACHETTE_CHECK(again.ok() && again->tensors().size() == num_written && again->metadata() == file->metadata());
  for (const TensorInfo& tensor : again->tensors()) {
    const TensorInfo* before = file->Find(tensor.name);
    CACHETTE_CHECK(before != nullptr && before->dtype == tensor.dtype && before->shape == tensor.shape);
  }
}

}  // namespace cachette::fuzz::safetensors
