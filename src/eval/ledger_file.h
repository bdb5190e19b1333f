#pragma once
// A recorded ledger as a file, and its reduction to the numbers that the running ledger counts.
//
// JSON lines. A header with the shape; then a line for each run of entries with consecutive positions and one fate, and
// for each pass with transient entries or, in a tier, another amount of metadata; a closing line with the totals.
// docs/eval.md has the fields.

#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"
#include "cache/sequence_cache.h"

namespace cachette {

// What a sequence held. Areas and peaks are summed over streams (layer, KV head).
struct MeasuredFootprint {
  // Of one tier.
  struct Bytes {
    TierKind tier = TierKind::kHost;
    int64_t area = 0;
    int64_t peak = 0;
    bool operator==(const Bytes&) const = default;
  };

  int num_layers = 0;
  int num_kv_heads = 0;
  int64_t num_tokens = 0;
  int64_t full_entry_bytes = 0;  // of an entry in 16 bit: what byte figures are compared with
  int64_t area = 0;
  int64_t peak_entries = 0;
  int64_t transient_peak_entries = 0;
  Bytes fast;                 // where entries are born
  std::optional<Bytes> slow;  // of a recipe that offloads
  int64_t peak_bytes = 0;     // in both tiers at one step

  int64_t byte_area() const { return fast.area + (slow ? slow->area : 0); }
  int64_t num_streams() const { return int64_t{num_layers} * num_kv_heads; }
  int64_t area_full() const { return num_streams() * Triangle(num_tokens); }
  // Over the full cache; 0 without a token.
  double footprint() const { return Over(area, area_full()); }
  double peak() const { return Over(peak_entries, num_streams() * num_tokens); }
  double transient_peak() const { return Over(transient_peak_entries, num_streams() * num_tokens); }
  double byte_footprint() const { return Over(byte_area(), area_full(), full_entry_bytes); }
  double byte_peak() const { return Over(peak_bytes, num_streams() * num_tokens, full_entry_bytes); }
  double byte_footprint(const Bytes& tier) const { return Over(tier.area, area_full(), full_entry_bytes); }
  double byte_peak(const Bytes& tier) const { return Over(tier.peak, num_streams() * num_tokens, full_entry_bytes); }
  bool operator==(const MeasuredFootprint&) const = default;

 private:
  static double Over(int64_t part, int64_t whole, int64_t bytes = 1) {
    return whole > 0 ? static_cast<double>(part) / (static_cast<double>(whole) * static_cast<double>(bytes)) : 0.0;
  }
};

// The totals that a cache's ledger has counted.
MeasuredFootprint MeasuredOf(const SequenceCache& cache);

// Writes the ledger of a cache that has recorded from its first token on; replaces path whole or not at all.
// Errors: kIo.
Result<void> WriteLedgerFile(const std::string& path, const SequenceCache& cache);

// The same numbers from the lines alone, entry by entry; they must agree with the totals of the closing line.
// Errors: kNotFound, kIo; kCorrupt with the line (truncated, not of this format, an entry that dies twice or was never
// written, totals that do not follow). Cost: the entries of the ledger, and memory for the tokens of one stream.
Result<MeasuredFootprint> ReduceLedgerFile(const std::string& path);

}  // namespace cachette
