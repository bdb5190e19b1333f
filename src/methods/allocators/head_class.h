#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "methods/part.h"

namespace cachette {

// Two classes of KV heads: retrieval heads keep everything, streaming heads only what is protected. The classes come
// from a mask or alpha file: num_layers lines of num_kv_heads numbers in [0, 1], separated by tabs, commas or blanks.
// Without head_sparsity a head streams when its number is below 0.5; with it, that fraction of all heads with the
// smallest numbers streams (ties: lower layer, then lower head first).
// Source: DuoAttention, arXiv:2410.10819, section 2.2; PruLong, arXiv:2506.17121.
class HeadClass final : public Allocator {
 public:
  const char* name() const override { return "head_class"; }
  void VisitOptions(OptionVisitor& v) override;
  // Reads the file. Errors: kNotFound, kCorrupt (not numbers), kInvalidArgument (wrong shape, range).
  Result<void> Prepare(const CacheShape& shape) override;
  void Share(const LayerContest& contest, std::span<int64_t> num_kept) const override;

  std::string mask_file;
  double head_sparsity = -1.0;

 private:
  std::vector<uint8_t> is_streaming_;  // [num_layers][num_kv_heads]
};

}  // namespace cachette
