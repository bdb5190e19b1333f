#pragma once
// What this machine can do, for rooflines: how fast it reads memory, how fast the GEMM library multiplies.

#include <cstdint>
#include <string>
#include <vector>

#include "engine/machine.h"

namespace cachette {

// The product that prefill runs in one dtype, operands laid out as there.
struct GemmRate {
  std::string dtype;
  int64_t m = 0, n = 0, k = 0;  // of one call: y [m][n] = x [m][k] . w [k][n]
  double gflops = 0.0;          // 1e9 operations/s, all threads, best pass
};

struct MachineBench {
  Machine machine;
  int threads = 1;
  int64_t read_bytes = 0;       // size of the buffer that was read
  double read_gbps = 0.0;       // 1e9 bytes/s, all threads, best pass
  std::vector<GemmRate> gemms;  // f32, and bf16 where the CPU multiplies it
};

// Takes about two seconds and a buffer far beyond the caches (less on a machine with little free memory).
MachineBench MeasureMachine(int threads);

}  // namespace cachette
