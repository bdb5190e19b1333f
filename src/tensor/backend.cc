#include "tensor/backend.h"

#include <array>
#include <string>
#include <vector>

#include "base/nearest.h"

namespace cachette {
namespace {

bool Supports(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kRef: return true;
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    case Isa::kAvx512:
      return Supports(Isa::kAvx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
    case Isa::kAvx512Vnni:
      return Supports(Isa::kAvx512) && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
    case Isa::kAvx512Bf16: return Supports(Isa::kAvx512Vnni) && __builtin_cpu_supports("avx512bf16");
  }
#endif
  return isa == Isa::kRef;
}

const std::array<Backend, kNumIsas>& Table() {
  static const std::array<Backend, kNumIsas> table = [] {
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    return std::array<Backend, kNumIsas>{{
        {"ref", "scalar reference, the definition of every op", Isa::kRef, true},
        {"avx2", "AVX2, FMA, F16C", Isa::kAvx2, Supports(Isa::kAvx2)},
        {"avx512", "AVX-512 F/BW/CD/DQ/VL", Isa::kAvx512, Supports(Isa::kAvx512)},
        {"avx512vnni", "AVX-512 with VNNI and VBMI", Isa::kAvx512Vnni, Supports(Isa::kAvx512Vnni)},
        {"avx512bf16", "AVX-512 with VNNI, VBMI and BF16", Isa::kAvx512Bf16, Supports(Isa::kAvx512Bf16)},
    }};
  }();
  return table;
}

}  // namespace

std::span<const Backend> AllBackends() { return Table(); }

Result<Backend> FindBackend(std::string_view name) {
  std::vector<std::string> names = {"auto"};
  const Backend* best = nullptr;
  for (const Backend& backend : Table()) {
    if (backend.is_supported) best = &backend;
    if (name == backend.name) {
      if (backend.is_supported) return backend;
      return Fail(Error::kUnavailable, "backend " + std::string(name) + " needs " + backend.description +
                                           ", which this CPU lacks; use --backend=auto");
    }
    names.emplace_back(backend.name);
  }
  if (name == "auto") return *best;
  const std::string nearest = NearestName(name, names);
  std::string list;
  for (const std::string& n : names) list += (list.empty() ? "" : ", ") + n;
  return Fail(Error::kInvalidArgument, "unknown backend '" + std::string(name) + "'" +
                                           (nearest.empty() ? "" : "; did you mean '" + nearest + "'?") + " (one of " +
                                           list + ")");
}

bool CpuHasNativeBf16() { return Table()[static_cast<size_t>(Isa::kAvx512Bf16)].is_supported; }

}  // namespace cachette
