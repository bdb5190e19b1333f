#pragma once
// A picture of what a recipe kept: one row per layer and KV head, one column per stretch of the text.

#include <cstdint>
#include <string>
#include <vector>

#include "cache/sequence_cache.h"

namespace cachette {

struct KeptMap {
  int num_layers = 0;
  int num_kv_heads = 0;
  int num_columns = 0;
  int64_t num_tokens = 0;             // column c covers tokens [c, c + 1) * num_tokens / num_columns
  std::vector<float> kept;            // [num_layers][num_kv_heads][num_columns] share of its entries that is live
  std::vector<int64_t> live_entries;  // [num_layers][num_kv_heads]

  float KeptAt(int row, int column) const {
    return kept[static_cast<size_t>(row) * static_cast<size_t>(num_columns) + static_cast<size_t>(column)];
  }
};

// At most max_columns columns; fewer for a shorter text. No tokens: no columns.
KeptMap MapOfKept(const SequenceCache& cache, int max_columns = 256);

// A heat map as a self-contained SVG with title, axes and legend; the darker, the more of a stretch is kept.
std::string KeptMapSvg(const KeptMap& map, const std::string& title);

// What the picture shows, in a few lines: entries kept overall, by layer (least, most) and by tenth of the text.
std::string KeptMapText(const KeptMap& map);

}  // namespace cachette
