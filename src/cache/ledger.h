#pragma once
// The honest account of a sequence's KV cache: what was written, what was evicted, when, and what that cost.
//
// Time is the token axis (one step per token, prompt included). Writing token j is a birth at step j; an eviction has a
// death step: the first step whose attention no longer sees the entry. Then, over one stream or a whole sequence,
//   area    = sum over entries of (death - birth), survivors dying at T = number of tokens
//   live(t) = entries with birth <= t < death,  peak = max over t
// Both are kept as running integers; no list of entries is needed. Source: arXiv:2506.17121, section 3 (KV footprint).
// Bytes follow the same steps: byte area = sum over steps of the bytes held, metadata included, for each tier.

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cache/tier.h"

namespace cachette {

// Of one entry at one step, in this order.
enum class LedgerEvent : uint8_t { kAppend, kRewrite, kOffload, kEvict, kTransient, kMetadata };
const char* LedgerEventName(LedgerEvent event);

// Did the attention of the pass under way still read the evicted entries? It decides the step they die at. The same
// for entries rewritten or offloaded: did it read the old bytes?
enum class EvictTime : uint8_t {
  kBeforeAttention,  // no: they die at the pass's first token
  kAfterAttention,   // yes: they die at the token after the pass and count in the pass's peak
};

// One line of the full list: entries of one stream with consecutive positions, equal sizes and an equal fate; or a
// figure of a whole pass (stream -1).
struct LedgerLine {
  LedgerEvent event;
  int32_t stream;          // layer * num_kv_heads + kv_head
  int64_t first_position;  // of the first entry
  int64_t num_entries;     // kTransient: the most of them at once
  // kAppend: birth of the first entry, the others follow; kEvict, kRewrite, kOffload: of all; kTransient: last token of
  // the pass;
  // kMetadata: the first one to hold this many bytes.
  int64_t step;
  int64_t bytes;                    // of all; kRewrite: from step on
  int64_t old_bytes = 0;            // kRewrite: before
  TierKind tier = TierKind::kHost;  // kOffload: where to; kMetadata: where
};

class Ledger {
 public:
  // tier: where the sequence's entries and metadata are.
  explicit Ledger(int num_streams, TierKind tier = TierKind::kHost)
      : live_(static_cast<size_t>(num_streams)), tier_(tier) {}

  // The full list is a debug option: off, an event costs a few additions. On, lines that continue the last one of their
  // stream and event extend it.
  void set_recording(bool is_recording);

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
  // The entries live on in other bytes: old_bytes of all of them become new_bytes at the step where an eviction at this
  // time would kill them, and with the same restriction. Each takes a whole number of bytes, the same for all of them.
  // Entries, area and peak are as before.
  void Rewrite(int stream, int64_t first_position, int64_t num_entries, int64_t old_bytes, int64_t new_bytes,
               EvictTime time = EvictTime::kBeforeAttention);
  // The entries move to another tier, at the step where an eviction at this time would kill them. They live on there:
  // entries, area and peak are as before.
  void Offload(int stream, int64_t first_position, int64_t num_entries, int64_t entry_bytes, TierKind to,
               EvictTime time = EvictTime::kBeforeAttention);
  // num_entries more (negative: fewer) entries, of whichever streams, that only help the pass under way: patch queries,
  // probes, rejected drafts. They have no step of their own and are gone before EndPass. Only in a pass that writes
  // tokens.
  void Transient(int64_t num_entries);
  // What the sequence holds in its tier besides its entries from now on: score slots, digests, indexes, copies of
  // entries that live elsewhere. A pass is charged the most that it held, at all of its steps.
  void SetMetadataBytes(int64_t num_bytes) { SetMetadataBytes(tier_, num_bytes); }
  void SetMetadataBytes(TierKind tier, int64_t num_bytes);

  int num_streams() const { return static_cast<int>(live_.size()); }
  int64_t num_tokens() const { return num_tokens_; }  // T so far
  int64_t live_entries(int stream) const { return live_[static_cast<size_t>(stream)]; }
  int64_t total_live_entries() const { return total_live_; }
  int64_t live_bytes() const { return Account(tier_).live; }  // of entries
  TierKind tier() const { return tier_; }
  // Entry-steps summed over streams, up to num_tokens().
  int64_t Area() const { return sum_deaths_ + total_live_ * num_tokens_ - sum_births_; }
  // Largest number of entries, summed over streams, at one step of the token axis.
  int64_t PeakEntries() const { return peak_entries_; }
  // Largest sum of a pass's peak and the most transient entries it held at once.
  int64_t TransientPeakEntries() const { return transient_peak_entries_; }
  // Byte-steps in a tier up to num_tokens(), and the most bytes held there at one step.
  int64_t ByteArea(TierKind tier) const;
  int64_t PeakBytes(TierKind tier) const { return Account(tier).peak; }
  // The same over all tiers; a copy in two tiers counts in both.
  int64_t ByteArea() const;
  int64_t PeakBytes() const { return peak_bytes_; }

  // Area and peaks over those of the full cache: tri(T) and T per stream. 0 tokens: 0.
  double Footprint() const;
  double Peak() const;
  double TransientPeak() const;
  // The same of bytes, beside a full cache whose entries take full_entry_bytes (2 x head_dim x 2 in 16 bit).
  double ByteFootprint(TierKind tier, int64_t full_entry_bytes) const;
  double BytePeak(TierKind tier, int64_t full_entry_bytes) const;
  double ByteFootprint(int64_t full_entry_bytes) const;
  double BytePeak(int64_t full_entry_bytes) const;
  // In order for each stream and event; an eviction may stand before a rewrite of the same step.
  const std::vector<LedgerLine>& lines() const { return lines_; }

 private:
  // What one tier holds, in bytes.
  struct ByteAccount {
    int64_t live = 0;  // of entries
    int64_t sum_births = 0;
    int64_t sum_deaths = 0;
    // Less after this pass, which has read them: evicted, gone to another tier, or more than what replaced them.
    int64_t read_in_pass = 0;
    int64_t metadata = 0;
    int64_t pass_metadata = 0;  // the most in the pass under way
    int64_t metadata_area = 0;  // of finished passes
    int64_t recorded_metadata = 0;
    int64_t peak = 0;
  };
  static constexpr size_t kNumTiers = static_cast<size_t>(TierKind::kDisk) + 1;

  ByteAccount& Account(TierKind tier) { return accounts_[static_cast<size_t>(tier)]; }
  const ByteAccount& Account(TierKind tier) const { return accounts_[static_cast<size_t>(tier)]; }
  int64_t StepOf(EvictTime time) const { return time == EvictTime::kAfterAttention ? num_tokens_ : pass_begin_; }
  double OverFullPeak(int64_t peak, int64_t full_entry = 1) const;
  double OverFullArea(int64_t byte_area, int64_t full_entry_bytes) const;
  void ChargePass();
  void Record(const LedgerLine& line);

  std::vector<int64_t> live_;  // [num_streams]
  TierKind tier_;
  std::array<ByteAccount, kNumTiers> accounts_{};
  int64_t peak_bytes_ = 0;  // over all accounts at once
  int64_t total_live_ = 0;
  int64_t sum_births_ = 0;
  int64_t sum_deaths_ = 0;
  int64_t peak_entries_ = 0;
  int64_t transient_peak_entries_ = 0;
  int64_t num_tokens_ = 0;
  int64_t pass_begin_ = 0;          // first token of the pass under way; num_tokens_ between passes
  int64_t evicted_after_read_ = 0;  // entries evicted in this pass that its attention has read
  int64_t transient_ = 0;
  int64_t pass_transient_ = 0;  // the most in the pass under way
  bool is_recording_ = false;
  std::vector<LedgerLine> lines_;
  // Per stream, the last line of each event that has a stream; -1: none. Empty unless recording.
  std::vector<std::array<int64_t, 4>> last_lines_;
};

// Sum of 1..k: the full cache's entry-steps of one stream.
inline int64_t Triangle(int64_t k) { return k * (k + 1) / 2; }

}  // namespace cachette
