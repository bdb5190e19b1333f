#pragma once

#include <cstdint>

namespace cachette {

enum class Phase : uint8_t { kPrefill, kDecode };

// One forward pass of one sequence: a chunk of the prompt, or one token of the output. Transient tokens follow the
// pass's own: they attend like them, but their entries leave each layer again before the next one runs.
struct PassInfo {
  Phase phase = Phase::kPrefill;
  int64_t first_token = 0;  // its position on the token axis
  int64_t num_tokens = 0;
  bool is_last_prefill_chunk = false;
  int64_t num_transient = 0;
};

}  // namespace cachette
