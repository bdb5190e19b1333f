#pragma once
// The list of CPU backends: the scalar reference and one SIMD level per instruction set, chosen at run time.

#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "tensor/isa.h"

namespace cachette {

struct Backend {
  const char* name;  // as in --backend
  const char* description;
  Isa isa;
  bool is_supported;  // by this machine
};

// All backends, slowest first; "ref" is always supported.
std::span<const Backend> AllBackends();

// The best supported backend for "auto", else the named one.
// Errors: kInvalidArgument (unknown name; nearest named), kUnavailable (this CPU lacks it).
Result<Backend> FindBackend(std::string_view name);

// True where the CPU multiplies bf16 matrices natively (AVX512_BF16 or AMX).
bool CpuHasNativeBf16();

}  // namespace cachette
