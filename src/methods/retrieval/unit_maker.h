#pragma once
// Entries of a sequence become units: those of the prompt leave for the slow tier chunk by chunk and are grouped there,
// those of the output leave group by group once they are older than the recent window.

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "cache/sequence_cache.h"
#include "methods/recipe.h"

namespace cachette {

class UnitMaker {
 public:
  // Keys that are grouped at the same time, as f32; a KV head's are never split.
  static constexpr size_t kMostKeyBytes = 256u << 20;
  UnitMaker(std::shared_ptr<const Recipe> recipe, int num_layers, size_t most_key_bytes = kMostKeyBytes);

  // After a layer's attention over a chunk of the prompt. Returns the number of units made, over the layer's KV heads.
  // Errors: those of RecordStore; the sequence must be dropped then. So below.
  Result<int64_t> TakePrompt(Context& cx, SequenceCache& cache, int layer, bool is_last_chunk);
  // After a layer's attention at decode.
  Result<int64_t> TakeOutput(Context& cx, SequenceCache& cache, int layer);

  // The layer's trigger fired at this position of the output.
  void AddBoundary(int layer, int64_t position);

 private:
  Result<int64_t> GroupPages(Context& cx, SequenceCache& cache, int layer, int64_t num_pages,
                             const UnitBuilder& builder);
  Result<int64_t> GroupHeads(Context& cx, SequenceCache& cache, int layer, std::pair<int, int> heads, int64_t num_pages,
                             const UnitBuilder& builder);
  void IndexUnits(Context& cx, SequenceCache& cache, int layer, int head, int64_t first_unit,
                  std::span<const int32_t> entries, const float* keys);
  Result<void> CloseRun(Context& cx, SequenceCache& cache, int layer, int head, int64_t num_entries,
                        const UnitBuilder& builder);
  void AddIndex(SequenceCache& cache, int layer, int head, int64_t unit_idx, const float* keys, int64_t num_keys);

  std::shared_ptr<const Recipe> recipe_;
  std::vector<std::vector<int32_t>> boundaries_;  // [num_layers] positions, those of entries in units dropped
  std::vector<std::vector<float>> keys_;          // of the KV heads and entries being grouped
  size_t most_key_bytes_;
};

}  // namespace cachette
