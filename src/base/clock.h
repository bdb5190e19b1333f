#pragma once
// The clock of every measured duration.

#include <chrono>

namespace cachette {

using Clock = std::chrono::steady_clock;

inline double SecondsBetween(Clock::time_point a, Clock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}
inline double SecondsSince(Clock::time_point start) { return SecondsBetween(start, Clock::now()); }

}  // namespace cachette
