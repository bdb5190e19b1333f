#include "methods/selects/top_chunks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "base/rng.h"
#include "methods/selects/top_k.h"

namespace cachette {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TopChunks Runs(int64_t chunk_tokens) {
  TopChunks select;
  select.chunk_tokens = chunk_tokens;
  return select;
}

std::vector<int32_t> Positions(int32_t first, int32_t count) {
  std::vector<int32_t> positions(static_cast<size_t>(count));
  std::iota(positions.begin(), positions.end(), first);
  return positions;
}

// Ranks that stay.
std::vector<int64_t> Kept(const Select& select, const std::vector<float>& scores, const std::vector<int32_t>& positions,
                          int64_t num_kept, const std::vector<RankRange>& protected_ranges = {}) {
  std::vector<bool> is_lost(scores.size());
  for (const RankRange& range : select.Losers(scores, positions, num_kept, protected_ranges))
    for (int64_t r = range.begin; r < range.end; ++r) is_lost[static_cast<size_t>(r)] = true;
  std::vector<int64_t> kept;
  for (size_t r = 0; r < scores.size(); ++r)
    if (!is_lost[r]) kept.push_back(static_cast<int64_t>(r));
  return kept;
}

const std::vector<float> kRunScores = {1, 1, 1, 9, 0, 0, 2, 2, 2, 4};  // runs of three: means 1, 3, 2 and a short 4

TEST(TopChunks, KeepsTheBestWholeRunsThatFit) {
  EXPECT_THAT(Kept(Runs(3), kRunScores, Positions(0, 10), 3), ElementsAre(9));  // a run of three no longer fits
  EXPECT_THAT(Kept(Runs(3), kRunScores, Positions(0, 10), 4), ElementsAre(3, 4, 5, 9));
  EXPECT_THAT(Kept(Runs(3), kRunScores, Positions(0, 10), 6), ElementsAre(3, 4, 5, 9));
  EXPECT_THAT(Kept(Runs(3), kRunScores, Positions(0, 10), 7), ElementsAre(3, 4, 5, 6, 7, 8, 9));
  EXPECT_EQ(Kept(Runs(3), kRunScores, Positions(0, 10), 10).size(), 10u);
  EXPECT_THAT(Kept(Runs(3), kRunScores, Positions(0, 10), 0), IsEmpty());
}

TEST(TopChunks, NoWorseRunSlipsIntoRoomThatABetterOneDoesNotFill) {
  const std::vector<float> scores = {5, 5, 5, 4, 4, 4, 1};
  EXPECT_THAT(Kept(Runs(3), scores, Positions(0, 7), 4), ElementsAre(0, 1, 2));
}

// The text is cut at multiples of the length, wherever the list begins.
TEST(TopChunks, RunsAreAlignedToTheText) {
  const std::vector<float> scores = {1, 5, 5, 5, 2, 2};
  EXPECT_THAT(Kept(Runs(3), scores, Positions(11, 6), 3), ElementsAre(1, 2, 3));
}

TEST(TopChunks, WhatIsLeftOfARunBelongsTogether) {
  const std::vector<int32_t> positions = {0, 2, 3, 9, 10};  // 1 and 4 to 8 are gone
  EXPECT_THAT(Kept(Runs(3), {4, 4, 1, 3, 3}, positions, 2), ElementsAre(0, 1));
  EXPECT_THAT(Kept(Runs(3), {4, 4, 1, 3, 3}, positions, 4), ElementsAre(0, 1, 3, 4));
}

TEST(TopChunks, TiesGoToTheNewerRun) {
  EXPECT_THAT(Kept(Runs(2), {1, 1, 1, 1, 1, 1}, Positions(0, 6), 2), ElementsAre(4, 5));
}

TEST(TopChunks, ProtectedEntriesStayAndCount) {
  EXPECT_THAT(Kept(Runs(3), kRunScores, Positions(0, 10), 5, {{8, 10}}), ElementsAre(3, 4, 5, 8, 9));
  EXPECT_THAT(Kept(Runs(3), kRunScores, Positions(0, 10), 1, {{0, 2}, {8, 10}}), ElementsAre(0, 1, 8, 9));
}

TEST(TopChunks, RunsOfOneAreTheBestEntries) {
  Rng rng(8);
  for (int round = 0; round < 50; ++round) {
    std::vector<float> scores(1 + rng.Below(40));
    for (float& score : scores) score = static_cast<float>(rng.Below(6));
    const auto positions = Positions(static_cast<int32_t>(rng.Below(30)), static_cast<int32_t>(scores.size()));
    const auto num_kept = static_cast<int64_t>(rng.Below(scores.size() + 1));
    EXPECT_EQ(Kept(Runs(1), scores, positions, num_kept), Kept(TopK(), scores, positions, num_kept));
  }
}

TEST(TopChunks, RefusesWhatItCannotDo) {
  EXPECT_EQ(Runs(0).Prepare({}).failure().error, Error::kInvalidArgument);
  TopChunks select;
  select.reuse_layers = 0;
  EXPECT_EQ(select.Prepare({}).failure().error, Error::kInvalidArgument);
  EXPECT_TRUE(TopChunks().Prepare({}).ok());
}

}  // namespace
}  // namespace cachette
