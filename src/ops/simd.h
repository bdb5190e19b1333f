#pragma once
// How one source becomes one kernel per instruction set.
//
// A file <op>_simd.cc is compiled once per Isa (cmake/SimdSources.cmake) with CACHETTE_ISA set to avx2, avx512,
// avx512vnni or avx512bf16. It defines its functions in namespace cachette::CACHETTE_ISA::..., includes nothing with
// inline functions of external linkage beyond <immintrin.h> and plain structs (a std::vector method compiled here for
// AVX-512 could be the copy that the linker keeps for every machine), and the op's dispatch file picks a copy once
// per call with ForIsa.

#include "tensor/isa.h"

#if defined(CACHETTE_ISA_avx512bf16)
#define CACHETTE_HAS_BF16 1
#endif
#if defined(CACHETTE_ISA_avx512bf16) || defined(CACHETTE_ISA_avx512vnni)
#define CACHETTE_HAS_VNNI 1
#endif
#if defined(CACHETTE_ISA_avx512bf16) || defined(CACHETTE_ISA_avx512vnni) || defined(CACHETTE_ISA_avx512)
#define CACHETTE_HAS_AVX512 1
#endif

#if defined(CACHETTE_ISA)
namespace cachette::CACHETTE_ISA {
#if defined(CACHETTE_HAS_BF16)
constexpr Isa kIsa = Isa::kAvx512Bf16;
#elif defined(CACHETTE_HAS_VNNI)
constexpr Isa kIsa = Isa::kAvx512Vnni;
#elif defined(CACHETTE_HAS_AVX512)
constexpr Isa kIsa = Isa::kAvx512;
#else
constexpr Isa kIsa = Isa::kAvx2;
#endif
}  // namespace cachette::CACHETTE_ISA
#endif

namespace cachette::ops {

// pick.operator()<I>() with the I that isa is; kRef where the SIMD files are not built. The one switch from an Isa
// known at run time to what was compiled for it: an op declares `template <Isa> Kernels KernelsOf();` with one
// specialisation for each level and calls ForIsa(cx.isa(), []<Isa kIsa>() { return KernelsOf<kIsa>(); }).
template <class Pick>
auto ForIsa([[maybe_unused]] Isa isa, const Pick& pick) {
#if defined(CACHETTE_X86)
  switch (isa) {
    case Isa::kRef: break;
    case Isa::kAvx2: return pick.template operator()<Isa::kAvx2>();
    case Isa::kAvx512: return pick.template operator()<Isa::kAvx512>();
    case Isa::kAvx512Vnni: return pick.template operator()<Isa::kAvx512Vnni>();
    case Isa::kAvx512Bf16: return pick.template operator()<Isa::kAvx512Bf16>();
  }
#endif
  return pick.template operator()<Isa::kRef>();
}

}  // namespace cachette::ops
