#pragma once
// What retrieval did and what it cost, as sums, and the figures that follow from them.

#include <cstdint>

namespace cachette {

// Sums over layers (those that retrieve) and decode steps.
struct RetrievalStats {
  int64_t num_kv_heads = 0;          // of the model
  int64_t num_steps = 0;             // decode steps
  int64_t num_layer_steps = 0;       // of layers that had units to choose from
  int64_t num_retrievals = 0;        // layer-steps at which the trigger fired
  int64_t units_recalled = 0;        // over KV heads, guesses not counted
  int64_t entries_recalled = 0;      // over KV heads, guesses included
  int64_t entries_first_filled = 0;  // of them, by the first retrieval after a prompt, into an empty pool
  int64_t bytes_recalled = 0;        // guesses included
  int64_t entries_selected = 0;      // by retrievals, over KV heads
  int64_t entries_reused = 0;        // of them, already resident
  int64_t entries_ahead = 0;         // of entries_recalled, those read ahead for a rehearsal
  int64_t entries_ahead_used = 0;    // of them, those that the layer's retrieval then chose
  int64_t entries_left_out = 0;      // chosen, but the fast tier had no room for their blocks
  int64_t oracle_read = 0;           // OracleHits::num_read, where the recipe asks for them
  int64_t oracle_hits = 0;           // num_hits
  int64_t units_made = 0;            // over layers and KV heads
  int64_t resident_peak_bytes = 0;   // of units, guesses included
  double decode_seconds = 0;         // of decode passes, whole; a shared pass counts for each of its sequences
  double select_seconds = 0;         // trigger, scores, choice, view
  double recall_seconds = 0;         // waiting for the slow tier
  double attention_seconds = 0;      // of the layers that retrieve
  double close_seconds = 0;          // output entries becoming units
  double build_seconds = 0;          // prompt entries becoming units, in prefill

  // Another sequence's; of the peaks the larger one.
  RetrievalStats& operator+=(const RetrievalStats& other);
  // What was added since an earlier state of the same sequence, or of the one it was forked from; the peak of all.
  RetrievalStats Since(const RetrievalStats& earlier) const;

  // Per decode step and layer that had units to choose from.
  double retrievals_per_token() const;
  // Entries copied to the fast tier, per decode step, such layer and KV head, guesses included.
  double entries_copied_per_token() const;
  // The same without the first fill, which a longer output spreads over more tokens.
  double entries_copied_after_fill() const;
  // Per decode step, all layers and KV heads together, guesses included.
  double bytes_recalled_per_token() const;
  // Of the entries that retrievals selected, those already resident.
  double reuse_share() const;
  // Entries read ahead for rehearsals, per decode step, such layer and KV head.
  double entries_ahead_per_token() const;
  // Of them, those that the layer's own retrieval then chose.
  double ahead_hit_rate() const;
  // Of the unit entries that attention read, those that an oracle would have read in their number.
  double oracle_hit_rate() const;
};

}  // namespace cachette
