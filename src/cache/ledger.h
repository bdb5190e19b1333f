#pragma once
// The honest account of a sequence's KV cache: what was written, what was evicted, when, and what that cost.
//
// Time is the token axis (one step per token, prompt included). Writing token j is a birth at step j; an eviction has a
// death step: the first step whose attention no longer sees the entry. Then, over one stream or a whole sequence,
//   area    = sum over entries of (death - birth), survivors dying at T = number of tokens
//   live(t) = entries with birth <= t < death,  peak = max over t
// Both are kept as running integers; no list of entries is needed. Source: arXiv:2506.17121, section 3 (KV footprint).

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cachette {

enum class LedgerEvent : uint8_t { kAppend, kEvict };
const char* LedgerEventName(LedgerEvent event);

// Did the attention of the pass under way still read the evicted entries? It decides the step they die at.
enum class EvictTime : uint8_t {
  kBeforeAttention,  // no: they die at the pass's first token
  kAfterAttention,   // yes: they die at the token after the pass and count in the pass's peak
};

// One line of the full list: entries of one stream with consecutive positions and an equal fate.
struct LedgerLine {
  LedgerEvent event;
  int32_t stream;          // layer * num_kv_heads + kv_head
  int64_t first_position;  // of the first entry
  int64_t num_entries;
  int64_t step;  // kAppend: birth of the first entry; kEvict: death of all
  int64_t bytes;
};

class Ledger {
 public:
  explicit Ledger(int num_streams) : live_(static_cast<size_t>(num_streams)) {}

  // The full list is a debug option: off, a line costs a few additions.
  void set_recording(bool is_recording) { is_recording_ = is_recording; }

  // A pass writes tokens [first_token, first_token + num_tokens). Between passes both EvictTimes mean the same: death
  // at the next pass's first token.
  void BeginPass(int64_t first_token, int64_t num_tokens);
  void EndPass();

  // num_entries entries of the pass, the first at first_position (its own birth step), bytes each.
  void Append(int stream, int64_t first_position, int64_t num_entries, int64_t entry_bytes);
  // num_entries entries with consecutive positions from first_position leave for good. Entries of the pass under way
  // can only leave kAfterAttention, its first one excepted: nothing dies before it is born.
  void Evict(int stream, int64_t first_position, int64_t num_entries, int64_t entry_bytes,
             EvictTime time = EvictTime::kBeforeAttention);

  int num_streams() const { return static_cast<int>(live_.size()); }
  int64_t num_tokens() const { return num_tokens_; }  // T so far
  int64_t live_entries(int stream) const { return live_[static_cast<size_t>(stream)]; }
  int64_t total_live_entries() const { return total_live_; }
  int64_t live_bytes() const { return live_bytes_; }
  // Entry-steps summed over streams, up to num_tokens().
  int64_t Area() const { return sum_deaths_ + total_live_ * num_tokens_ - sum_births_; }
  // Largest number of entries, summed over streams, at one step of the token axis.
  int64_t PeakEntries() const { return peak_entries_; }
  // Area and peak over those of the full cache: tri(T) and T per stream. 0 tokens: 0.
  double Footprint() const;
  double Peak() const;
  const std::vector<LedgerLine>& lines() const { return lines_; }

 private:
  std::vector<int64_t> live_;  // [num_streams]
  int64_t total_live_ = 0;
  int64_t live_bytes_ = 0;
  int64_t sum_births_ = 0;
  int64_t sum_deaths_ = 0;
  int64_t peak_entries_ = 0;
  int64_t num_tokens_ = 0;
  int64_t pass_begin_ = 0;          // first token of the pass under way; num_tokens_ between passes
  int64_t evicted_after_read_ = 0;  // entries evicted in this pass that its attention has read
  bool is_recording_ = false;
  std::vector<LedgerLine> lines_;
};

// Sum of 1..k: the full cache's entry-steps of one stream.
inline int64_t Triangle(int64_t k) { return k * (k + 1) / 2; }

}  // namespace cachette
