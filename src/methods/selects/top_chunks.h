#pragma once

#include "methods/part.h"

namespace cachette {

// Keeps or drops runs of neighbouring tokens together: the text is cut at multiples of chunk_tokens, a run scores the
// mean of its entries, and the best whole runs that fit into the places stay. The next layers reuse the choice.
// Source: ChunkKV, arXiv:2502.00299, sections 3.2 and 3.3.
class TopChunks final : public Select {
 public:
  const char* name() const override { return "top_chunks"; }
  void VisitOptions(OptionVisitor& v) override;
  Result<void> Prepare(const CacheShape& shape) override;
  std::vector<RankRange> Losers(std::span<const float> scores, std::span<const int32_t> positions, int64_t num_kept,
                                std::span<const RankRange> protected_ranges) const override;
  int64_t layers_per_choice() const override { return reuse_layers; }

  int64_t chunk_tokens = 10;
  int64_t reuse_layers = 2;
};

}  // namespace cachette
