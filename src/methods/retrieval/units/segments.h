#pragma once
// What was generated between two boundaries of the layer (LouisKV, arXiv:2510.11292): a segment leaves the local buffer
// whole.

#include <algorithm>

#include "methods/retrieval/retrieval_part.h"

namespace cachette {

class Segments final : public UnitBuilder {
 public:
  const char* name() const override { return "segments"; }
  void VisitOptions(OptionVisitor& v) override {
    v(segment_entries, "segment_entries", "segments: most entries of a segment; a longer one is cut");
  }
  Result<void> Prepare(const CacheShape&) override {
    if (segment_entries > 0) return Ok();
    return Fail(Error::kInvalidArgument, fmt::format("segment_entries {} must be above 0", segment_entries));
  }
  int64_t prompt_window() const override { return ops::kBlockTokens; }  // of a prompt: pages
  int64_t NumToClose(const AgedEntries& aged) const override {
    const auto next = std::upper_bound(aged.boundaries.begin(), aged.boundaries.end(), aged.first_position);
    const int64_t length = next == aged.boundaries.end() ? segment_entries : *next - aged.first_position;
    const int64_t wanted = std::min(length, segment_entries);
    return aged.num_entries >= wanted ? wanted : 0;
  }
  int64_t most_open_entries() const override { return segment_entries - 1; }
  int64_t longest_unit() const override { return segment_entries; }
  int64_t most_padding_blocks(int64_t num_entries) const override { return num_entries; }
  int64_t run_entries() const override { return ops::kBlockTokens; }

  int64_t segment_entries = 64;
};

}  // namespace cachette
