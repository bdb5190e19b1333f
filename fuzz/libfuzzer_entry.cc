// libFuzzer's entry point, compiled once per target with CACHETTE_FUZZ_TARGET naming its namespace.
#include <cstdint>

#include "fuzz_target.h"

namespace cachette::fuzz::CACHETTE_FUZZ_TARGET {
void Run(std::span<const std::byte> input);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes) {
  cachette::fuzz::CACHETTE_FUZZ_TARGET::Run(std::as_bytes(std::span(data, num_bytes)));
  return 0;
}
