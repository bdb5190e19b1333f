#include "eval/footprint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/nearest.h"
#include "cache/ledger.h"
#include "eval/json_lines.h"

namespace cachette {
namespace {

// Calls f(begin, end) for every prefill chunk.
template <class F>
void ForEachChunk(const FootprintParams& params, F f) {
  const int64_t n = params.prompt;
  // Tokens in chunks of equal size; the rest is one more chunk.
  int64_t regular = n, chunk = std::min(params.chunk_tokens(), n);
  if (params.which == FootprintClass::kPostfill) chunk = n;
  if (params.which == FootprintClass::kLocret) regular = std::max<int64_t>(n - params.local_len, 0);
  for (int64_t begin = 0; begin < regular; begin += chunk) f(begin, std::min(begin + chunk, regular));
  if (regular < n) f(regular, n);
}

// A streaming head: what it holds of the tokens before position a is min(a, sinks + window), fixed while a chunk runs.
class StreamingWalk {
 public:
  explicit StreamingWalk(const FootprintParams& params) : most_past_(params.sinks + params.window) {}

  int64_t Prefill(int64_t begin, int64_t end) {
    form_.area += Triangle(end - begin) + (end - begin) * Past(begin);
    return Point(end - begin + Past(begin));
  }
  int64_t Decode(int64_t begin, int64_t end) {
    const int64_t settled = std::clamp(most_past_, begin, end);  // from here on, every step holds the same
    form_.area += end - begin + Triangle(settled - 1) - Triangle(begin - 1) + (end - settled) * most_past_;
    return Point(1 + Past(end - 1));
  }
  const HeadForm& form() const { return form_; }

 private:
  int64_t Past(int64_t position) const { return std::min(position, most_past_); }
  int64_t Point(int64_t num_entries) {
    form_.peak_entries = std::max(form_.peak_entries, num_entries);
    return num_entries;
  }

  int64_t most_past_;
  HeadForm form_;
};

// A head that evicts from each chunk once it is done.
class EvictingWalk {
 public:
  explicit EvictingWalk(const FootprintParams& params)
      : sparsity_(params.sparsity),
        protected_(params.which == FootprintClass::kLocret ? params.stabilizers : params.protected_entries) {}

  int64_t Prefill(int64_t begin, int64_t end) {
    const int64_t z = end - begin;
    const int64_t held = Hold(z);
    // nearbyint rounds ties to even, as the published functions do; std::round does not.
    const auto kept = static_cast<int64_t>(std::nearbyint((1 - sparsity_) * static_cast<double>(z)));
    past_ += std::min(kept + protected_, z);
    return held;
  }
  int64_t Decode(int64_t begin, int64_t end) { return Hold(end - begin); }
  const HeadForm& form() const { return form_; }

 private:
  // z tokens one by one on top of the past.
  int64_t Hold(int64_t z) {
    form_.area += Triangle(z) + past_ * z;
    form_.peak_entries = std::max(form_.peak_entries, past_ + z);
    return past_ + z;
  }

  double sparsity_;
  int64_t protected_;
  int64_t past_ = 0;
  HeadForm form_;
};

Result<void> CheckRange(int64_t value, const char* name, const char* unit) {
  if (value >= 0 && value <= FootprintParams::kMaxTokens) return Ok();
  return Fail(Error::kInvalidArgument,
              fmt::format("{} is {}; it must be {} from 0 to {}", name, value, unit, FootprintParams::kMaxTokens));
}

Result<void> CheckFraction(double value, const char* name, const char* meaning) {
  if (value >= 0.0 && value <= 1.0) return Ok();
  return Fail(Error::kInvalidArgument, fmt::format("{} is {}; it is {}, from 0 to 1", name, value, meaning));
}

// The first of names that the object has.
Result<int64_t> ReadLength(const JsonLine& line, std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (line.object.contains(name)) return WholeNumber(line, name, 0, FootprintParams::kMaxTokens);
  return Fail(Error::kCorrupt,
              fmt::format("{}: a length is missing; give one of {}", line.where, fmt::join(names, ", ")));
}

}  // namespace

std::span<const FootprintClassRow> AllFootprintClasses() {
  static const std::vector<FootprintClassRow> rows = {
      {FootprintClass::kFull, "full", "every entry is kept", {}},
      {FootprintClass::kStreaming, "streaming", "sinks and a window", {"chunk", "sinks", "window"}},
      {FootprintClass::kPostfill, "postfill", "eviction once the whole prompt is read", {"sparsity"}},
      {FootprintClass::kChunked, "chunked", "eviction after every prefill chunk", {"chunk", "sparsity"}},
      {FootprintClass::kHeads,
       "heads",
       "streaming heads beside heads that keep all, or evict",
       {"chunk", "sparsity", "head_sparsity", "sinks", "window"}},
      {FootprintClass::kLocret,
       "locret",
       "eviction after every chunk, the last tokens being one",
       {"chunk", "sparsity", "local_len", "stabilizers"}},
  };
  return rows;
}

Result<const FootprintClassRow*> FindFootprintClass(const std::string& name) {
  std::vector<std::string> names;
  for (const FootprintClassRow& row : AllFootprintClasses()) {
    if (name == row.name) return &row;
    names.push_back(row.name);
  }
  const std::string nearest = NearestName(name, names);
  return Fail(Error::kInvalidArgument,
              fmt::format("unknown class '{}'{} (one of {})", name,
                          nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest), fmt::join(names, ", ")));
}

Result<void> Validate(const FootprintParams& p) {
  CACHETTE_TRY(CheckRange(p.prompt, "prompt", "a number of tokens"));
  CACHETTE_TRY(CheckRange(p.output, "output", "a number of tokens"));
  if (p.prompt + p.output == 0)
    return Fail(Error::kInvalidArgument, "prompt and output are both 0 tokens; a footprint needs at least one token");
  if (p.prompt + p.output > FootprintParams::kMaxTokens)
    return Fail(Error::kInvalidArgument, fmt::format("prompt {} and output {} are together more than {} tokens",
                                                     p.prompt, p.output, FootprintParams::kMaxTokens));
  if (p.chunk < 0)
    return Fail(Error::kInvalidArgument,
                fmt::format("chunk is {}; it must be at least 1 token, or 0, which stands for {}", p.chunk,
                            FootprintParams::kChunkOfZero));
  CACHETTE_TRY(CheckFraction(p.sparsity, "sparsity", "the removed fraction of each chunk"));
  CACHETTE_TRY(CheckFraction(p.head_sparsity, "head_sparsity", "the fraction of streaming heads"));
  CACHETTE_TRY(CheckRange(p.sinks, "sinks", "a number of tokens"));
  CACHETTE_TRY(CheckRange(p.window, "window", "a number of tokens"));
  CACHETTE_TRY(CheckRange(p.local_len, "local_len", "a number of tokens"));
  CACHETTE_TRY(CheckRange(p.stabilizers, "stabilizers", "a number of entries"));
  CACHETTE_TRY(CheckRange(p.protected_entries, "protected_entries", "a number of entries"));
  return Ok();
}

Result<FootprintResult> FootprintOf(const FootprintParams& params) {
  CACHETTE_TRY(Validate(params));
  const int64_t num_tokens = params.prompt + params.output;
  FootprintResult result;
  result.area_full = Triangle(num_tokens);
  if (params.which == FootprintClass::kFull) {
    result.footprint = result.peak = 1.0;
    return result;
  }
  const bool is_mixed = params.which == FootprintClass::kHeads;
  const bool has_streaming = is_mixed || params.which == FootprintClass::kStreaming;
  const bool has_evicting = !has_streaming || is_mixed;
  const double streaming_share = is_mixed ? params.head_sparsity : has_streaming ? 1.0 : 0.0;

  StreamingWalk streaming(params);
  EvictingWalk evicting(params);
  double peak_entries = 0.0;  // mean over heads at the same moment
  const auto hold = [&](int64_t in_streaming, int64_t in_evicting) {
    peak_entries = std::max(peak_entries, streaming_share * static_cast<double>(in_streaming) +
                                              (1 - streaming_share) * static_cast<double>(in_evicting));
  };
  ForEachChunk(params,
               [&](int64_t begin, int64_t end) { hold(streaming.Prefill(begin, end), evicting.Prefill(begin, end)); });
  if (params.output > 0) hold(streaming.Decode(params.prompt, num_tokens), evicting.Decode(params.prompt, num_tokens));

  const auto full = static_cast<double>(result.area_full);
  if (has_streaming) {
    result.streaming = streaming.form();
    result.footprint += streaming_share * static_cast<double>(streaming.form().area) / full;
  }
  if (has_evicting) {
    result.evicting = evicting.form();
    result.footprint += (1 - streaming_share) * static_cast<double>(evicting.form().area) / full;
  }
  result.peak = peak_entries / static_cast<double>(num_tokens);
  return result;
}

Result<std::vector<SampleLengths>> ReadSampleLengths(const std::string& path) {
  std::vector<SampleLengths> samples;
  CACHETTE_TRY(ForEachJsonLine(path, [&](const JsonLine& line) -> Result<void> {
    SampleLengths sample;
    CACHETTE_TRY(sample.prompt, ReadLength(line, {"n", "prompt_tokens", "prompt"}));
    CACHETTE_TRY(sample.output, ReadLength(line, {"m", "generated_tokens", "output"}));
    samples.push_back(sample);
    return Ok();
  }));
  if (samples.empty()) return Fail(Error::kCorrupt, fmt::format("{} holds no sample", path));
  return samples;
}

Result<MeanFootprint> MeanFootprintOf(const FootprintParams& params, std::span<const SampleLengths> samples) {
  if (samples.empty()) return Fail(Error::kInvalidArgument, "no sample to take the mean of");
  FootprintParams any = params;
  any.prompt = any.output = 1;
  CACHETTE_TRY(Validate(any));  // what is wrong with all samples is not said of the first
  MeanFootprint mean;
  for (size_t i = 0; i < samples.size(); ++i) {
    FootprintParams own = params;
    own.prompt = samples[i].prompt;
    own.output = samples[i].output;
    const Result<FootprintResult> result = FootprintOf(own);
    if (!result.ok())
      return Fail(result.failure().error, fmt::format("sample {}: {}", i + 1, result.failure().message));
    mean.footprint += result->footprint;
    mean.peak += result->peak;
  }
  mean.footprint /= static_cast<double>(samples.size());
  mean.peak /= static_cast<double>(samples.size());
  return mean;
}

}  // namespace cachette
