#include "base/result.h"

#include <cstdio>
#include <cstdlib>

namespace cachette {

const char* ErrorName(Error e) {
  switch (e) {
    case Error::kInvalidArgument: return "invalid argument";
    case Error::kNotFound: return "not found";
    case Error::kCorrupt: return "corrupt file";
    case Error::kUnsupported: return "unsupported";
    case Error::kOutOfMemory: return "out of memory";
    case Error::kUnavailable: return "unavailable";
    case Error::kIo: return "input/output error";
    case Error::kCancelled: return "cancelled";
  }
  return "unknown";
}

void CheckFailed(const char* expression, const char* file, int line) {
  std::fprintf(stderr, "internal error: %s does not hold (%s:%d)\n", expression, file, line);
  std::abort();
}

}  // namespace cachette
