#pragma once
// What kmeans.cc and its kernels agree on; not for other files.

#include <cstdint>

#include "tensor/isa.h"

namespace cachette::ops {

inline constexpr int kKeyTile = 64;  // keys whose products are in registers together: four registers of 16 lanes

// Keys order[0 .. num_keys) -> tile [head_dim][64], each divided by its length (a zero key stays zero); keys past
// num_keys are zero.
struct KeyPack {
  const float* keys;     // [..][head_dim]
  const int32_t* order;  // [num_keys]
  int num_keys;          // at most 64
  int head_dim;
  float* tile;
};

// scores[c][i] = centroids[c] . key i of a tile.
struct KeyScores {
  const float* tile;       // [head_dim][64]
  const float* centroids;  // [num_centroids][head_dim]
  int num_centroids;
  int head_dim;
  float* scores;  // [num_centroids][64]
};

// The centroid with the largest scores[c][i] - prices[c] for each of 64 keys (the first of equals), and by how much it
// leads the next; infinity for a single centroid.
struct CentroidPick {
  const float* scores;  // [num_centroids][64]
  const float* prices;  // [num_centroids]
  int num_centroids;
  int32_t* labels;  // [64]
  float* margins;   // [64]
};

struct KMeansKernels {
  void (*pack)(const KeyPack& pack);
  void (*score)(const KeyScores& scores);
  void (*pick)(const CentroidPick& pick);
  void (*add_key)(const float* key, float* sum, int head_dim);  // sum += key
};

template <Isa>
KMeansKernels KMeansKernelsOf();
template <>
KMeansKernels KMeansKernelsOf<Isa::kRef>();
template <>
KMeansKernels KMeansKernelsOf<Isa::kAvx2>();
template <>
KMeansKernels KMeansKernelsOf<Isa::kAvx512>();
template <>
KMeansKernels KMeansKernelsOf<Isa::kAvx512Vnni>();
template <>
KMeansKernels KMeansKernelsOf<Isa::kAvx512Bf16>();

}  // namespace cachette::ops
