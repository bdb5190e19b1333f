#include "cache/ledger.h"

#include <algorithm>

#include "base/result.h"

namespace cachette {

const char* LedgerEventName(LedgerEvent event) {
  switch (event) {
    case LedgerEvent::kAppend: return "append";
    case LedgerEvent::kEvict: return "evict";
    case LedgerEvent::kRewrite: return "rewrite";
    case LedgerEvent::kOffload: return "offload";
    case LedgerEvent::kTransient: return "transient";
    case LedgerEvent::kMetadata: return "metadata";
  }
  return "unknown";
}

void Ledger::set_recording(bool is_recording) {
  is_recording_ = is_recording;
  last_lines_.assign(is_recording ? live_.size() : 0, {-1, -1, -1, -1});
}

void Ledger::BeginPass(int64_t first_token, int64_t num_tokens) {
  CACHETTE_CHECK(first_token == num_tokens_ && num_tokens >= 0);
  pass_begin_ = first_token;
  num_tokens_ = first_token + num_tokens;
  for (ByteAccount& account : accounts_) account.pass_metadata = account.metadata;
}

void Ledger::EndPass() {
  CACHETTE_CHECK(transient_ == 0);
  if (num_tokens_ > pass_begin_) ChargePass();
  evicted_after_read_ = 0;
  pass_transient_ = 0;
  pass_begin_ = num_tokens_;
}

// The pass's last token sees the most: all that the pass wrote, and all that it evicted only after reading.
void Ledger::ChargePass() {
  const int64_t pass_peak = total_live_ + evicted_after_read_;
  peak_entries_ = std::max(peak_entries_, pass_peak);
  transient_peak_entries_ = std::max(transient_peak_entries_, pass_peak + pass_transient_);
  int64_t pass_bytes = 0;
  for (ByteAccount& account : accounts_) {
    const int64_t held = account.live + account.read_in_pass + account.pass_metadata;
    account.peak = std::max(account.peak, held);
    account.metadata_area += (num_tokens_ - pass_begin_) * account.pass_metadata;
    account.read_in_pass = 0;
    pass_bytes += held;
  }
  peak_bytes_ = std::max(peak_bytes_, pass_bytes);
  if (!is_recording_) return;
  if (pass_transient_ > 0) lines_.push_back({LedgerEvent::kTransient, -1, 0, pass_transient_, num_tokens_ - 1, 0});
  for (size_t i = 0; i < accounts_.size(); ++i) {
    ByteAccount& account = accounts_[i];
    if (account.pass_metadata == account.recorded_metadata) continue;
    account.recorded_metadata = account.pass_metadata;
    lines_.push_back(
        {LedgerEvent::kMetadata, -1, 0, 0, pass_begin_, account.pass_metadata, 0, static_cast<TierKind>(i)});
  }
}

void Ledger::Append(int stream, int64_t first_position, int64_t num_entries, int64_t entry_bytes) {
  live_[static_cast<size_t>(stream)] += num_entries;
  total_live_ += num_entries;
  const int64_t births = num_entries * first_position + Triangle(num_entries - 1);
  sum_births_ += births;
  ByteAccount& account = Account(tier_);
  account.live += num_entries * entry_bytes;
  account.sum_births += births * entry_bytes;
  if (is_recording_)
    Record({LedgerEvent::kAppend, stream, first_position, num_entries, first_position, num_entries * entry_bytes});
}

void Ledger::Evict(int stream, int64_t first_position, int64_t num_entries, int64_t entry_bytes, EvictTime time) {
  int64_t& live = live_[static_cast<size_t>(stream)];
  const int64_t death = StepOf(time);
  CACHETTE_CHECK(live >= num_entries && first_position + num_entries - 1 <= death);
  const int64_t bytes = num_entries * entry_bytes;
  ByteAccount& account = Account(tier_);
  if (death > pass_begin_) {
    evicted_after_read_ += num_entries;
    account.read_in_pass += bytes;
  }
  live -= num_entries;
  total_live_ -= num_entries;
  sum_deaths_ += num_entries * death;
  account.live -= bytes;
  account.sum_deaths += bytes * death;
  if (is_recording_) Record({LedgerEvent::kEvict, stream, first_position, num_entries, death, bytes});
}

void Ledger::Rewrite(int stream, int64_t first_position, int64_t num_entries, int64_t old_bytes, int64_t new_bytes,
                     EvictTime time) {
  const int64_t step = StepOf(time);
  CACHETTE_CHECK(live_[static_cast<size_t>(stream)] >= num_entries && first_position + num_entries - 1 <= step);
  CACHETTE_CHECK(num_entries == 0 || (old_bytes % num_entries == 0 && new_bytes % num_entries == 0));
  ByteAccount& account = Account(tier_);
  if (step > pass_begin_) account.read_in_pass += old_bytes - new_bytes;
  account.live += new_bytes - old_bytes;
  account.sum_deaths += old_bytes * step;
  account.sum_births += new_bytes * step;
  if (is_recording_) Record({LedgerEvent::kRewrite, stream, first_position, num_entries, step, new_bytes, old_bytes});
}

void Ledger::Offload(int stream, int64_t first_position, int64_t num_entries, int64_t entry_bytes, TierKind to,
                     EvictTime time) {
  const int64_t step = StepOf(time);
  CACHETTE_CHECK(to != tier_ && live_[static_cast<size_t>(stream)] >= num_entries &&
                 first_position + num_entries - 1 <= step);
  const int64_t bytes = num_entries * entry_bytes;
  ByteAccount& from = Account(tier_);
  ByteAccount& into = Account(to);
  if (step > pass_begin_) {  // this pass's peak has them where they were
    from.read_in_pass += bytes;
    into.read_in_pass -= bytes;
  }
  from.live -= bytes;
  from.sum_deaths += bytes * step;
  into.live += bytes;
  into.sum_births += bytes * step;
  if (is_recording_) Record({LedgerEvent::kOffload, stream, first_position, num_entries, step, bytes, 0, to});
}

void Ledger::Transient(int64_t num_entries) {
  transient_ += num_entries;
  CACHETTE_CHECK(transient_ >= 0 && num_tokens_ > pass_begin_);
  pass_transient_ = std::max(pass_transient_, transient_);
}

void Ledger::SetMetadataBytes(TierKind tier, int64_t num_bytes) {
  ByteAccount& account = Account(tier);
  account.metadata = num_bytes;
  account.pass_metadata = std::max(account.pass_metadata, num_bytes);  // between passes: BeginPass starts anew
}

int64_t Ledger::ByteArea(TierKind tier) const {
  const ByteAccount& account = Account(tier);
  return account.sum_deaths + account.live * num_tokens_ - account.sum_births + account.metadata_area +
         (num_tokens_ - pass_begin_) * account.pass_metadata;
}

double Ledger::Footprint() const {
  const double full = static_cast<double>(Triangle(num_tokens_)) * num_streams();
  return full > 0 ? static_cast<double>(Area()) / full : 0.0;
}

double Ledger::Peak() const { return OverFullPeak(peak_entries_); }
double Ledger::TransientPeak() const { return OverFullPeak(transient_peak_entries_); }

double Ledger::OverFullPeak(int64_t peak, int64_t full_entry) const {
  const double full = static_cast<double>(full_entry) * static_cast<double>(num_tokens_) * num_streams();
  return full > 0 ? static_cast<double>(peak) / full : 0.0;
}

int64_t Ledger::ByteArea() const {
  int64_t area = 0;
  for (size_t i = 0; i < kNumTiers; ++i) area += ByteArea(static_cast<TierKind>(i));
  return area;
}

double Ledger::OverFullArea(int64_t byte_area, int64_t full_entry_bytes) const {
  const double full =
      static_cast<double>(full_entry_bytes) * static_cast<double>(Triangle(num_tokens_)) * num_streams();
  return full > 0 ? static_cast<double>(byte_area) / full : 0.0;
}

double Ledger::ByteFootprint(TierKind tier, int64_t full_entry_bytes) const {
  return OverFullArea(ByteArea(tier), full_entry_bytes);
}
double Ledger::ByteFootprint(int64_t full_entry_bytes) const { return OverFullArea(ByteArea(), full_entry_bytes); }

double Ledger::BytePeak(TierKind tier, int64_t full_entry_bytes) const {
  return OverFullPeak(PeakBytes(tier), full_entry_bytes);
}
double Ledger::BytePeak(int64_t full_entry_bytes) const { return OverFullPeak(PeakBytes(), full_entry_bytes); }

void Ledger::Record(const LedgerLine& line) {
  if (line.num_entries == 0) return;
  int64_t& last_idx = last_lines_[static_cast<size_t>(line.stream)][static_cast<size_t>(line.event)];
  if (last_idx >= 0) {
    LedgerLine& last = lines_[static_cast<size_t>(last_idx)];
    const bool is_next = line.first_position == last.first_position + last.num_entries;
    const bool has_its_step = line.event == LedgerEvent::kAppend || line.step == last.step;
    const bool has_its_size = line.bytes * last.num_entries == last.bytes * line.num_entries &&
                              line.old_bytes * last.num_entries == last.old_bytes * line.num_entries;
    if (is_next && has_its_step && has_its_size && line.tier == last.tier) {
      last.num_entries += line.num_entries;
      last.bytes += line.bytes;
      last.old_bytes += line.old_bytes;
      return;
    }
  }
  last_idx = static_cast<int64_t>(lines_.size());
  lines_.push_back(line);
}

}  // namespace cachette
