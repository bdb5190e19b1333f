#pragma once
// Similar keys together, wherever they stand: spherical k-means over the keys of a KV head (ClusterKV,
// arXiv:2412.03213; LouisKV, arXiv:2510.11292), within windows of the prompt or over all of it.

#include "methods/retrieval/retrieval_part.h"
#include "ops/retrieval/kmeans.h"

namespace cachette {

class Clusters final : public UnitBuilder {
 public:
  struct Defaults {
    int64_t keys = 16;  // of a cluster, on average
    int64_t window = 0;
    int64_t close_every = 320;  // entries of the output
    int64_t cap = 2;
  };
  explicit Clusters(const Defaults& defaults)
      : cluster_keys(defaults.keys), window(defaults.window), close_every(defaults.close_every), cap(defaults.cap) {}
  const char* name() const override { return "clusters"; }
  void VisitOptions(OptionVisitor& v) override {
    v(cluster_keys, "cluster_keys", "clusters: keys of a cluster on average");
    v(cap, "cluster_cap", "clusters: most keys of a cluster, in multiples of cluster_keys; 0: no limit");
    v(window, "cluster_window", "clusters: prompt entries clustered together, a multiple of 16; 0: the whole prompt");
    v(is_two_level, "two_level", "clusters: k-means of cells, then inside each cell, instead of one over all keys");
    v(iterations, "iterations", "clusters: k-means iterations");
    v(close_every, "close_every", "clusters: output entries clustered together, a multiple of 16");
    v(seed, "cluster_seed", "clusters: of the first centroids");
  }
  Result<void> Prepare(const CacheShape&) override {
    const auto refuse = [](const char* option, int64_t value, const char* must) {
      return Fail(Error::kInvalidArgument, fmt::format("{} {} must be {}", option, value, must));
    };
    if (cluster_keys < 1) return refuse("cluster_keys", cluster_keys, "1 or more");
    if (cap < 0) return refuse("cluster_cap", cap, "0 (no limit) or more");
    if (window < 0 || window % ops::kBlockTokens != 0)
      return refuse("cluster_window", window, "0 (the whole prompt) or a multiple of 16");
    if (iterations < 1) return refuse("iterations", iterations, "1 or more");
    if (close_every < 1 || close_every % ops::kBlockTokens != 0)
      return refuse("close_every", close_every, "a positive multiple of 16");
    return Ok();
  }
  int64_t prompt_window() const override { return window; }
  int64_t NumToClose(const AgedEntries& aged) const override {
    return aged.num_entries >= close_every ? close_every : 0;
  }
  int64_t most_open_entries() const override { return close_every - 1; }
  int64_t longest_unit() const override { return cap * cluster_keys; }
  int64_t most_padding_blocks(int64_t num_entries) const override {  // one of every cluster
    const int64_t num_windows = window > 0 ? (num_entries + window - 1) / window : 1;
    return num_entries / cluster_keys + num_windows;
  }
  void Group(Context& cx, std::span<KeyGroup> groups, int head_dim) const override {
    std::vector<ops::KMeansProblem> problems;
    for (KeyGroup& group : groups) {
      group.labels.resize(static_cast<size_t>(group.num_keys));
      problems.push_back({.keys = group.keys,
                          .num_keys = group.num_keys,
                          .num_clusters = (group.num_keys + cluster_keys - 1) / cluster_keys,
                          .labels = group.labels.data()});
    }
    std::vector<int64_t> num_made(groups.size());
    ops::ClusterKeys(cx,
                     {.problems = problems,
                      .head_dim = head_dim,
                      .num_iterations = static_cast<int>(iterations),
                      .max_cluster_keys = cap * cluster_keys,
                      .is_two_level = is_two_level,
                      .seed = static_cast<uint64_t>(seed)},
                     num_made);
  }

  int64_t cluster_keys;
  int64_t window;
  int64_t close_every;
  int64_t cap;
  int64_t iterations = 4;
  bool is_two_level = true;
  int64_t seed = 0;
};

}  // namespace cachette
