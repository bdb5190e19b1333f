#pragma once

#include <cstdint>
#include <string>

namespace cachette {

// The machine this process runs on, as far as it may use it.
struct Machine {
  std::string cpu;          // model name, or the architecture
  int available_cores = 1;  // by affinity
  int64_t memory_bytes = 0;
  int64_t available_bytes = 0;  // now
};
Machine DescribeMachine();

// What this program was built from and with, one line.
std::string DescribeBuild();

// Largest resident memory of this process so far.
int64_t PeakResidentBytes();

}  // namespace cachette
