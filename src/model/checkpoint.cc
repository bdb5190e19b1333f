#include "model/checkpoint.h"

#include <fmt/format.h>

namespace cachette {

Result<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& path) {
  if (path.starts_with("synthetic:")) return OpenSyntheticCheckpoint(path);
  if (path.ends_with(".gguf")) return OpenGgufCheckpoint(path);
  return OpenSafetensorsCheckpoint(path);
}

Result<const TensorInfo*> Checkpoint::Get(std::string_view name) const {
  const TensorInfo* tensor = Find(name);
  if (tensor == nullptr) return Fail(Error::kNotFound, fmt::format("{} has no tensor {}", path_, name));
  return tensor;
}

int64_t Checkpoint::total_bytes() const {
  int64_t sum = 0;
  for (const TensorInfo* tensor : Tensors()) sum += tensor->num_bytes();
  return sum;
}

}  // namespace cachette
