#include "engine/machine.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include <fstream>
#include <sstream>

#include "engine/version.h"

namespace cachette {
namespace {

// Value of "key ... : value" in a file of such lines, "" when absent.
std::string FieldOf(const char* file_name, const std::string& key) {
  std::ifstream file(file_name);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const size_t first = line.find_first_not_of(" \t", colon + 1);
    return first == std::string::npos ? "" : line.substr(first);
  }
  return "";
}

int64_t KibibytesOf(const std::string& field) { return field.empty() ? 0 : std::stoll(field) * 1024; }

}  // namespace

Machine DescribeMachine() {
  Machine machine;
  machine.cpu = FieldOf("/proc/cpuinfo", "model name");
  utsname names{};
  if (machine.cpu.empty() && uname(&names) == 0) machine.cpu = names.machine;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) machine.available_cores = CPU_COUNT(&set);
  machine.memory_bytes = KibibytesOf(FieldOf("/proc/meminfo", "MemTotal"));
  machine.available_bytes = KibibytesOf(FieldOf("/proc/meminfo", "MemAvailable"));
  return machine;
}

std::string DescribeBuild() {
  return fmt::format("cachette {} ({}, {}, g++ {})", kVersion, kCommit, kBuildType, __VERSION__);
}

int64_t PeakResidentBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace cachette
