#include "engine/fast_need.h"

#include <gtest/gtest.h>

namespace cachette {
namespace {

// 30 layers of 3 KV heads, blocks of one byte, so that results are blocks.
FastNeedParams Params() {
  return {.num_dense_layers = 0,
          .num_retrieving_layers = 30,
          .num_kv_heads = 3,
          .block_bytes = 1,
          .protected_entries = 16 + 128,
          .local_entries = 16 + 128 + 32,
          .least_blocks = 32,
          .num_held = 0,
          .num_prompt = 8000,
          .num_output = 1,
          .chunk = 512,
          .stages_layer = false};
}

TEST(FastNeed, DecodeIsWhatStaysAndOneBudget) {
  EXPECT_EQ(ComputeFastNeed(Params()).bytes(), 3 * 30 * (11 + 32));
  FastNeedParams p = Params();
  p.block_bytes = 4096;
  EXPECT_EQ(ComputeFastNeed(p).bytes(), 4096 * 3 * 30 * (11 + 32));
}

TEST(FastNeed, ShortPromptsStayWhole) {
  FastNeedParams p = Params();
  p.num_prompt = 15;  // and one to generate: a block
  EXPECT_EQ(ComputeFastNeed(p).bytes(), 3 * 30 * 1);
  p.num_prompt = 16;
  EXPECT_EQ(ComputeFastNeed(p).bytes(), 3 * 30 * 2);
  p.num_prompt = 300;  // 19 blocks; stream and units end within a block each, beside one that evictions left
  EXPECT_EQ(ComputeFastNeed(p).bytes(), 3 * 30 * (19 + 2));
}

// What a short prompt does not need its output may.
TEST(FastNeed, OutputCountsLikeThePrompt) {
  FastNeedParams p = Params();
  p.num_prompt = 15;
  p.num_output = 0;  // one token is always processed
  EXPECT_EQ(ComputeFastNeed(p).bytes(), 3 * 30 * 1);
  p.num_output = 17;
  EXPECT_EQ(ComputeFastNeed(p).bytes(), 3 * 30 * 2);
  p.num_output = 129;  // up to here everything is protected
  EXPECT_EQ(ComputeFastNeed(p).bytes(), 3 * 30 * 9);
  p.num_output = 130;  // one entry may be in a unit
  EXPECT_EQ(ComputeFastNeed(p).bytes(), 3 * 30 * (10 + 1));
  p.num_output = 100000;
  EXPECT_EQ(ComputeFastNeed(p).bytes(), 3 * 30 * (11 + 32));
  p.num_dense_layers = 1;
  p.num_retrieving_layers = 29;
  EXPECT_EQ(ComputeFastNeed(p).bytes(), 3 * (6251 + 29 * (11 + 32)));
}

TEST(FastNeed, PrefillCountsOneLayersChunkAndOnDiskItsContext) {
  FastNeedParams p = Params();
  p.least_blocks = 1;
  p.num_retrieving_layers = 1;
  EXPECT_EQ(ComputeFastNeed(p).bytes(), 3 * (11 + 32));  // the chunk is larger than the budget
  p.chunk = 8000;
  EXPECT_EQ(ComputeFastNeed(p).bytes(), 3 * 501);  // the whole layer in one pass, nothing before it to copy back
  p.chunk = 512;
  p.stages_layer = true;
  EXPECT_EQ(ComputeFastNeed(p).bytes(), 3 * (501 + 2));
  p.most_padding_blocks = 7;
  EXPECT_EQ(ComputeFastNeed(p).bytes(), 3 * (501 + 2) + 7);
}

TEST(FastNeed, DenseLayersKeepEverything) {
  FastNeedParams p = Params();
  p.num_dense_layers = 2;
  p.num_retrieving_layers = 28;
  EXPECT_EQ(ComputeFastNeed(p).bytes(), 3 * (2 * 501 + 28 * (11 + 32)));
}

TEST(FastNeed, TokensOfEarlierTurnsCount) {
  FastNeedParams p = Params();
  p.num_dense_layers = 1;
  p.num_held = 8000;
  EXPECT_EQ(ComputeFastNeed(p).bytes(), 3 * (1001 + 30 * (11 + 32)));
  p.num_prompt = 15;
  EXPECT_EQ(ComputeFastNeed(p).bytes(), 3 * (501 + 30 * (11 + 32)));
}

}  // namespace
}  // namespace cachette
