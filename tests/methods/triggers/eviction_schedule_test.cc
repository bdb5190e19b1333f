#include "methods/triggers/eviction_schedule.h"

#include <gtest/gtest.h>

namespace cachette {
namespace {

Moment Chunk(bool is_last) {
  return {.pass = {.phase = Phase::kPrefill, .num_tokens = 7, .is_last_prefill_chunk = is_last}};
}
Moment Decoded(int64_t count) {
  return {.pass = {.phase = Phase::kDecode, .first_token = 100, .num_tokens = 1}, .num_decoded = count};
}

TEST(EvictionSchedule, PostFillActsOnceAndChunkedAfterEveryChunk) {
  EvictionSchedule schedule;
  EXPECT_FALSE(schedule.FiresAfter(Chunk(false)));
  EXPECT_TRUE(schedule.FiresAfter(Chunk(true)));
  EXPECT_FALSE(schedule.acts_per_chunk());
  schedule.prefill = "chunked";
  EXPECT_TRUE(schedule.FiresAfter(Chunk(false)));
  EXPECT_TRUE(schedule.FiresAfter(Chunk(true)));
  EXPECT_TRUE(schedule.acts_per_chunk());
  EXPECT_FALSE(schedule.FiresBefore(Chunk(true).pass));
}

TEST(EvictionSchedule, DecodeActsEveryNTokens) {
  const EvictionSchedule never(0), each(1), third(3);
  EXPECT_FALSE(never.acts_in_decode());
  for (int64_t count = 1; count < 10; ++count) {
    EXPECT_FALSE(never.FiresAfter(Decoded(count)));
    EXPECT_TRUE(each.FiresAfter(Decoded(count)));
    EXPECT_EQ(third.FiresAfter(Decoded(count)), count % 3 == 0);
  }
}

TEST(EvictionSchedule, RefusesWhatCannotBe) {
  const auto refuses = [](const char* prefill, int64_t patch, int64_t decode_every) {
    EvictionSchedule schedule(decode_every);
    schedule.prefill = prefill;
    schedule.patch = patch;
    const auto prepared = schedule.Prepare({});
    return !prepared.ok() && prepared.failure().error == Error::kInvalidArgument;
  };
  EXPECT_FALSE(refuses("post_fill", 0, 0));
  EXPECT_FALSE(refuses("chunked", 64, 1));
  EXPECT_TRUE(refuses("post_fill", 64, 0));
  EXPECT_TRUE(refuses("chunked", -1, 0));
  EXPECT_TRUE(refuses("chunked", 0, -1));
  EXPECT_TRUE(refuses("patched", 0, 0));
  EXPECT_TRUE(refuses("", 0, 0));
}

}  // namespace
}  // namespace cachette
