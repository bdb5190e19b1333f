#include "cache/ledger.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"

namespace cachette {
namespace {

// Area and peak from the recorded lines alone, entry by entry, as the definition has them.
struct Reduced {
  int64_t area = 0;
  int64_t peak_entries = 0;
};

Reduced ReduceLines(const Ledger& ledger) {
  const int64_t num_tokens = ledger.num_tokens();
  std::map<std::pair<int, int64_t>, std::pair<int64_t, int64_t>> lives;  // (stream, position) -> birth, death
  for (const LedgerLine& line : ledger.lines()) {
    for (int64_t i = 0; i < line.num_entries; ++i) {
      auto& life = lives[{line.stream, line.first_position + i}];
      if (line.event == LedgerEvent::kAppend) {
        life = {line.step + i, num_tokens};
      } else {
        life.second = line.step;
      }
    }
  }
  Reduced reduced;
  std::vector<int64_t> live(static_cast<size_t>(num_tokens) + 1);
  for (const auto& [key, life] : lives) {
    reduced.area += life.second - life.first;
    for (int64_t t = life.first; t < life.second; ++t) ++live[static_cast<size_t>(t)];
  }
  for (const int64_t count : live) reduced.peak_entries = std::max(reduced.peak_entries, count);
  return reduced;
}

void ExpectLinesReduceToTotals(const Ledger& ledger) {
  const Reduced reduced = ReduceLines(ledger);
  EXPECT_EQ(reduced.area, ledger.Area());
  EXPECT_EQ(reduced.peak_entries, ledger.PeakEntries());
}

// StreamingLLM by hand: 10 prompt tokens in chunks of 4, 5 generated, 1 sink, window 2.
TEST(Ledger, WorkedExampleOfAStreamingHead) {
  Ledger ledger(1);
  ledger.set_recording(true);
  const auto pass = [&](int64_t begin, int64_t end) {
    ledger.BeginPass(begin, end - begin);
    ledger.Append(0, begin, end - begin, 4);
    ledger.EndPass();
  };
  pass(0, 4);
  ledger.Evict(0, 1, 1, 4);
  pass(4, 8);
  ledger.Evict(0, 2, 4, 4);
  pass(8, 10);
  ledger.Evict(0, 6, 2, 4);
  for (int64_t t = 10; t < 15; ++t) {
    pass(t, t + 1);
    if (t < 14) ledger.Evict(0, t - 2, 1, 4);
  }
  EXPECT_EQ(ledger.Area(), 61);
  EXPECT_EQ(ledger.PeakEntries(), 7);
  EXPECT_DOUBLE_EQ(ledger.Footprint(), 61.0 / 120);
  EXPECT_DOUBLE_EQ(ledger.Peak(), 7.0 / 15);
  EXPECT_EQ(ledger.num_tokens(), 15);
  EXPECT_EQ(ledger.live_entries(0), 4);
  EXPECT_EQ(ledger.live_bytes(), 16);
  ExpectLinesReduceToTotals(ledger);

  const std::vector<int64_t> deaths = {15, 4, 8, 8, 8, 8, 10, 10, 11, 12, 13, 14, 15, 15, 15};
  std::vector<int64_t> recorded(15, 15);
  for (const LedgerLine& line : ledger.lines())
    for (int64_t i = 0; line.event == LedgerEvent::kEvict && i < line.num_entries; ++i)
      recorded[static_cast<size_t>(line.first_position + i)] = line.step;
  EXPECT_EQ(recorded, deaths);
}

TEST(Ledger, FullCacheIsOneAndOneForAnyChunking) {
  for (const std::vector<int64_t>& chunks : {std::vector<int64_t>{1}, {7}, {3, 4}, {1, 1, 1, 1}, {100, 1, 1, 57}}) {
    Ledger ledger(3);
    int64_t begin = 0;
    for (const int64_t chunk : chunks) {
      ledger.BeginPass(begin, chunk);
      for (int stream = 0; stream < 3; ++stream) ledger.Append(stream, begin, chunk, 1);
      ledger.EndPass();
      begin += chunk;
    }
    EXPECT_EQ(ledger.Area(), 3 * Triangle(begin));
    EXPECT_EQ(ledger.PeakEntries(), 3 * begin);
    EXPECT_EQ(ledger.Footprint(), 1.0);
    EXPECT_EQ(ledger.Peak(), 1.0);
  }
}

TEST(Ledger, NothingSeenIsZero) {
  Ledger ledger(2);
  EXPECT_EQ(ledger.Footprint(), 0.0);
  EXPECT_EQ(ledger.Peak(), 0.0);
  EXPECT_EQ(ledger.Area(), 0);
  ledger.BeginPass(0, 0);
  ledger.EndPass();
  EXPECT_EQ(ledger.Footprint(), 0.0);
}

// The same eviction in a pass, told before or after the attention of that pass read the entries.
TEST(Ledger, EvictTimeDecidesDeathAndPeak) {
  for (const bool is_read : {false, true}) {
    Ledger ledger(1);
    ledger.set_recording(true);
    ledger.BeginPass(0, 6);
    ledger.Append(0, 0, 6, 1);
    ledger.EndPass();
    ledger.BeginPass(6, 4);
    ledger.Append(0, 6, 4, 1);
    ledger.Evict(0, 1, 5, 1, is_read ? EvictTime::kAfterAttention : EvictTime::kBeforeAttention);
    ledger.EndPass();
    ledger.BeginPass(10, 1);
    ledger.Append(0, 10, 1, 1);
    ledger.EndPass();
    EXPECT_EQ(ledger.PeakEntries(), is_read ? 10 : 6);
    EXPECT_EQ(ledger.Area(), Triangle(11) - (is_read ? 5 : 25));  // the five miss step 10, or steps 6 to 10
    ExpectLinesReduceToTotals(ledger);
  }
}

TEST(Ledger, AChunkMayEvictItsOwnEntriesOnceTheyAreRead) {
  Ledger ledger(1);
  ledger.set_recording(true);
  ledger.BeginPass(0, 8);
  ledger.Append(0, 0, 8, 1);
  ledger.Evict(0, 2, 6, 1, EvictTime::kAfterAttention);
  ledger.EndPass();
  EXPECT_EQ(ledger.PeakEntries(), 8);
  EXPECT_EQ(ledger.Area(), Triangle(8));
  ledger.BeginPass(8, 1);
  ledger.Append(0, 8, 1, 1);
  ledger.EndPass();
  EXPECT_EQ(ledger.Area(), Triangle(8) + 3);
  EXPECT_EQ(ledger.PeakEntries(), 8);
  ExpectLinesReduceToTotals(ledger);
}

TEST(Ledger, BetweenPassesBothTimesAreTheSame) {
  Ledger before(1), after(1);
  for (Ledger* ledger : {&before, &after}) {
    ledger->BeginPass(0, 5);
    ledger->Append(0, 0, 5, 1);
    ledger->EndPass();
  }
  before.Evict(0, 0, 3, 1, EvictTime::kBeforeAttention);
  after.Evict(0, 0, 3, 1, EvictTime::kAfterAttention);
  for (Ledger* ledger : {&before, &after}) {
    ledger->BeginPass(5, 1);
    ledger->EndPass();
    EXPECT_EQ(ledger->Area(), Triangle(5) + 2);
    EXPECT_EQ(ledger->PeakEntries(), 5);
  }
}

// Random histories of several streams: the running integers equal the reduction of the full list.
TEST(Ledger, RunningTotalsEqualTheReducedLines) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    Rng rng(seed);
    constexpr int kStreams = 3;
    Ledger ledger(kStreams);
    ledger.set_recording(true);
    std::vector<std::set<int64_t>> live(kStreams);
    const auto evict_some = [&](EvictTime time, int64_t born_before) {
      for (int stream = 0; stream < kStreams; ++stream) {
        auto& entries = live[static_cast<size_t>(stream)];
        for (const int64_t position : std::vector<int64_t>(entries.begin(), entries.end())) {
          if (position >= born_before || rng.Below(4) != 0) continue;
          ledger.Evict(stream, position, 1, 2, time);
          entries.erase(position);
        }
      }
    };
    int64_t begin = 0;
    for (int pass = 0; pass < 25; ++pass) {
      const auto count = static_cast<int64_t>(rng.Below(9));
      evict_some(EvictTime::kBeforeAttention, begin);
      ledger.BeginPass(begin, count);
      for (int stream = 0; stream < kStreams && count > 0; ++stream) {
        ledger.Append(stream, begin, count, 2);
        for (int64_t i = 0; i < count; ++i) live[static_cast<size_t>(stream)].insert(begin + i);
      }
      if (pass % 3 == 0) evict_some(EvictTime::kBeforeAttention, begin);
      evict_some(EvictTime::kAfterAttention, begin + count);
      ledger.EndPass();
      begin += count;
    }
    ExpectLinesReduceToTotals(ledger);
    int64_t total = 0;
    for (int stream = 0; stream < kStreams; ++stream) {
      EXPECT_EQ(ledger.live_entries(stream), static_cast<int64_t>(live[static_cast<size_t>(stream)].size()));
      total += ledger.live_entries(stream);
    }
    EXPECT_EQ(ledger.total_live_entries(), total);
    EXPECT_EQ(ledger.live_bytes(), 2 * total);
  }
}

TEST(Ledger, RecordsOnlyWhenAsked) {
  Ledger ledger(1);
  ledger.BeginPass(0, 1);
  ledger.Append(0, 0, 1, 1);
  ledger.EndPass();
  EXPECT_TRUE(ledger.lines().empty());
  EXPECT_STREQ(LedgerEventName(LedgerEvent::kAppend), "append");
  EXPECT_STREQ(LedgerEventName(LedgerEvent::kEvict), "evict");
}

TEST(LedgerDeathTest, ImpossibleHistoriesAreOurMistake) {
  Ledger ledger(1);
  EXPECT_DEATH(ledger.BeginPass(1, 1), "first_token");
  ledger.BeginPass(0, 4);
  ledger.Append(0, 0, 4, 1);
  EXPECT_DEATH(ledger.Evict(0, 0, 5, 1), "live");
  EXPECT_DEATH(ledger.Evict(0, 1, 1, 1, EvictTime::kBeforeAttention), "death");  // dies before it is born
}

}  // namespace
}  // namespace cachette
