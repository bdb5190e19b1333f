#pragma once
// How one source becomes one kernel per instruction set.
//
// A file <op>_simd.cc is compiled once per Isa (cmake/SimdSources.cmake) with CACHETTE_ISA set to avx2, avx512,
// avx512vnni or avx512bf16. It defines its functions in namespace cachette::CACHETTE_ISA::..., includes nothing with
// inline functions of external linkage beyond <immintrin.h> and plain structs (a std::vector method compiled here for
// AVX-512 could be the copy that the linker keeps for every machine), and the op's dispatch file picks a copy once
// per call from a table indexed by Isa.

#if defined(CACHETTE_ISA_avx512bf16)
#define CACHETTE_HAS_BF16 1
#endif
#if defined(CACHETTE_ISA_avx512bf16) || defined(CACHETTE_ISA_avx512vnni)
#define CACHETTE_HAS_VNNI 1
#endif
#if defined(CACHETTE_ISA_avx512bf16) || defined(CACHETTE_ISA_avx512vnni) || defined(CACHETTE_ISA_avx512)
#define CACHETTE_HAS_AVX512 1
#endif
