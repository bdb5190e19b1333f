#include "cache/ledger.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"

namespace cachette {
namespace {

constexpr TierKind kTier = TierKind::kHost;

// Areas and peaks from the recorded lines alone, entry by entry and step by step, as the definition has them.
struct Reduced {
  int64_t area = 0;
  int64_t peak_entries = 0;
  int64_t transient_peak_entries = 0;
  int64_t byte_area = 0;
  int64_t peak_bytes = 0;
};

// What an entry is worth from a step on, until the next.
struct Worth {
  int64_t step;
  int64_t bytes;  // 0: dead
};

Reduced ReduceLines(const Ledger& ledger) {
  const auto num_tokens = static_cast<size_t>(ledger.num_tokens());
  std::map<std::pair<int, int64_t>, std::vector<Worth>> lives;  // by (stream, position)
  std::vector<int64_t> transient(num_tokens), metadata(num_tokens), live(num_tokens), bytes(num_tokens);
  std::vector<LedgerLine> lines = ledger.lines();
  std::stable_sort(lines.begin(), lines.end(), [](const auto& a, const auto& b) { return a.event < b.event; });
  for (const LedgerLine& line : lines) {
    if (line.event == LedgerEvent::kTransient) transient[static_cast<size_t>(line.step)] = line.num_entries;
    if (line.event == LedgerEvent::kMetadata) std::fill(metadata.begin() + line.step, metadata.end(), line.bytes);
    if (line.stream < 0) continue;
    for (int64_t i = 0; i < line.num_entries; ++i) {
      auto& life = lives[{line.stream, line.first_position + i}];
      if (line.event == LedgerEvent::kRewrite) {
        EXPECT_EQ(life.back().bytes, line.old_bytes / line.num_entries);
      } else if (line.event == LedgerEvent::kEvict) {
        EXPECT_EQ(life.back().bytes, line.bytes / line.num_entries);
      }
      life.push_back({line.event == LedgerEvent::kAppend ? line.step + i : line.step,
                      line.event == LedgerEvent::kEvict ? 0 : line.bytes / line.num_entries});
    }
  }
  for (auto& [key, life] : lives) {
    life.push_back({ledger.num_tokens(), 0});
    for (size_t i = 0; i + 1 < life.size(); ++i)
      for (int64_t t = life[i].step; t < life[i + 1].step; ++t) {
        live[static_cast<size_t>(t)] += life[i].bytes > 0 ? 1 : 0;
        bytes[static_cast<size_t>(t)] += life[i].bytes;
      }
  }
  Reduced reduced;
  for (size_t t = 0; t < num_tokens; ++t) {
    reduced.area += live[t];
    reduced.peak_entries = std::max(reduced.peak_entries, live[t]);
    reduced.transient_peak_entries = std::max(reduced.transient_peak_entries, live[t] + transient[t]);
    reduced.byte_area += bytes[t] + metadata[t];
    reduced.peak_bytes = std::max(reduced.peak_bytes, bytes[t] + metadata[t]);
  }
  return reduced;
}

void ExpectLinesReduceToTotals(const Ledger& ledger) {
  const Reduced reduced = ReduceLines(ledger);
  EXPECT_EQ(reduced.area, ledger.Area());
  EXPECT_EQ(reduced.peak_entries, ledger.PeakEntries());
  EXPECT_EQ(reduced.transient_peak_entries, ledger.TransientPeakEntries());
  EXPECT_EQ(reduced.byte_area, ledger.ByteArea(kTier));
  EXPECT_EQ(reduced.peak_bytes, ledger.PeakBytes(kTier));
}

// One pass over the next num_tokens tokens of a one-stream ledger.
void AppendPass(Ledger& ledger, int64_t num_tokens, int64_t entry_bytes) {
  const int64_t begin = ledger.num_tokens();
  ledger.BeginPass(begin, num_tokens);
  ledger.Append(0, begin, num_tokens, entry_bytes);
  ledger.EndPass();
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

TEST(Ledger, TransientEntriesCountInTheirOwnPeakOnly) {
  Ledger ledger(2);
  ledger.set_recording(true);
  ledger.BeginPass(0, 8);
  for (int layer = 0; layer < 2; ++layer) {  // one stream a layer: its transient entries leave before the next layer's
    ledger.Append(layer, 0, 8, 4);
    ledger.Transient(3);
    ledger.Transient(-3);
    ledger.Evict(layer, 0, 6, 4, EvictTime::kAfterAttention);
  }
  ledger.EndPass();
  EXPECT_EQ(ledger.PeakEntries(), 16);
  EXPECT_EQ(ledger.TransientPeakEntries(), 19);
  EXPECT_EQ(ledger.Area(), 2 * Triangle(8));
  EXPECT_EQ(ledger.PeakBytes(kTier), 64);
  // Two at once in a smaller pass: the largest sum is still the first pass's.
  ledger.BeginPass(8, 1);
  for (int layer = 0; layer < 2; ++layer) ledger.Append(layer, 8, 1, 4);
  ledger.Transient(3);
  ledger.Transient(3);
  ledger.Transient(-6);
  ledger.EndPass();
  EXPECT_EQ(ledger.TransientPeakEntries(), 19);
  EXPECT_DOUBLE_EQ(ledger.TransientPeak(), 19.0 / 18);  // over the full cache's 9 entries of 2 streams
  EXPECT_DOUBLE_EQ(ledger.Peak(), 16.0 / 18);
  ExpectLinesReduceToTotals(ledger);
}

TEST(Ledger, WithoutTransientEntriesBothPeaksAreOne) {
  Ledger ledger(1);
  AppendPass(ledger, 5, 1);
  ledger.Evict(0, 0, 4, 1);
  AppendPass(ledger, 2, 1);
  EXPECT_EQ(ledger.TransientPeakEntries(), 5);
  EXPECT_EQ(ledger.PeakEntries(), 5);
}

TEST(Ledger, BytesInSixteenBitAreEntries) {
  Ledger ledger(1);
  AppendPass(ledger, 7, 256);
  ledger.Evict(0, 1, 3, 256);
  AppendPass(ledger, 4, 256);
  EXPECT_EQ(ledger.ByteArea(kTier), 256 * ledger.Area());
  EXPECT_EQ(ledger.PeakBytes(kTier), 256 * ledger.PeakEntries());
  EXPECT_EQ(ledger.ByteFootprint(kTier, 256), ledger.Footprint());
  EXPECT_EQ(ledger.BytePeak(kTier, 256), ledger.Peak());
  EXPECT_EQ(ledger.ByteArea(TierKind::kDevice), 0);
  EXPECT_EQ(ledger.BytePeak(TierKind::kDevice, 256), 0.0);
  EXPECT_EQ(Ledger(1, TierKind::kDevice).tier(), TierKind::kDevice);
}

// 2048 + 512 tokens, the newest 512 entries in 16 bit, older ones in fewer bytes. The figures are computed by hand:
// 1179904 entry-steps of 256 bytes and 2098176 of the others.
TEST(Ledger, WorkedExamplesOfRewrittenEntries) {
  for (const auto& [old_entry_bytes, byte_footprint] : {std::pair(132, 0.689969738383444), {64, 0.519953143303397}}) {
    Ledger ledger(1);
    for (int64_t t = 0; t < 2560; ++t) {
      if (t >= 512) ledger.Rewrite(0, t - 512, 1, 256, old_entry_bytes);
      AppendPass(ledger, 1, 256);
    }
    EXPECT_EQ(ledger.ByteArea(kTier), 256 * int64_t{1179904} + old_entry_bytes * int64_t{2098176});
    EXPECT_NEAR(ledger.ByteFootprint(kTier, 256), byte_footprint, 1e-15);
    EXPECT_EQ(ledger.PeakBytes(kTier), 512 * 256 + 2048 * old_entry_bytes);
    EXPECT_EQ(ledger.Footprint(), 1.0);
    EXPECT_EQ(ledger.Peak(), 1.0);
    EXPECT_EQ(ledger.live_bytes(), 512 * 256 + 2048 * old_entry_bytes);
  }
}

// Entries of 8 bytes become 2 in the pass over tokens [6, 10), told before or after its attention read them.
TEST(Ledger, EvictTimeDecidesWhenARewriteCounts) {
  for (const bool is_read : {false, true}) {
    Ledger ledger(1);
    ledger.set_recording(true);
    AppendPass(ledger, 6, 8);
    ledger.BeginPass(6, 4);
    ledger.Append(0, 6, 4, 8);
    ledger.Rewrite(0, 0, 5, 40, 10, is_read ? EvictTime::kAfterAttention : EvictTime::kBeforeAttention);
    ledger.EndPass();
    AppendPass(ledger, 1, 8);
    EXPECT_EQ(ledger.PeakBytes(kTier), is_read ? 80 : 58);  // 10 entries of 8; or 11 with five of them smaller
    EXPECT_EQ(ledger.ByteArea(kTier), 8 * Triangle(11) - 30 * (is_read ? 1 : 5));
    EXPECT_EQ(ledger.Area(), Triangle(11));
    EXPECT_EQ(ledger.live_bytes(), 58);
    ExpectLinesReduceToTotals(ledger);
  }
}

TEST(Ledger, ARewrittenEntryDiesInItsNewBytes) {
  Ledger ledger(1);
  ledger.set_recording(true);
  ledger.BeginPass(0, 4);
  ledger.Append(0, 0, 4, 8);
  ledger.Rewrite(0, 0, 2, 16, 6, EvictTime::kAfterAttention);
  ledger.Evict(0, 0, 1, 3, EvictTime::kAfterAttention);  // in the same pass: its new bytes never held a step
  ledger.EndPass();
  EXPECT_EQ(ledger.PeakBytes(kTier), 32);
  AppendPass(ledger, 1, 8);
  ledger.Rewrite(0, 1, 1, 3, 20);  // and more bytes than before
  ledger.Evict(0, 1, 1, 20);
  AppendPass(ledger, 1, 8);
  EXPECT_EQ(ledger.live_bytes(), 4 * 8);
  EXPECT_EQ(ledger.ByteArea(kTier), 8 * Triangle(4) + (3 + 3 * 8) + 4 * 8);
  ExpectLinesReduceToTotals(ledger);
}

TEST(Ledger, APassIsChargedTheMostMetadataItHeld) {
  Ledger ledger(1);
  ledger.set_recording(true);
  ledger.SetMetadataBytes(100);
  AppendPass(ledger, 4, 1);  // 100 at steps 0..3
  ledger.SetMetadataBytes(7);
  ledger.BeginPass(4, 2);
  ledger.Append(0, 4, 2, 1);
  ledger.SetMetadataBytes(40);
  EXPECT_EQ(ledger.ByteArea(kTier), Triangle(6) + 400 + 2 * 40);  // amid a pass too
  ledger.SetMetadataBytes(5);
  ledger.EndPass();                  // 40 at steps 4 and 5
  AppendPass(ledger, 1, 1);          // 5
  ledger.SetMetadataBytes(1 << 20);  // no step has held it yet
  EXPECT_EQ(ledger.ByteArea(kTier), Triangle(7) + 400 + 80 + 5);
  EXPECT_EQ(ledger.PeakBytes(kTier), 104);
  EXPECT_EQ(ledger.live_bytes(), 7);
  EXPECT_EQ(ledger.Area(), Triangle(7));
  ExpectLinesReduceToTotals(ledger);
}

TEST(Ledger, LinesThatContinueTheLastOneExtendIt) {
  Ledger ledger(2);
  ledger.set_recording(true);
  for (int64_t t = 0; t < 50; ++t) {
    ledger.BeginPass(t, 1);
    for (int stream = 0; stream < 2; ++stream) ledger.Append(stream, t, 1, 4);
    ledger.EndPass();
  }
  ASSERT_EQ(ledger.lines().size(), 2u);
  EXPECT_EQ(ledger.lines()[1].num_entries, 50);
  EXPECT_EQ(ledger.lines()[1].bytes, 200);
  for (int64_t position = 10; position < 14; ++position) ledger.Evict(1, position, 1, 4);
  ledger.Evict(1, 15, 1, 4);  // not the next one
  ledger.Evict(0, 16, 1, 4);  // another stream
  ledger.Rewrite(0, 20, 2, 8, 4);
  ledger.Rewrite(0, 22, 1, 4, 2);
  ledger.Rewrite(0, 23, 1, 4, 1);  // another size
  ASSERT_EQ(ledger.lines().size(), 7u);
  EXPECT_EQ(ledger.lines()[2].num_entries, 4);
  EXPECT_EQ(ledger.lines()[5].num_entries, 3);
  EXPECT_EQ(ledger.lines()[5].bytes, 6);
  EXPECT_EQ(ledger.lines()[5].old_bytes, 12);
  AppendPass(ledger, 1, 4);
  ledger.Evict(1, 16, 1, 4);  // another step
  EXPECT_EQ(ledger.lines().size(), 8u);
  ExpectLinesReduceToTotals(ledger);
}

// Random histories of several streams: the running integers equal the reduction of the full list.
TEST(Ledger, RunningTotalsEqualTheReducedLines) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    Rng rng(seed);
    constexpr int kStreams = 3;
    Ledger ledger(kStreams);
    ledger.set_recording(true);
    std::vector<std::map<int64_t, int64_t>> live(kStreams);  // position -> bytes
    const auto change_some = [&](EvictTime time, int64_t born_before) {
      for (int stream = 0; stream < kStreams; ++stream) {
        auto& entries = live[static_cast<size_t>(stream)];
        for (auto it = entries.begin(); it != entries.end() && it->first < born_before;) {
          const uint64_t fate = rng.Below(8);
          if (fate < 2) {
            ledger.Evict(stream, it->first, 1, it->second, time);
            it = entries.erase(it);
            continue;
          }
          if (fate == 2) {
            const auto new_bytes = static_cast<int64_t>(1 + rng.Below(9));
            ledger.Rewrite(stream, it->first, 1, it->second, new_bytes, time);
            it->second = new_bytes;
          }
          ++it;
        }
      }
    };
    int64_t begin = 0;
    for (int pass = 0; pass < 25; ++pass) {
      const auto count = static_cast<int64_t>(rng.Below(9));
      change_some(EvictTime::kBeforeAttention, begin);
      if (rng.Below(3) == 0) ledger.SetMetadataBytes(static_cast<int64_t>(rng.Below(50)));
      ledger.BeginPass(begin, count);
      for (int stream = 0; stream < kStreams && count > 0; ++stream) {
        ledger.Append(stream, begin, count, 2);
        for (int64_t i = 0; i < count; ++i) live[static_cast<size_t>(stream)][begin + i] = 2;
        const auto num_transient = static_cast<int64_t>(rng.Below(4));
        ledger.Transient(num_transient);
        ledger.Transient(-num_transient);
      }
      if (rng.Below(3) == 0) ledger.SetMetadataBytes(static_cast<int64_t>(rng.Below(50)));
      if (pass % 3 == 0) change_some(EvictTime::kBeforeAttention, begin);
      change_some(EvictTime::kAfterAttention, begin + count);
      ledger.EndPass();
      begin += count;
    }
    ExpectLinesReduceToTotals(ledger);
    int64_t total = 0, total_bytes = 0;
    for (int stream = 0; stream < kStreams; ++stream) {
      const auto& entries = live[static_cast<size_t>(stream)];
      EXPECT_EQ(ledger.live_entries(stream), static_cast<int64_t>(entries.size()));
      total += ledger.live_entries(stream);
      for (const auto& [position, bytes] : entries) total_bytes += bytes;
    }
    EXPECT_EQ(ledger.total_live_entries(), total);
    EXPECT_EQ(ledger.live_bytes(), total_bytes);
  }
}

// 6 entries of 10 bytes; two leave after the first pass has read them, two more between passes. They live on: area and
// peak of the full cache, bytes in one tier at each step.
TEST(Ledger, OffloadedEntriesLiveOnInTheOtherTier) {
  Ledger ledger(1);
  ledger.set_recording(true);
  ledger.BeginPass(0, 4);
  ledger.Append(0, 0, 4, 10);
  ledger.Offload(0, 0, 2, 10, TierKind::kArena, EvictTime::kAfterAttention);
  ledger.EndPass();
  EXPECT_EQ(ledger.PeakBytes(TierKind::kHost), 40);
  EXPECT_EQ(ledger.PeakBytes(TierKind::kArena), 0);  // from step 4 on
  ledger.Offload(0, 2, 2, 10, TierKind::kArena);
  ledger.SetMetadataBytes(TierKind::kArena, 3);
  for (int64_t t = 4; t < 6; ++t) {
    ledger.BeginPass(t, 1);
    ledger.Append(0, t, 1, 10);
    ledger.EndPass();
  }
  EXPECT_EQ(ledger.Area(), Triangle(6));
  EXPECT_EQ(ledger.PeakEntries(), 6);
  EXPECT_EQ(ledger.ByteArea(TierKind::kHost), 10 * Triangle(4) + 10 + 20);
  EXPECT_EQ(ledger.ByteArea(TierKind::kArena), 2 * (40 + 3));
  EXPECT_EQ(ledger.ByteArea(), 10 * Triangle(6) + 2 * 3);
  EXPECT_EQ(ledger.PeakBytes(TierKind::kHost), 40);
  EXPECT_EQ(ledger.PeakBytes(TierKind::kArena), 43);
  EXPECT_EQ(ledger.PeakBytes(), 63);
  EXPECT_EQ(ledger.ByteFootprint(10), 216.0 / 210);
  EXPECT_EQ(ledger.BytePeak(10), 63.0 / 60);
  EXPECT_EQ(ledger.live_bytes(), 20);
  EXPECT_EQ(ledger.total_live_entries(), 6);
  ASSERT_EQ(ledger.lines().size(), 3u);  // append, offload, metadata
  EXPECT_EQ(ledger.lines()[1].event, LedgerEvent::kOffload);
  EXPECT_EQ(ledger.lines()[1].num_entries, 4);  // both begin to live there at step 4
  EXPECT_EQ(ledger.lines()[1].tier, TierKind::kArena);
}

TEST(Ledger, RecordsOnlyWhenAsked) {
  Ledger ledger(1);
  ledger.BeginPass(0, 1);
  ledger.Append(0, 0, 1, 1);
  ledger.EndPass();
  EXPECT_TRUE(ledger.lines().empty());
  EXPECT_STREQ(LedgerEventName(LedgerEvent::kAppend), "append");
  EXPECT_STREQ(LedgerEventName(LedgerEvent::kEvict), "evict");
  EXPECT_STREQ(LedgerEventName(LedgerEvent::kRewrite), "rewrite");
}

TEST(LedgerDeathTest, ImpossibleHistoriesAreOurMistake) {
  Ledger ledger(1);
  EXPECT_DEATH(ledger.BeginPass(1, 1), "first_token");
  ledger.BeginPass(0, 4);
  ledger.Append(0, 0, 4, 1);
  EXPECT_DEATH(ledger.Evict(0, 0, 5, 1), "live");
  EXPECT_DEATH(ledger.Evict(0, 1, 1, 1, EvictTime::kBeforeAttention), "death");  // dies before it is born
  EXPECT_DEATH(ledger.Rewrite(0, 1, 1, 1, 1), "step");                           // the same
  EXPECT_DEATH(ledger.Rewrite(0, 0, 4, 4, 5, EvictTime::kAfterAttention), "num_entries == 0");  // 5 bytes for 4 entries
  EXPECT_DEATH(ledger.Transient(-1), "transient_");
  ledger.Transient(1);
  EXPECT_DEATH(ledger.EndPass(), "transient_ == 0");
}

}  // namespace
}  // namespace cachette
