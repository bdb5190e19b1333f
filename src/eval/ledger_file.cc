#include "eval/ledger_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <tuple>
#include <vector>

#include "eval/json_lines.h"
#include "io/quoted.h"
#include "io/write_file.h"

namespace cachette {
namespace {

constexpr const char* kFormatName = "cachette-ledger";
constexpr int64_t kFormatVersion = 1;

// What the reader takes, so that sums stay within 63 bits and a damaged header asks for no absurd memory.
constexpr int64_t kMaxTokens = int64_t{1} << 24;
constexpr int64_t kMaxStreams = int64_t{1} << 15;
constexpr int64_t kMaxEntryBytes = int64_t{1} << 20;
constexpr int64_t kMaxMetadataBytes = int64_t{1} << 50;
constexpr int64_t kMaxTotal = INT64_MAX;

// What the closing line holds.
struct Total {
  const char* name;
  int64_t value;
};

std::vector<Total> TotalsOf(const MeasuredFootprint& measured) {
  std::vector<Total> totals = {
      {"area", measured.area},
      {"area_full", measured.area_full()},
      {"peak_entries", measured.peak_entries},
      {"transient_peak_entries", measured.transient_peak_entries},
      {"byte_area", measured.byte_area()},
      {"peak_bytes", measured.peak_bytes},
      {"full_bytes", measured.full_entry_bytes * measured.num_streams() * measured.num_tokens}};
  if (measured.slow) {
    totals.push_back({"slow_byte_area", measured.slow->area});
    totals.push_back({"slow_peak_bytes", measured.slow->peak});
    totals.push_back({"fast_peak_bytes", measured.fast.peak});
  }
  return totals;
}

// A ledger line, or several whose steps go up by one with each entry: a window that moves with the token.
struct Run {
  LedgerLine line;
  int64_t stride = 0;  // step of entry i: line.step + i * stride
  int64_t line_number = 0;

  int64_t StepOf(int64_t i) const { return line.step + i * stride; }
  int64_t LastStep() const { return StepOf(line.num_entries - 1); }
  int64_t entry_bytes() const { return line.bytes / line.num_entries; }
  int64_t old_entry_bytes() const { return line.old_bytes / line.num_entries; }
};

// Lines as runs, in order of their first entries.
std::vector<Run> RunsOf(std::span<const LedgerLine> lines, int num_streams) {
  std::vector<Run> runs;
  std::vector<int64_t> last_evicted(static_cast<size_t>(num_streams), -1);  // run of the stream's last eviction
  for (const LedgerLine& line : lines) {
    if (line.event != LedgerEvent::kEvict) {
      runs.push_back({line, line.event == LedgerEvent::kAppend ? 1 : 0});
      continue;
    }
    int64_t& last_idx = last_evicted[static_cast<size_t>(line.stream)];
    if (last_idx >= 0 && line.num_entries == 1) {
      Run& last = runs[static_cast<size_t>(last_idx)];
      const bool is_next = line.first_position == last.line.first_position + last.line.num_entries &&
                           line.step == last.LastStep() + 1 && (last.stride == 1 || last.line.num_entries == 1);
      if (is_next && line.bytes == last.entry_bytes()) {
        last.stride = 1;
        ++last.line.num_entries;
        last.line.bytes += line.bytes;
        continue;
      }
    }
    last_idx = static_cast<int64_t>(runs.size());
    runs.push_back({line});
  }
  return runs;
}

void AppendRun(const Run& run, const MeasuredFootprint& shape, std::string& out) {
  const LedgerLine& line = run.line;
  const auto to = std::back_inserter(out);
  fmt::format_to(to, R"({{"event":"{}")", LedgerEventName(line.event));
  if (line.event == LedgerEvent::kMetadata) {
    fmt::format_to(to, R"(,"step":{},"bytes":{})", line.step, line.bytes);
    if (line.tier != shape.fast.tier) fmt::format_to(to, R"(,"tier":"{}")", TierName(line.tier));
    out += '}';
  } else if (line.event == LedgerEvent::kTransient) {
    fmt::format_to(to, R"(,"step":{},"entries":{}}})", line.step, line.num_entries);
  } else {
    fmt::format_to(to, R"(,"layer":{},"kv_head":{},"position":{},"entries":{},"step":{},"stride":{})",
                   line.stream / shape.num_kv_heads, line.stream % shape.num_kv_heads, line.first_position,
                   line.num_entries, line.step, run.stride);
    if (line.event == LedgerEvent::kRewrite) fmt::format_to(to, R"(,"old_bytes":{})", line.old_bytes);
    fmt::format_to(to, R"(,"bytes":{}}})", line.bytes);
  }
  out += '\n';
}

Result<TierKind> TierOf(const JsonLine& line, const char* field) {
  const nlohmann::json name = line.object.value(field, nlohmann::json());
  for (const TierKind kind : {TierKind::kDevice, TierKind::kPinned, TierKind::kHost, TierKind::kArena, TierKind::kDisk})
    if (name == TierName(kind)) return kind;
  return Fail(Error::kCorrupt,
              fmt::format("{}: field {} is none of device, pinned, host, arena, disk", line.where, field));
}

// Reads the lines one after the other.
class LineReader {
 public:
  explicit LineReader(const std::string& path) : path_(path) {}

  Result<void> Take(const JsonLine& line);
  // Every line is there: header first, closing line last.
  Result<void> Finish() const;

  const MeasuredFootprint& shape() const { return shape_; }           // areas and peaks still 0
  const std::vector<int64_t>& declared() const { return declared_; }  // TotalsOf, as the closing line has them
  const std::string& closing_line() const { return closing_line_; }
  std::vector<Run>& runs() { return runs_; }
  std::string Where(const Run& run) const { return fmt::format("{} line {}", path_, run.line_number); }

 private:
  Result<void> TakeHeader(const JsonLine& line);
  Result<void> TakeTotals(const JsonLine& line);
  Result<Run> TakeRun(const JsonLine& json, LedgerEvent event) const;

  const std::string& path_;
  bool has_header_ = false;
  MeasuredFootprint shape_;
  std::vector<int64_t> declared_;
  std::string closing_line_;
  std::vector<Run> runs_;
};

Result<void> LineReader::Take(const JsonLine& line) {
  if (!closing_line_.empty())
    return Fail(Error::kCorrupt, fmt::format("{}: a line after the closing line", line.where));
  if (!has_header_) return TakeHeader(line);
  const auto it = line.object.find("event");
  if (it == line.object.end() || !it->is_string())
    return Fail(Error::kCorrupt, fmt::format("{}: field event is missing or no text", line.where));
  const auto& name = it->get_ref<const std::string&>();
  if (name == "end") return TakeTotals(line);
  for (const LedgerEvent event : {LedgerEvent::kAppend, LedgerEvent::kEvict, LedgerEvent::kRewrite,
                                  LedgerEvent::kOffload, LedgerEvent::kTransient, LedgerEvent::kMetadata}) {
    if (name != LedgerEventName(event)) continue;
    CACHETTE_TRY(Run run, TakeRun(line, event));
    run.line_number = line.number;
    runs_.push_back(run);
    return Ok();
  }
  return Fail(Error::kCorrupt, fmt::format("{}: unknown event {}", line.where, Quoted(name)));
}

Result<void> LineReader::TakeHeader(const JsonLine& line) {
  if (line.object.value("format", nlohmann::json()) != kFormatName)
    return Fail(Error::kCorrupt,
                fmt::format("{}: no ledger; its first line must have \"format\": \"{}\"", line.where, kFormatName));
  CACHETTE_TRY(const int64_t version, WholeNumber(line, "version", 0, kMaxTotal));
  if (version != kFormatVersion)
    return Fail(Error::kUnsupported,
                fmt::format("{}: ledger of version {}, this program reads {}", line.where, version, kFormatVersion));
  CACHETTE_TRY(const int64_t num_layers, WholeNumber(line, "layers", 1, kMaxStreams));
  CACHETTE_TRY(const int64_t num_kv_heads, WholeNumber(line, "kv_heads", 1, kMaxStreams / num_layers));
  CACHETTE_TRY(shape_.num_tokens, WholeNumber(line, "tokens", 0, kMaxTokens));
  CACHETTE_TRY(shape_.full_entry_bytes, WholeNumber(line, "full_entry_bytes", 1, kMaxEntryBytes));
  shape_.num_layers = static_cast<int>(num_layers);
  shape_.num_kv_heads = static_cast<int>(num_kv_heads);
  CACHETTE_TRY(shape_.fast.tier, TierOf(line, "tier"));
  if (line.object.contains("slow_tier")) {
    CACHETTE_TRY(const TierKind slow, TierOf(line, "slow_tier"));
    shape_.slow = {.tier = slow};
    if (slow == shape_.fast.tier)
      return Fail(Error::kCorrupt, fmt::format("{}: tier and slow_tier are the same", line.where));
  }
  has_header_ = true;
  return Ok();
}

Result<void> LineReader::TakeTotals(const JsonLine& line) {
  CACHETTE_TRY(const int64_t num_lines, WholeNumber(line, "lines", 0, kMaxTotal));
  if (num_lines != static_cast<int64_t>(runs_.size()))
    return Fail(Error::kCorrupt, fmt::format("{}: {} lines lie between header and closing line, which says {}",
                                             line.where, runs_.size(), num_lines));
  for (const Total& total : TotalsOf(shape_)) {
    CACHETTE_TRY(const int64_t declared, WholeNumber(line, total.name, 0, kMaxTotal));
    if (total.value != 0 && total.value != declared)  // the shape alone decides it
      return Fail(Error::kCorrupt, fmt::format("{}: {} is {}, but the header's shape makes it {}", line.where,
                                               total.name, declared, total.value));
    declared_.push_back(declared);
  }
  closing_line_ = line.where;
  return Ok();
}

Result<Run> LineReader::TakeRun(const JsonLine& json, LedgerEvent event) const {
  const std::string& where = json.where;
  Run run{.line = {.event = event, .stream = -1, .first_position = 0, .num_entries = 0, .step = 0, .bytes = 0}};
  LedgerLine& line = run.line;
  const int64_t num_tokens = shape_.num_tokens;
  if (event == LedgerEvent::kMetadata || event == LedgerEvent::kTransient) {
    CACHETTE_TRY(line.step, WholeNumber(json, "step", 0, num_tokens - 1));
    if (event == LedgerEvent::kMetadata) {
      CACHETTE_TRY(line.bytes, WholeNumber(json, "bytes", 0, kMaxMetadataBytes));
      line.tier = shape_.fast.tier;
      if (json.object.contains("tier")) {
        CACHETTE_TRY(line.tier, TierOf(json, "tier"));
      }
      if (line.tier != shape_.fast.tier && !(shape_.slow && line.tier == shape_.slow->tier))
        return Fail(Error::kCorrupt, fmt::format("{}: the header names no tier {}", where, TierName(line.tier)));
    } else {
      CACHETTE_TRY(line.num_entries, WholeNumber(json, "entries", 1, kMaxTokens * kMaxStreams));
    }
    return run;
  }
  if (event == LedgerEvent::kOffload && !shape_.slow)
    return Fail(Error::kCorrupt, fmt::format("{}: entries leave for a slow tier, and the header names none", where));
  CACHETTE_TRY(const int64_t layer, WholeNumber(json, "layer", 0, shape_.num_layers - 1));
  CACHETTE_TRY(const int64_t kv_head, WholeNumber(json, "kv_head", 0, shape_.num_kv_heads - 1));
  line.stream = static_cast<int32_t>(layer * shape_.num_kv_heads + kv_head);
  CACHETTE_TRY(line.first_position, WholeNumber(json, "position", 0, num_tokens - 1));
  CACHETTE_TRY(line.num_entries, WholeNumber(json, "entries", 1, num_tokens - line.first_position));
  // Nothing happens to an entry before it is born, and a death at the number of tokens lies behind the last step.
  const int64_t least_stride = event == LedgerEvent::kAppend ? 1 : 0;
  const int64_t most_stride = event == LedgerEvent::kEvict && line.num_entries > 1 ? 1 : least_stride;
  CACHETTE_TRY(run.stride, WholeNumber(json, "stride", least_stride, most_stride));
  CACHETTE_TRY(line.step, WholeNumber(json, "step", line.first_position, num_tokens));
  if (event == LedgerEvent::kAppend && line.step != line.first_position)
    return Fail(Error::kCorrupt,
                fmt::format("{}: the entry at position {} is born at step {}", where, line.first_position, line.step));
  const int64_t last_position = line.first_position + line.num_entries - 1;
  if (run.LastStep() < last_position || run.LastStep() > num_tokens)
    return Fail(Error::kCorrupt, fmt::format("{}: step {} of the entry at position {} is outside its life in {} tokens",
                                             where, run.LastStep(), last_position, num_tokens));
  const auto bytes_of = [&](const char* name) -> Result<int64_t> {
    CACHETTE_TRY(const int64_t bytes, WholeNumber(json, name, line.num_entries, line.num_entries * kMaxEntryBytes));
    if (bytes % line.num_entries == 0) return bytes;
    return Fail(Error::kCorrupt, fmt::format("{}: {} {} are no whole number for each of {} entries", where, bytes, name,
                                             line.num_entries));
  };
  CACHETTE_TRY(line.bytes, bytes_of("bytes"));
  if (event == LedgerEvent::kRewrite) {
    CACHETTE_TRY(line.old_bytes, bytes_of("old_bytes"));
  }
  return run;
}

Result<void> LineReader::Finish() const {
  if (!has_header_) return Fail(Error::kCorrupt, fmt::format("{} holds no line", path_));
  if (closing_line_.empty())
    return Fail(Error::kCorrupt,
                fmt::format("{} is truncated after line {}: the closing line is missing", path_, runs_.size() + 1));
  return Ok();
}

// Lets every entry live through its lines, stream by stream, and adds up what each step held.
class Replay {
 public:
  explicit Replay(LineReader& lines)
      : lines_(lines),
        num_tokens_(lines.shape().num_tokens),
        live_(static_cast<size_t>(num_tokens_) + 1),
        fast_bytes_(static_cast<size_t>(num_tokens_) + 1),
        slow_bytes_(static_cast<size_t>(num_tokens_) + 1),
        entries_(static_cast<size_t>(num_tokens_)) {}

  Result<MeasuredFootprint> Reduce();

 private:
  struct Entry {
    int64_t bytes = 0;      // 0: never written
    int64_t last_step = 0;  // birth, or the last rewrite or offload
    bool is_offloaded = false;
    bool is_dead = false;
  };

  Result<void> Play(const Run& run);
  Result<void> PlayEntry(const Run& run, int64_t i);
  LineReader& lines_;
  int64_t num_tokens_;
  std::vector<int64_t> live_, fast_bytes_, slow_bytes_;  // [num_tokens + 1], changes at each step
  std::vector<Entry> entries_;                           // [num_tokens], of the stream being played
};

Result<void> Replay::PlayEntry(const Run& run, int64_t i) {
  const int64_t position = run.line.first_position + i;
  const int64_t step = run.StepOf(i);
  Entry& entry = entries_[static_cast<size_t>(position)];
  const auto fail = [&](const std::string& what) {
    const int num_kv_heads = lines_.shape().num_kv_heads;
    return Fail(Error::kCorrupt,
                fmt::format("{}: the entry at position {} of layer {}, KV head {} {}", lines_.Where(run), position,
                            run.line.stream / num_kv_heads, run.line.stream % num_kv_heads, what));
  };
  const auto at = static_cast<size_t>(step);
  if (run.line.event == LedgerEvent::kAppend) {
    if (entry.bytes > 0) return fail("is written twice");
    entry = {.bytes = run.entry_bytes(), .last_step = step};
    live_[at] += 1;
    fast_bytes_[at] += entry.bytes;
    return Ok();
  }
  if (entry.bytes == 0) return fail("was never written");
  if (entry.is_dead) return fail("is evicted twice");
  if (entry.is_offloaded) return fail("has left the fast tier before");
  if (step < entry.last_step) return fail(fmt::format("changes at step {}, after its end", entry.last_step));
  const bool is_rewrite = run.line.event == LedgerEvent::kRewrite;
  if (const int64_t bytes = is_rewrite ? run.old_entry_bytes() : run.entry_bytes(); bytes != entry.bytes)
    return fail(fmt::format("has {} bytes, not {}", entry.bytes, bytes));
  fast_bytes_[at] -= entry.bytes;
  entry.last_step = step;
  if (is_rewrite) {
    entry.bytes = run.entry_bytes();
    fast_bytes_[at] += entry.bytes;
  } else if (run.line.event == LedgerEvent::kOffload) {
    entry.is_offloaded = true;
    slow_bytes_[at] += entry.bytes;
  } else {
    entry.is_dead = true;
    live_[at] -= 1;
  }
  return Ok();
}

Result<void> Replay::Play(const Run& run) {
  for (int64_t i = 0; i < run.line.num_entries; ++i) CACHETTE_TRY(PlayEntry(run, i));
  return Ok();
}

Result<MeasuredFootprint> Replay::Reduce() {
  // Streams one after the other, passes' figures first: births, then rewrites and offloads in time, then deaths.
  std::vector<Run>& runs = lines_.runs();
  std::stable_sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) {
    const auto phase = [](const Run& run) {
      return run.line.event == LedgerEvent::kAppend ? 0 : run.line.event == LedgerEvent::kEvict ? 2 : 1;
    };
    return std::tuple(a.line.stream, phase(a), a.line.step) < std::tuple(b.line.stream, phase(b), b.line.step);
  });
  std::vector<int64_t> transient(static_cast<size_t>(num_tokens_));  // [num_tokens], of the pass that ends there
  int64_t fast_metadata = 0, slow_metadata = 0;
  int32_t stream = -1;
  for (const Run& run : runs) {
    if (run.line.event == LedgerEvent::kTransient) {
      transient[static_cast<size_t>(run.line.step)] = run.line.num_entries;
    } else if (run.line.event == LedgerEvent::kMetadata) {
      const bool is_fast = run.line.tier == lines_.shape().fast.tier;
      int64_t& metadata = is_fast ? fast_metadata : slow_metadata;
      (is_fast ? fast_bytes_ : slow_bytes_)[static_cast<size_t>(run.line.step)] += run.line.bytes - metadata;
      metadata = run.line.bytes;
    } else {
      if (run.line.stream != stream) std::fill(entries_.begin(), entries_.end(), Entry());
      stream = run.line.stream;
      CACHETTE_TRY(Play(run));
    }
  }
  MeasuredFootprint measured = lines_.shape();
  MeasuredFootprint::Bytes slow;
  int64_t live = 0, fast_bytes = 0, slow_bytes = 0, byte_area = 0;
  for (size_t step = 0; step < static_cast<size_t>(num_tokens_); ++step) {
    live += live_[step];
    fast_bytes += fast_bytes_[step];
    slow_bytes += slow_bytes_[step];
    measured.area += live;
    measured.peak_entries = std::max(measured.peak_entries, live);
    measured.transient_peak_entries = std::max(measured.transient_peak_entries, live + transient[step]);
    measured.fast.peak = std::max(measured.fast.peak, fast_bytes);
    slow.peak = std::max(slow.peak, slow_bytes);
    measured.peak_bytes = std::max(measured.peak_bytes, fast_bytes + slow_bytes);
    if (__builtin_add_overflow(byte_area, fast_bytes + slow_bytes, &byte_area))
      return Fail(Error::kCorrupt, fmt::format("{}: more bytes than can be counted", lines_.closing_line()));
    slow.area += slow_bytes;
  }
  measured.fast.area = byte_area - slow.area;
  if (measured.slow) {
    slow.tier = measured.slow->tier;
    measured.slow = slow;
  }
  return measured;
}

}  // namespace

MeasuredFootprint MeasuredOf(const SequenceCache& cache) {
  const Ledger& ledger = cache.ledger();
  const ops::KvFormat full_format{.dtype = Dtype::kF16, .head_dim = cache.shape().format.head_dim};
  MeasuredFootprint measured;
  measured.num_layers = cache.shape().num_layers;
  measured.num_kv_heads = cache.shape().num_kv_heads;
  measured.num_tokens = ledger.num_tokens();
  measured.full_entry_bytes = static_cast<int64_t>(full_format.entry_bytes());
  measured.area = ledger.Area();
  measured.peak_entries = ledger.PeakEntries();
  measured.transient_peak_entries = ledger.TransientPeakEntries();
  const auto bytes_in = [&](TierKind tier) {
    return MeasuredFootprint::Bytes{tier, ledger.ByteArea(tier), ledger.PeakBytes(tier)};
  };
  measured.fast = bytes_in(ledger.tier());
  if (cache.has_units()) measured.slow = bytes_in(cache.slow()->kind());
  measured.peak_bytes = ledger.PeakBytes();
  return measured;
}

Result<void> WriteLedgerFile(const std::string& path, const SequenceCache& cache) {
  const MeasuredFootprint totals = MeasuredOf(cache);
  const std::vector<Run> runs = RunsOf(cache.ledger().lines(), cache.ledger().num_streams());
  std::string text = fmt::format(R"({{"format":"{}","version":{},"layers":{},"kv_heads":{},"tokens":{},"tier":"{}")",
                                 kFormatName, kFormatVersion, totals.num_layers, totals.num_kv_heads, totals.num_tokens,
                                 TierName(totals.fast.tier));
  if (totals.slow) fmt::format_to(std::back_inserter(text), R"(,"slow_tier":"{}")", TierName(totals.slow->tier));
  fmt::format_to(std::back_inserter(text), R"(,"full_entry_bytes":{}}})", totals.full_entry_bytes);
  text += '\n';
  for (const Run& run : runs) AppendRun(run, totals, text);
  fmt::format_to(std::back_inserter(text), R"({{"event":"end","lines":{})", runs.size());
  for (const Total& total : TotalsOf(totals))
    fmt::format_to(std::back_inserter(text), R"(,"{}":{})", total.name, total.value);
  text += "}";
  text += '\n';
  return WriteFile(path, std::as_bytes(std::span(text)));
}

Result<MeasuredFootprint> ReduceLedgerFile(const std::string& path) {
  LineReader lines(path);
  CACHETTE_TRY(ForEachJsonLine(path, [&](const JsonLine& line) { return lines.Take(line); }));
  CACHETTE_TRY(lines.Finish());
  CACHETTE_TRY(const MeasuredFootprint measured, Replay(lines).Reduce());
  const std::vector<Total> totals = TotalsOf(measured);
  for (size_t i = 0; i < totals.size(); ++i) {
    if (totals[i].value != lines.declared()[i])
      return Fail(Error::kCorrupt, fmt::format("{}: {} is {}, but the lines before add up to {}", lines.closing_line(),
                                               totals[i].name, lines.declared()[i], totals[i].value));
  }
  return measured;
}

}  // namespace cachette
