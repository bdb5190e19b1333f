#include "methods/triggers/every_pass.h"

#include <gtest/gtest.h>

namespace cachette {
namespace {

TEST(EveryPass, ActsBeforeEveryPassThatHasAPast) {
  const EveryPass trigger;
  EXPECT_FALSE(trigger.FiresBefore({.phase = Phase::kPrefill, .first_token = 0, .num_tokens = 5}));
  EXPECT_TRUE(trigger.FiresBefore({.phase = Phase::kPrefill, .first_token = 5, .num_tokens = 5}));
  EXPECT_TRUE(trigger.FiresBefore({.phase = Phase::kDecode, .first_token = 1, .num_tokens = 1}));
  EXPECT_FALSE(trigger.FiresAfter({.pass = {.first_token = 5, .num_tokens = 5, .is_last_prefill_chunk = true}}));
  EXPECT_EQ(trigger.num_patch_tokens(), 0);
}

}  // namespace
}  // namespace cachette
