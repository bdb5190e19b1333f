#include <string_view>

#include "fuzz_target.h"
#include "io/gguf.h"

namespace cachette::fuzz::gguf {

bool IsWithin(std::span<const std::byte> inner, std::span<const std::byte> outer) {
  return inner.data() >= outer.data() && inner.data() + inner.size() <= outer.data() + outer.size();
}

void Run(std::span<const std::byte> input) {
  const auto file = GgufFile::Parse(input, "fuzz");
  if (!file.ok()) {
    CACHETTE_CHECK(file.failure().error == Error::kCorrupt || file.failure().error == Error::kUnsupported);
    return;
  }
  for (const TensorInfo& tensor : file->tensors()) {
    CACHETTE_CHECK(IsWithin(tensor.bytes, input));
    CACHETTE_CHECK(tensor.bytes.size() == TensorBytes(tensor.dtype, tensor.shape));
    CACHETTE_CHECK(file->Find(tensor.name) == &tensor);
  }
  for (const auto& [key, value] : file->metadata()) {
    CACHETTE_CHECK(IsWithin(std::as_bytes(std::span(key)), input));
    // Every getter either converts or refuses; both walk the whole value.
    (void)file->GetInts(key);
    (void)file->GetFloats(key);
    (void)file->GetBool(key);
    (void)file->GetString(key);
    if (const auto strings = file->GetStrings(key); strings.ok())
      for (const std::string_view text : *strings)
        CACHETTE_CHECK(text.empty() || IsWithin(std::as_bytes(std::span(text)), input));
    (void)Describe(value);
  }
}

}  // namespace cachette::fuzz::gguf
