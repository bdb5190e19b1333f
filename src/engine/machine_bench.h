#pragma once
// What this machine can do, for rooflines: how fast it reads memory, how fast the GEMM library multiplies.

#include <cstdint>
#include <optional>
#include <string>

#include "engine/machine.h"

namespace cachette {

struct MachineBench {
  Machine machine;
  int threads = 1;
  int64_t read_bytes = 0;                      // size of the buffer that was read
  double read_gbps = 0.0;                      // 1e9 bytes/s, all threads, best pass
  int64_t gemm_m = 0, gemm_n = 0, gemm_k = 0;  // per thread: y [m][n] = x [m][k] . w [k][n]
  double gemm_f32_gflops = 0.0;                // all threads together, best pass
  std::optional<double> gemm_bf16_gflops;      // absent where the CPU has no bf16 arithmetic
};

// Takes about two seconds and a buffer far beyond the caches (less on a machine with little free memory).
MachineBench MeasureMachine(int threads);

}  // namespace cachette
