#include "eval/ledger_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "base/rng.h"
#include "eval/footprint.h"
#include "io/temp_folder.h"

namespace cachette {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int kHeadDim = 8;
constexpr int64_t kEntryBytes = 2 * kHeadDim * 2;  // f16

// A cache whose ledger alone is used.
struct LedgerOnly {
  explicit LedgerOnly(int num_layers, int num_kv_heads)
      : cache(tier, {.num_layers = num_layers, .num_kv_heads = num_kv_heads, .format = {Dtype::kF16, kHeadDim}}) {
    ledger().set_recording(true);
  }
  Ledger& ledger() { return cache.ledger(); }
  void Pass(int64_t num_tokens, int64_t entry_bytes = kEntryBytes) {
    const int64_t begin = ledger().num_tokens();
    ledger().BeginPass(begin, num_tokens);
    for (int stream = 0; stream < ledger().num_streams(); ++stream)
      ledger().Append(stream, begin, num_tokens, entry_bytes);
    ledger().EndPass();
  }

  Tier tier{TierKind::kHost};
  SequenceCache cache;
};

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> LinesOf(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::string Joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

// The example of a streaming head: 10 prompt tokens in chunks of 4, 5 generated, 1 sink, a window of 2.
void TellStreamingExample(LedgerOnly& one) {
  one.Pass(4);
  one.ledger().Evict(0, 1, 1, kEntryBytes);
  one.Pass(4);
  one.ledger().Evict(0, 2, 4, kEntryBytes);
  one.Pass(2);
  one.ledger().Evict(0, 6, 2, kEntryBytes);
  for (int64_t t = 10; t < 15; ++t) {
    one.Pass(1);
    if (t < 14) one.ledger().Evict(0, t - 2, 1, kEntryBytes);
  }
}

TEST(LedgerFile, AStreamingHeadIsAFewLines) {
  LedgerOnly one(1, 1);
  TellStreamingExample(one);
  const TempFolder folder;
  const std::string path = folder / "ledger";
  ASSERT_TRUE(WriteLedgerFile(path, one.cache).ok());
  EXPECT_EQ(
      ReadFile(path),
      R"({"format":"cachette-ledger","version":1,"layers":1,"kv_heads":1,"tokens":15,"tier":"host","full_entry_bytes":32}
{"event":"append","layer":0,"kv_head":0,"position":0,"entries":15,"step":0,"stride":1,"bytes":480}
{"event":"evict","layer":0,"kv_head":0,"position":1,"entries":1,"step":4,"stride":0,"bytes":32}
{"event":"evict","layer":0,"kv_head":0,"position":2,"entries":4,"step":8,"stride":0,"bytes":128}
{"event":"evict","layer":0,"kv_head":0,"position":6,"entries":2,"step":10,"stride":0,"bytes":64}
{"event":"evict","layer":0,"kv_head":0,"position":8,"entries":4,"step":11,"stride":1,"bytes":128}
{"event":"end","lines":5,"area":61,"area_full":120,"peak_entries":7,"transient_peak_entries":7,"byte_area":1952,"peak_bytes":224,"full_bytes":480}
)");
  const Result<MeasuredFootprint> measured = ReduceLedgerFile(path);
  ASSERT_TRUE(measured.ok()) << measured.failure().message;
  EXPECT_EQ(measured->area, 61);
  EXPECT_EQ(measured->peak_entries, 7);
  const Result<FootprintResult> formula = FootprintOf(
      {.which = FootprintClass::kStreaming, .prompt = 10, .output = 5, .chunk = 4, .sinks = 1, .window = 2});
  ASSERT_TRUE(formula.ok());
  EXPECT_EQ(measured->footprint(), formula->footprint);
  EXPECT_EQ(measured->peak(), formula->peak);
  EXPECT_EQ(measured->byte_footprint(), formula->footprint);
  EXPECT_EQ(*measured, MeasuredOf(one.cache));
}

// Every event once: what the lines say is what the running ledger counted.
void TellEveryEvent(LedgerOnly& all) {
  Ledger& ledger = all.ledger();
  ledger.SetMetadataBytes(64);
  ledger.BeginPass(0, 9);
  for (int stream = 0; stream < 4; ++stream) {
    ledger.Append(stream, 0, 9, kEntryBytes);
    if (stream % 2 == 0) ledger.Transient(6);
    if (stream % 2 == 1) ledger.Transient(-6);
    ledger.Evict(stream, 2 + stream, 2, kEntryBytes, EvictTime::kAfterAttention);
  }
  ledger.EndPass();
  ledger.SetMetadataBytes(48);
  ledger.Rewrite(1, 0, 2, 2 * kEntryBytes, 20);
  for (int64_t t = 9; t < 14; ++t) {
    all.Pass(1);
    for (int stream = 0; stream < 4; ++stream) ledger.Evict(stream, t - 2, 1, kEntryBytes);
  }
  ledger.Evict(1, 0, 1, 10);
  ledger.Rewrite(1, 1, 1, 10, 3);
  all.Pass(1);
}

TEST(LedgerFile, EveryEventSurvivesTheFile) {
  LedgerOnly all(2, 2);
  TellEveryEvent(all);
  const TempFolder folder;
  ASSERT_TRUE(WriteLedgerFile(folder / "ledger", all.cache).ok());
  const Result<MeasuredFootprint> measured = ReduceLedgerFile(folder / "ledger");
  ASSERT_TRUE(measured.ok()) << measured.failure().message;
  EXPECT_EQ(*measured, MeasuredOf(all.cache));
  EXPECT_EQ(measured->peak_entries, 36);
  EXPECT_EQ(measured->transient_peak_entries, 42);
  EXPECT_EQ(measured->peak_bytes, 36 * kEntryBytes + 64);
  const Ledger& ledger = all.ledger();
  EXPECT_EQ(measured->footprint(), ledger.Footprint());
  EXPECT_EQ(measured->peak(), ledger.Peak());
  EXPECT_EQ(measured->transient_peak(), ledger.TransientPeak());
  EXPECT_EQ(measured->byte_footprint(), ledger.ByteFootprint(TierKind::kHost, kEntryBytes));
  EXPECT_EQ(measured->byte_peak(), ledger.BytePeak(TierKind::kHost, kEntryBytes));
}

// A cache of two tiers whose ledger alone is used.
struct TwoTierLedger {
  TwoTierLedger() { cache.ledger().set_recording(true); }
  Tier tier{TierKind::kHost};
  std::unique_ptr<RecordStore> slow = *RecordStore::Create("ram", ops::KvFormat{Dtype::kF16, kHeadDim}.block_bytes());
  SequenceCache cache{tier,
                      {.num_layers = 1,
                       .num_kv_heads = 2,
                       .format = {Dtype::kF16, kHeadDim},
                       .units = {.num_index_vectors = 1, .local_entries = 16}},
                      slow.get()};
};

void TellOffloads(Ledger& ledger) {
  ledger.SetMetadataBytes(40);
  ledger.BeginPass(0, 6);
  for (int stream = 0; stream < 2; ++stream) {
    ledger.Append(stream, 0, 6, kEntryBytes);
    ledger.Offload(stream, 1, 3, kEntryBytes, TierKind::kArena, EvictTime::kAfterAttention);
  }
  ledger.EndPass();
  ledger.SetMetadataBytes(TierKind::kArena, 8);
  for (int64_t t = 6; t < 9; ++t) {
    ledger.BeginPass(t, 1);
    for (int stream = 0; stream < 2; ++stream) ledger.Append(stream, t, 1, kEntryBytes);
    if (t == 7) ledger.Offload(1, 4, 2, kEntryBytes, TierKind::kArena, EvictTime::kAfterAttention);
    ledger.EndPass();
  }
}

TEST(LedgerFile, OffloadedEntriesLiveOnInTheSlowTier) {
  TwoTierLedger two;
  TellOffloads(two.cache.ledger());
  const TempFolder folder;
  ASSERT_TRUE(WriteLedgerFile(folder / "ledger", two.cache).ok());
  const Result<MeasuredFootprint> measured = ReduceLedgerFile(folder / "ledger");
  ASSERT_TRUE(measured.ok()) << measured.failure().message;
  EXPECT_EQ(*measured, MeasuredOf(two.cache));
  EXPECT_EQ(measured->footprint(), 1.0);
  ASSERT_TRUE(measured->slow.has_value());
  EXPECT_EQ(measured->slow->tier, TierKind::kArena);
  EXPECT_EQ(measured->slow->area, 3 * 6 * kEntryBytes + 2 * kEntryBytes + 3 * 8);
  EXPECT_EQ(measured->slow->peak, 8 * kEntryBytes + 8);
  EXPECT_EQ(measured->byte_area(), 2 * Triangle(9) * kEntryBytes + 9 * 40 + 3 * 8);
  EXPECT_EQ(measured->peak_bytes, 18 * kEntryBytes + 48);

  const std::string text = ReadFile(folder / "ledger");
  const auto refused = [&](const std::string& from, const std::string& to) {
    std::string changed = text;
    const size_t at = changed.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    changed.replace(at, from.size(), to);
    const Result<MeasuredFootprint> reduced = ReduceLedgerFile(folder.Write("bad", changed));
    EXPECT_FALSE(reduced.ok()) << to;
    return reduced.ok() ? "" : reduced.failure().message;
  };
  EXPECT_THAT(refused(R"(,"slow_tier":"arena")", ""), HasSubstr("the header names n"));
  EXPECT_THAT(refused(R"("slow_tier":"arena")", R"("slow_tier":"host")"), HasSubstr("are the same"));
  EXPECT_THAT(refused(R"("slow_tier":"arena")", R"("slow_tier":"cloud")"), HasSubstr("field slow_tier is none of"));
  EXPECT_THAT(refused(R"("event":"offload","layer":0,"kv_head":1,"position":4)",
                      R"("event":"offload","layer":0,"kv_head":1,"position":3)"),
              HasSubstr("the entry at position 3 of layer 0, KV head 1 has left the fast tier before"));
  EXPECT_THAT(refused(R"("event":"offload")", R"("event":"evict")"), HasSubstr(": area is "));
  EXPECT_THAT(refused(R"("tier":"arena"})", R"("tier":"disk"})"), HasSubstr("the header names no tier disk"));
}

TEST(LedgerFile, NothingSeenIsALedgerToo) {
  LedgerOnly none(2, 3);
  const TempFolder folder;
  ASSERT_TRUE(WriteLedgerFile(folder / "ledger", none.cache).ok());
  const Result<MeasuredFootprint> measured = ReduceLedgerFile(folder / "ledger");
  ASSERT_TRUE(measured.ok()) << measured.failure().message;
  EXPECT_EQ(measured->footprint(), 0.0);
  EXPECT_EQ(measured->byte_peak(), 0.0);
}

TEST(LedgerFile, RandomHistoriesSurviveTheFile) {
  const TempFolder folder;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    Rng rng(seed);
    LedgerOnly some(2, 2);
    Ledger& ledger = some.ledger();
    std::vector<std::map<int64_t, int64_t>> live(4);  // position -> bytes
    int64_t begin = 0;
    for (int pass = 0; pass < 30; ++pass) {
      const int64_t count = rng.Below(3) == 0 ? static_cast<int64_t>(rng.Below(9)) : 1;
      if (rng.Below(4) == 0) ledger.SetMetadataBytes(static_cast<int64_t>(rng.Below(50)));
      ledger.BeginPass(begin, count);
      for (int stream = 0; stream < 4 && count > 0; ++stream) {
        auto& entries = live[static_cast<size_t>(stream)];
        ledger.Append(stream, begin, count, 6);
        for (int64_t i = 0; i < count; ++i) entries[begin + i] = 6;
        const auto num_transient = static_cast<int64_t>(rng.Below(4));
        ledger.Transient(num_transient);
        ledger.Transient(-num_transient);
        const bool slides = stream < 2;  // drops its oldest entry each time, as a window does
        for (auto it = entries.begin(); it != entries.end();) {
          const uint64_t fate = rng.Below(8);
          if (slides ? entries.size() > 5 && it == entries.begin() : fate == 0) {
            ledger.Evict(stream, it->first, 1, it->second, EvictTime::kAfterAttention);
            it = entries.erase(it);
            continue;
          }
          if (fate == 1) {
            const auto new_bytes = static_cast<int64_t>(1 + rng.Below(9));
            ledger.Rewrite(stream, it->first, 1, it->second, new_bytes, EvictTime::kAfterAttention);
            it->second = new_bytes;
          }
          ++it;
        }
      }
      ledger.EndPass();
      begin += count;
    }
    ASSERT_TRUE(WriteLedgerFile(folder / "ledger", some.cache).ok());
    const Result<MeasuredFootprint> measured = ReduceLedgerFile(folder / "ledger");
    ASSERT_TRUE(measured.ok()) << measured.failure().message;
    ASSERT_EQ(*measured, MeasuredOf(some.cache)) << seed;
  }
}

class DamagedLedgerFile : public testing::Test {
 protected:
  DamagedLedgerFile() {
    LedgerOnly all(2, 2);
    TellEveryEvent(all);
    EXPECT_TRUE(WriteLedgerFile(folder_ / "ledger", all.cache).ok());
    lines_ = LinesOf(ReadFile(folder_ / "ledger"));
    EXPECT_GT(lines_.size(), 15u);
  }
  // The sentence with which text is refused.
  std::string Refused(const std::string& text, Error error = Error::kCorrupt) {
    const Result<MeasuredFootprint> measured = ReduceLedgerFile(folder_.Write("bad", text));
    EXPECT_FALSE(measured.ok()) << text;
    if (measured.ok()) return "";
    EXPECT_EQ(measured.failure().error, error);
    return measured.failure().message;
  }
  std::string RefusedLine(size_t idx, const std::string& line, Error error = Error::kCorrupt) {
    std::vector<std::string> lines = lines_;
    lines[idx] = line;
    return Refused(Joined(lines), error);
  }
  size_t FirstLineWith(const std::string& part) const {
    for (size_t i = 0; i < lines_.size(); ++i)
      if (lines_[i].find(part) != std::string::npos) return i;
    return 0;
  }

  TempFolder folder_;
  std::vector<std::string> lines_;
};

TEST_F(DamagedLedgerFile, TruncatedAnywhere) {
  for (size_t i = 0; i < lines_.size(); ++i) {
    const std::vector<std::string> before(lines_.begin(), lines_.begin() + static_cast<int64_t>(i));
    if (i > 0) {
      EXPECT_THAT(Refused(Joined(before)), HasSubstr("truncated after line " + std::to_string(i) + ":"));
    }
    for (const size_t length : {size_t{1}, lines_[i].size() / 2, lines_[i].size() - 1})
      EXPECT_THAT(Refused(Joined(before) + lines_[i].substr(0, length)),
                  AllOf(HasSubstr("bad line " + std::to_string(i + 1)), HasSubstr("truncated")));
  }
  // Without the last newline nothing is lost.
  const std::string text = Joined(lines_);
  EXPECT_TRUE(ReduceLedgerFile(folder_.Write("whole", text.substr(0, text.size() - 1))).ok());
}

TEST_F(DamagedLedgerFile, LinesLostOrRepeated) {
  for (size_t i = 0; i < lines_.size(); ++i) {
    std::vector<std::string> lines = lines_;
    lines.erase(lines.begin() + static_cast<int64_t>(i));
    EXPECT_THAT(Refused(Joined(lines)), HasSubstr("bad ")) << i;
    lines = lines_;
    lines.insert(lines.begin() + static_cast<int64_t>(i), lines_[i]);
    EXPECT_THAT(Refused(Joined(lines)), HasSubstr("bad line")) << i;
    lines = lines_;
    lines[i] = "";  // a blank line is no line; the others keep their numbers
    EXPECT_THAT(Refused(Joined(lines)), HasSubstr("bad ")) << i;
  }
}

// Any number of any line one more or less than written contradicts the others. Only where an eviction or rewrite
// happens may be changed into another history that adds up to the same.
TEST_F(DamagedLedgerFile, EveryNumberIsChecked) {
  for (size_t i = 0; i < lines_.size(); ++i) {
    const auto line = nlohmann::ordered_json::parse(lines_[i]);
    for (const auto& [name, value] : line.items()) {
      if (!value.is_number()) continue;
      const bool is_birth = line.contains("event") && line["event"] == "append";
      const bool is_place = name == "layer" || name == "kv_head" || name == "position";
      for (const int delta : {-1, 1}) {
        if (is_place && !is_birth) break;
        auto changed = line;
        changed[name] = value.get<int64_t>() + delta;
        EXPECT_THAT(RefusedLine(i, changed.dump(), name == "version" ? Error::kUnsupported : Error::kCorrupt),
                    HasSubstr("bad line "))
            << changed.dump();
      }
      auto changed = line;
      changed[name] = "7";
      EXPECT_THAT(RefusedLine(i, changed.dump()), HasSubstr("bad line " + std::to_string(i + 1) + ": field " + name));
      changed.erase(name);
      EXPECT_THAT(RefusedLine(i, changed.dump()),
                  HasSubstr("bad line " + std::to_string(i + 1) + ": field " + name + " is missing"));
    }
  }
}

TEST_F(DamagedLedgerFile, SaysWhatIsWrong) {
  EXPECT_THAT(RefusedLine(0, R"({"id": 1})"), HasSubstr("bad line 1: no ledger"));
  EXPECT_THAT(RefusedLine(0, R"({"format":"cachette-ledger","version":2})", Error::kUnsupported),
              HasSubstr("version 2"));
  EXPECT_THAT(RefusedLine(3, "{}"), HasSubstr("bad line 4: field event is missing"));
  EXPECT_THAT(RefusedLine(3, R"({"event":"born"})"), HasSubstr("bad line 4: unknown event 'born'"));
  EXPECT_THAT(RefusedLine(3, "[]"), HasSubstr("bad line 4 is no JSON object"));
  EXPECT_THAT(RefusedLine(3, "{"), HasSubstr("bad line 4: not valid JSON"));
  const auto line = [](const char* event, int layer, int position, int entries, int step, int stride, int bytes) {
    return nlohmann::json{{"event", event},     {"layer", layer}, {"kv_head", 0},     {"position", position},
                          {"entries", entries}, {"step", step},   {"stride", stride}, {"bytes", bytes}}
        .dump();
  };
  // Positions 0 to 14 of every stream are born in 32 bytes; position 4 of layer 1, KV head 0 dies at step 9.
  const size_t evict = FirstLineWith(R"("evict","layer":1,"kv_head":0,"position":4)");
  const std::string at = "bad line " + std::to_string(evict + 1);
  EXPECT_THAT(RefusedLine(evict, line("append", 1, 4, 1, 4, 1, 32)),
              HasSubstr(at + ": the entry at position 4 of layer 1, KV head 0 is written twice"));
  EXPECT_THAT(RefusedLine(evict, line("append", 1, 4, 1, 5, 1, 32)),
              HasSubstr(at + ": the entry at position 4 is born"));
  EXPECT_THAT(RefusedLine(evict, line("evict", 1, 4, 2, 4, 0, 64)), HasSubstr("outside its life"));
  EXPECT_THAT(RefusedLine(evict, line("evict", 1, 4, 2, 16, 0, 64)), HasSubstr("field step is 16, not from 4 to 15"));
  EXPECT_THAT(RefusedLine(evict, line("evict", 1, 4, 2, 15, 1, 64)), HasSubstr("outside its life"));
  EXPECT_THAT(RefusedLine(evict, line("evict", 1, 4, 2, 9, 0, 62)), HasSubstr("has 32 bytes, not 31"));
  EXPECT_THAT(RefusedLine(evict, line("evict", 1, 4, 2, 9, 0, 63)), HasSubstr("no whole number for each of 2"));
  EXPECT_THAT(RefusedLine(evict, line("evict", 2, 4, 2, 9, 0, 64)), HasSubstr("field layer is 2, not from 0 to 1"));
  EXPECT_THAT(RefusedLine(evict, line("evict", 0, 2, 1, 9, 0, 32)), HasSubstr("is evicted twice"));
  EXPECT_THAT(RefusedLine(evict, line("evict", 1, 4, 2, 10, 0, 64)), HasSubstr(": area is "));
  const size_t append = FirstLineWith(R"("append","layer":1,"kv_head":0)");
  EXPECT_THAT(RefusedLine(append, line("append", 1, 0, 5, 0, 1, 160)), HasSubstr("was never written"));
  EXPECT_THAT(Refused(Joined(lines_) + "{}\n"), HasSubstr("a line after the closing line"));
  EXPECT_EQ(ReduceLedgerFile(folder_ / "none").failure().error, Error::kNotFound);
  EXPECT_THAT(Refused("\n"), HasSubstr("holds no line"));
  // A header that asks for more memory than any ledger needs.
  EXPECT_THAT(
      RefusedLine(0, R"({"format":"cachette-ledger","version":1,"layers":1,"kv_heads":1,"tokens":99999999999})"),
      HasSubstr("field tokens is 99999999999"));
}

// Bytes changed, cut out or repeated: refused, or still a ledger whose figures hold together.
TEST_F(DamagedLedgerFile, RandomDamage) {
  const std::string whole = Joined(lines_);
  Rng rng(11);
  int num_refused = 0;
  for (int round = 0; round < 600; ++round) {
    std::string text = whole;
    const size_t at = rng.Below(text.size());
    const size_t length = 1 + rng.Below(8);
    switch (rng.Below(3)) {
      case 0: text[at] = "0123456789-,:\"{}[]e. x\n"[rng.Below(23)]; break;
      case 1: text.erase(at, length); break;
      default: text.insert(at, text.substr(at, length)); break;
    }
    const Result<MeasuredFootprint> measured = ReduceLedgerFile(folder_.Write("bad", text));
    if (!measured.ok()) {
      ++num_refused;
      continue;
    }
    EXPECT_GE(measured->area, measured->peak_entries) << text;
    EXPECT_GE(measured->transient_peak_entries, measured->peak_entries) << text;
    EXPECT_LE(measured->peak(), 1.0) << text;
  }
  EXPECT_GT(num_refused, 550);
}

TEST(LedgerFile, AFullDiskLeavesTheOldFile) {
  LedgerOnly all(2, 2);
  TellEveryEvent(all);
  const TempFolder folder;
  const std::string path = folder.Write("ledger", "as it was");
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit tight{100, before.rlim_max};
  const auto old_handler = signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &tight);
  const Result<void> written = WriteLedgerFile(path, all.cache);
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, old_handler);
  ASSERT_FALSE(written.ok());
  EXPECT_EQ(written.failure().error, Error::kIo);
  EXPECT_THAT(written.failure().message, HasSubstr("ledger: cannot write: File too large"));
  EXPECT_EQ(ReadFile(path), "as it was");
  EXPECT_THAT(WriteLedgerFile(folder / "none/ledger", all.cache).failure().message, HasSubstr("No such file"));
}

}  // namespace
}  // namespace cachette
