#include "methods/retrieval/retrieval_stats.h"

#include <gtest/gtest.h>

namespace cachette {
namespace {

RetrievalStats Some() {
  RetrievalStats stats;
  stats.num_kv_heads = 4;
  stats.num_steps = 10;
  stats.num_layer_steps = 30;
  stats.num_retrievals = 6;
  stats.units_recalled = 9;
  stats.entries_recalled = 240;
  stats.entries_first_filled = 60;
  stats.bytes_recalled = 5000;
  stats.entries_selected = 400;
  stats.entries_reused = 100;
  stats.entries_ahead = 120;
  stats.entries_ahead_used = 90;
  stats.entries_left_out = 40;
  stats.units_made = 77;
  stats.resident_peak_bytes = 900;
  stats.decode_seconds = 2;
  stats.select_seconds = 0.5;
  stats.recall_seconds = 0.25;
  stats.attention_seconds = 0.75;
  stats.close_seconds = 0.125;
  stats.build_seconds = 3;
  return stats;
}

TEST(RetrievalStats, FiguresByDefinition) {
  const RetrievalStats stats = Some();
  EXPECT_EQ(stats.retrievals_per_token(), 0.2);
  EXPECT_EQ(stats.entries_copied_per_token(), 2.0);  // 240 over 30 layer steps and 4 KV heads
  EXPECT_EQ(stats.entries_copied_after_fill(), 1.5);
  EXPECT_EQ(stats.bytes_recalled_per_token(), 500.0);
  EXPECT_EQ(stats.reuse_share(), 0.25);
  EXPECT_EQ(stats.entries_ahead_per_token(), 1.0);
  EXPECT_EQ(stats.ahead_hit_rate(), 0.75);
}

TEST(RetrievalStats, NothingDecodedIsZero) {
  const RetrievalStats none;
  EXPECT_EQ(none.retrievals_per_token(), 0.0);
  EXPECT_EQ(none.entries_copied_per_token(), 0.0);
  EXPECT_EQ(none.bytes_recalled_per_token(), 0.0);
  EXPECT_EQ(none.reuse_share(), 0.0);
  EXPECT_EQ(none.ahead_hit_rate(), 0.0);
}

// A parent and two forks add up to what happened: the parent's part once, the largest of the peaks.
TEST(RetrievalStats, ForksAddUp) {
  const RetrievalStats parent = Some();
  RetrievalStats fork = parent, total = parent;
  fork += Some();
  fork.resident_peak_bytes = 1000;
  EXPECT_EQ(fork.num_steps, 20);
  for (int i = 0; i < 2; ++i) total += fork.Since(parent);
  EXPECT_EQ(total.num_steps, 30);
  EXPECT_EQ(total.num_layer_steps, 90);
  EXPECT_EQ(total.num_retrievals, 18);
  EXPECT_EQ(total.units_recalled, 27);
  EXPECT_EQ(total.entries_recalled, 720);
  EXPECT_EQ(total.entries_first_filled, 180);
  EXPECT_EQ(total.bytes_recalled, 15000);
  EXPECT_EQ(total.entries_selected, 1200);
  EXPECT_EQ(total.entries_reused, 300);
  EXPECT_EQ(total.entries_ahead, 360);
  EXPECT_EQ(total.entries_ahead_used, 270);
  EXPECT_EQ(total.entries_left_out, 120);
  EXPECT_EQ(total.units_made, 231);
  EXPECT_EQ(total.decode_seconds, 6.0);
  EXPECT_EQ(total.select_seconds, 1.5);
  EXPECT_EQ(total.recall_seconds, 0.75);
  EXPECT_EQ(total.attention_seconds, 2.25);
  EXPECT_EQ(total.close_seconds, 0.375);
  EXPECT_EQ(total.build_seconds, 9.0);
  EXPECT_EQ(total.resident_peak_bytes, 1000);
  EXPECT_EQ(total.num_kv_heads, 4);
  EXPECT_EQ(total.retrievals_per_token(), parent.retrievals_per_token());
}

}  // namespace
}  // namespace cachette
