#pragma once

#include <cstdint>
#include <span>

#include "tensor/context.h"

namespace cachette::ops {

// Keys to be put into clusters.
struct KMeansProblem {
  const float* keys = nullptr;  // [num_keys][head_dim]
  int64_t num_keys = 0;
  int64_t num_clusters = 0;   // wanted, at least 1; with a cap, num_clusters * max_cluster_keys >= num_keys
  int32_t* labels = nullptr;  // [num_keys], written: the cluster of each key
};

struct KMeansParams {
  std::span<const KMeansProblem> problems;
  int head_dim = 0;              // a multiple of 8, at most 256
  int num_iterations = 4;        // updates of the centroids; two-level: of the cells' and again of the clusters'
  int64_t max_cluster_keys = 0;  // most keys in a cluster; 0: no cap
  bool is_two_level = true;
  uint64_t seed = 0;
};

// Spherical k-means of every problem. Writes labels, and the number of clusters made to num_clusters_made [problems].
//
// Initial centroids are distinct keys drawn at random; a key belongs to the centroid of largest cosine, a centroid is
// the mean of its keys as they are (ClusterKV, arXiv:2412.03213, section 3). Labels are 0, 1, ... in the order of each
// cluster's first key. Every label below the number made has a key: min(num_clusters, num_keys) clusters are made, less
// those that nothing joined (equal keys).
//
// With a cap no cluster exceeds it: crowded clusters raise a price that keys pay for joining, until few keys are too
// many; those move to the most similar cluster with room. is_two_level first makes about sqrt(num_clusters) cells on a
// sample of the keys and gives each cell its share of the clusters: num_keys * sqrt(num_clusters) * 4 * head_dim
// operations per iteration instead of num_keys * num_clusters * 2 * head_dim.
//
// The labels of a problem depend on its keys, the params and the instruction set (f32 sums in another order may decide
// ties differently), not on the threads or on the other problems. A zero key has cosine 0 to all. Keys must be finite.
// Scratch from cx: 8 bytes per key of all problems and, per thread, num_keys * head_dim floats of the largest problem
// and with a cap as many floats as num_keys * (number of centroids it is compared with).
void ClusterKeys(Context& cx, const KMeansParams& params, std::span<int64_t> num_clusters_made);

}  // namespace cachette::ops
