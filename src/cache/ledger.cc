#include "cache/ledger.h"

#include <algorithm>

#include "base/result.h"

namespace cachette {

const char* LedgerEventName(LedgerEvent event) {
  switch (event) {
    case LedgerEvent::kAppend: return "append";
    case LedgerEvent::kEvict: return "evict";
  }
  return "unknown";
}

void Ledger::BeginPass(int64_t first_token, int64_t num_tokens) {
  CACHETTE_CHECK(first_token == num_tokens_ && num_tokens >= 0);
  pass_begin_ = first_token;
  num_tokens_ = first_token + num_tokens;
}

void Ledger::EndPass() {
  // The pass's last token sees the most: all that the pass wrote, and all that it evicted only after reading.
  peak_entries_ = std::max(peak_entries_, total_live_ + evicted_after_read_);
  evicted_after_read_ = 0;
  pass_begin_ = num_tokens_;
}

void Ledger::Append(int stream, int64_t first_position, int64_t num_entries, int64_t entry_bytes) {
  live_[static_cast<size_t>(stream)] += num_entries;
  total_live_ += num_entries;
  live_bytes_ += num_entries * entry_bytes;
  sum_births_ += num_entries * first_position + Triangle(num_entries - 1);
  if (is_recording_)
    lines_.push_back(
        {LedgerEvent::kAppend, stream, first_position, num_entries, first_position, num_entries * entry_bytes});
}

void Ledger::Evict(int stream, int64_t first_position, int64_t num_entries, int64_t entry_bytes, EvictTime time) {
  int64_t& live = live_[static_cast<size_t>(stream)];
  const int64_t death = time == EvictTime::kAfterAttention ? num_tokens_ : pass_begin_;
  CACHETTE_CHECK(live >= num_entries && first_position + num_entries - 1 <= death);
  if (death > pass_begin_) evicted_after_read_ += num_entries;
  live -= num_entries;
  total_live_ -= num_entries;
  live_bytes_ -= num_entries * entry_bytes;
  sum_deaths_ += num_entries * death;
  if (is_recording_)
    lines_.push_back({LedgerEvent::kEvict, stream, first_position, num_entries, death, num_entries * entry_bytes});
}

double Ledger::Footprint() const {
  const double full = static_cast<double>(Triangle(num_tokens_)) * num_streams();
  return full > 0 ? static_cast<double>(Area()) / full : 0.0;
}

double Ledger::Peak() const {
  const double full = static_cast<double>(num_tokens_) * num_streams();
  return full > 0 ? static_cast<double>(PeakEntries()) / full : 0.0;
}

}  // namespace cachette
