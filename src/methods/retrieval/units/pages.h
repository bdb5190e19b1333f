#pragma once
// Runs of consecutive positions, as Quest (arXiv:2406.10774) and ArkVale (NeurIPS 2024) have them.

#include "methods/retrieval/retrieval_part.h"

namespace cachette {

class Pages final : public UnitBuilder {
 public:
  explicit Pages(int64_t entries) : page_entries(entries) {}
  const char* name() const override { return "pages"; }
  void VisitOptions(OptionVisitor& v) override {
    v(page_entries, "page_entries", "pages: entries of a page, a multiple of 16");
  }
  Result<void> Prepare(const CacheShape&) override {
    if (page_entries > 0 && page_entries % ops::kBlockTokens == 0) return Ok();
    return Fail(Error::kInvalidArgument,
                fmt::format("page_entries {} must be a positive multiple of {}", page_entries, ops::kBlockTokens));
  }
  int64_t prompt_window() const override { return page_entries; }
  int64_t NumToClose(const AgedEntries& aged) const override {
    return aged.num_entries >= page_entries ? page_entries : 0;
  }
  int64_t most_open_entries() const override { return page_entries - 1; }
  int64_t longest_unit() const override { return page_entries; }
  int64_t run_entries() const override { return page_entries; }

  int64_t page_entries;
};

}  // namespace cachette
