#pragma once

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

}  // namespace cachette
