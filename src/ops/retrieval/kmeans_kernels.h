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

// sums[labels[i]] += key order[i] for each i in turn.
struct KeySums {
  const float* keys;  // [..][head_dim]
  const int32_t* order;
  const int32_t* labels;
  int64_t num_keys;
  int head_dim;
  float* sums;  // [num_centroids][head_dim]
};

// Which key should change places with one of cluster own? The first of largest gain above least_gain: gain of key i =
// key_scores[labels[i]] - key_scores[own] + scores[own][i] - own_scores[i].
struct KeyExchange {
  const float* scores;      // [num_tiles][num_centroids][64]
  const float* own_scores;  // [num_tiles][64] with the own centroid; infinity past the last key
  const int32_t* labels;    // [num_tiles][64]
  const float* key_scores;  // [num_centroids], of the key that moves
  int32_t own;
  int num_tiles;
  int num_centroids;
  float least_gain;
};

struct KMeansKernels {
  void (*pack)(const KeyPack& pack);
  void (*score)(const KeyScores& scores);
  void (*pick)(const CentroidPick& pick);
  void (*add_keys)(const KeySums& sums);
  void (*normalise)(const float* x, int head_dim, float* unit);  // x over its length; zero stays zero
  int32_t (*exchange)(const KeyExchange& exchange);              // the key's number, -1: none
  // The rank-th smallest (0: the smallest) of count floats >= 0; x is padded to a multiple of 8 with infinity.
  float (*select)(const float* x, int count, int rank);
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
