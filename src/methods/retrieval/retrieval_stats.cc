#include "methods/retrieval/retrieval_stats.h"

#include <algorithm>

namespace cachette {
namespace {

using Stats = RetrievalStats;

constexpr int64_t Stats::*kCounts[] = {
    &Stats::num_steps,        &Stats::num_layer_steps,      &Stats::num_retrievals,    &Stats::units_recalled,
    &Stats::entries_recalled, &Stats::bytes_recalled,       &Stats::entries_selected,  &Stats::entries_reused,
    &Stats::units_made,       &Stats::entries_first_filled, &Stats::entries_left_out,  &Stats::oracle_read,
    &Stats::oracle_hits,      &Stats::entries_ahead,        &Stats::entries_ahead_used};
constexpr double Stats::*kSeconds[] = {&Stats::decode_seconds,    &Stats::select_seconds, &Stats::recall_seconds,
                                       &Stats::attention_seconds, &Stats::close_seconds,  &Stats::build_seconds};

double Over(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0.0;
}

}  // namespace

RetrievalStats& RetrievalStats::operator+=(const RetrievalStats& other) {
  num_kv_heads = std::max(num_kv_heads, other.num_kv_heads);
  resident_peak_bytes = std::max(resident_peak_bytes, other.resident_peak_bytes);
  for (const auto count : kCounts) this->*count += other.*count;
  for (const auto seconds : kSeconds) this->*seconds += other.*seconds;
  return *this;
}

RetrievalStats RetrievalStats::Since(const RetrievalStats& earlier) const {
  RetrievalStats out = *this;
  for (const auto count : kCounts) out.*count -= earlier.*count;
  for (const auto seconds : kSeconds) out.*seconds -= earlier.*seconds;
  return out;
}

double RetrievalStats::retrievals_per_token() const { return Over(num_retrievals, num_layer_steps); }
double RetrievalStats::entries_copied_per_token() const {
  return Over(entries_recalled, num_layer_steps * num_kv_heads);
}
double RetrievalStats::entries_copied_after_fill() const {
  return Over(entries_recalled - entries_first_filled, num_layer_steps * num_kv_heads);
}
double RetrievalStats::bytes_recalled_per_token() const { return Over(bytes_recalled, num_steps); }
double RetrievalStats::reuse_share() const { return Over(entries_reused, entries_selected); }
double RetrievalStats::entries_ahead_per_token() const { return Over(entries_ahead, num_layer_steps * num_kv_heads); }
double RetrievalStats::ahead_hit_rate() const { return Over(entries_ahead_used, entries_ahead); }
double RetrievalStats::oracle_hit_rate() const { return Over(oracle_hits, oracle_read); }

}  // namespace cachette
