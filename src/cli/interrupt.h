#pragma once

#include <atomic>

namespace cachette::cli {

// From now on the first Ctrl-C sets the returned flag (cleared here) and the second one ends the program.
const std::atomic<bool>& WatchInterrupt();

}  // namespace cachette::cli
