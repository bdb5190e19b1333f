#pragma once
// KV footprint and peak by the published closed forms. They are kept as published, ties of rounding and the 64 entries
// added to every chunk included; what a run really held is read from its ledger (eval/ledger_file.h).
// Source: arXiv:2506.17121, section 3 and its official analysis functions.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/options.h"
#include "base/result.h"

namespace cachette {

enum class FootprintClass : uint8_t { kFull, kStreaming, kPostfill, kChunked, kHeads, kLocret };

// What a class is called, what it means, and which options of FootprintParams besides prompt and output it reads.
struct FootprintClassRow {
  FootprintClass which;
  const char* name;
  const char* summary;
  std::vector<std::string_view> options;
};
std::span<const FootprintClassRow> AllFootprintClasses();
// Errors: kInvalidArgument, naming the nearest.
Result<const FootprintClassRow*> FindFootprintClass(const std::string& name);

// One sequence and one policy. A head evicts from each prefill chunk of z tokens all but
// round_half_even((1 - sparsity) z) + protected_entries; generated tokens are never evicted by it.
struct FootprintParams {
  static constexpr int64_t kChunkOfZero = 131072;
  static constexpr int64_t kMaxTokens = (int64_t{1} << 31) - 1;  // areas stay within 63 bits

  FootprintClass which = FootprintClass::kFull;
  int64_t prompt = 0;
  int64_t output = 0;
  int64_t chunk = 32768;
  double sparsity = 0.0;
  double head_sparsity = 0.0;
  int64_t sinks = 128;
  int64_t window = 1024;
  int64_t local_len = 100;
  int64_t stabilizers = 2500;      // kLocret: its protected entries
  int64_t protected_entries = 64;  // of the other evicting classes; a constant of the published analysis

  int64_t chunk_tokens() const { return chunk == 0 ? kChunkOfZero : chunk; }

  // Names as on the command line.
  void VisitOptions(OptionVisitor& v) {
    v(prompt, "prompt", "prompt tokens");
    v(output, "output", "generated tokens");
    v(chunk, "chunk", "prompt tokens per prefill chunk; 0 stands for 131072");
    v(sparsity, "sparsity", "fraction of each chunk's entries that is removed, 0 to 1");
    v(head_sparsity, "head_sparsity", "fraction of KV heads that are streaming heads, 0 to 1");
    v(sinks, "sinks", "first tokens that a streaming head always keeps");
    v(window, "window", "last tokens that a streaming head keeps");
    v(local_len, "local_len", "last prompt tokens that are a chunk of their own");
    v(stabilizers, "stabilizers", "entries kept of each chunk beyond the fraction");
  }
};

// Errors: kInvalidArgument, one sentence.
Result<void> Validate(const FootprintParams& params);

// One KV head over the whole sequence.
struct HeadForm {
  int64_t area = 0;          // entry-steps
  int64_t peak_entries = 0;  // at the worst step
};

struct FootprintResult {
  int64_t area_full = 0;              // of a full head: tri(prompt + output)
  std::optional<HeadForm> streaming;  // of a streaming head: kStreaming, kHeads
  std::optional<HeadForm> evicting;   // of an evicting head, or one that keeps all: the others but kFull
  double footprint = 0.0;             // mean over heads of area / area_full
  double peak = 0.0;                  // largest mean over heads at one step / (prompt + output)
};

// Cost: one step per chunk. Errors: those of Validate.
Result<FootprintResult> FootprintOf(const FootprintParams& params);

// Tokens of one sample: prompt, and output as the method under test generated it.
struct SampleLengths {
  int64_t prompt = 0;
  int64_t output = 0;
};

// JSON lines, an object each: prompt, prompt_tokens or n; output, generated_tokens or m. Other fields are ignored,
// blank lines too. Errors: kNotFound, kIo, kCorrupt naming the line; a file without a sample.
Result<std::vector<SampleLengths>> ReadSampleLengths(const std::string& path);

struct MeanFootprint {
  double footprint = 0.0;
  double peak = 0.0;
};

// Means of the samples' own footprints and peaks; params.prompt and params.output are replaced by each sample's.
// Errors: those of Validate, naming the sample; no sample.
Result<MeanFootprint> MeanFootprintOf(const FootprintParams& params, std::span<const SampleLengths> samples);

}  // namespace cachette
