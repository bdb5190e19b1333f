#pragma once
// The list of CPU backends: the scalar reference and one SIMD level per instruction set, chosen at run time.

#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace cachette {

// Levels are ordered: a machine that has a level has all levels before it. The value indexes kernel tables.
enum class Isa : int {
  kRef = 0,         // scalar, one thread's worth of reading; every op has it
  kAvx2 = 1,        // x86-64-v3: AVX2, FMA, F16C
  kAvx512 = 2,      // x86-64-v4: AVX-512 F, BW, CD, DQ, VL
  kAvx512Vnni = 3,  // + VNNI, VBMI (Ice Lake and later, Zen 4 and later)
  kAvx512Bf16 = 4,  // + BF16 (Cooper Lake with VBMI, Sapphire Rapids, Zen 4 and later)
};
inline constexpr int kNumIsas = 5;

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
