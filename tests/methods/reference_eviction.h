#pragma once
// What eviction methods keep, in double precision and by plain loops over whole attention rows. Written from their
// published descriptions and not from src/methods, which it checks.

#include <cstdint>
#include <string>
#include <vector>

#include "cache/pass.h"

namespace cachette::reference {

enum class Method : uint8_t { kH2o, kTova, kSnapKv, kPyramidKv, kAdaKv, kChunkKv, kRKv, kKeyNorm };

// How a method is run. Each reads what it knows of.
struct Settings {
  Method method = Method::kSnapKv;
  // When: after each prefill chunk or once the prompt is in; every so many decoded tokens (0: never).
  bool is_per_chunk = false;
  int64_t decode_every = 0;
  // How many: a cap on all entries of a KV head, or else a fraction of each chunk (of the prompt), and some more.
  int64_t budget = 0;
  double keep_fraction = 0.0;
  int64_t keep_extra = 0;

  int64_t window = 64;
  int64_t pool_width = 5;  // 1: none
  bool is_max_pool = false;
  bool is_group_max = false;   // the query heads' largest score instead of their mean
  bool pools_reduced = false;  // reduce the group, then pool
  bool is_normalised = false;  // H2O: per query that saw the entry; AdaKV: by each head's concentration
  double recent_share = 0.5;   // H2O
  int64_t beta = 20;           // PyramidKV
  double alpha = 0.2;          // AdaKV
  bool has_pyramid = false;    // AdaKV's skeleton
  int64_t run_tokens = 10;     // ChunkKV
  int64_t reuse_layers = 2;    // ChunkKV
  double lambda = 0.1;         // R-KV
  double similar = 0.5;        // R-KV
};

struct Shape {
  int num_layers = 1;
  int num_kv_heads = 1;
  int group_size = 1;
  int head_dim = 8;
  double scale = 1.0;
};

struct Entry {
  int64_t position = 0;
  std::vector<double> key;     // [head_dim]
  double attention_sum = 0.0;  // H2O
};

struct Query {
  int64_t position = 0;
  std::vector<double> q;  // [num_kv_heads * group_size][head_dim]
};

// One layer's entries, pass by pass. A check takes over what was really kept, so that a near-tie does not count twice.
class Eviction {
 public:
  Eviction(const Settings& settings, const Shape& shape);

  // One layer of a pass. q [num_tokens + num_transient][num_kv_heads * group_size][head_dim], keys
  // [...][num_kv_heads][head_dim]; kept [num_kv_heads] positions that a recipe holds afterwards, ascending. Returns
  // what is wrong with them, or nothing. Scores that f32 arithmetic cannot tell apart may change places.
  std::string Check(const PassInfo& pass, int layer, const float* q, const float* keys,
                    const std::vector<std::vector<int64_t>>& kept);

  int64_t num_choices() const { return num_choices_; }      // lists that lost entries
  int64_t num_near_ties() const { return num_near_ties_; }  // of them, those that differ from double precision

 private:
  struct Layer {
    std::vector<std::vector<Entry>> heads;  // [num_kv_heads], transient entries last while a pass is under way
    std::vector<Query> queries;             // of all tokens so far
    std::vector<int64_t> kept_of_prompt;    // [num_kv_heads]
  };

  // What is to be chosen from in one layer, and by which queries.
  struct Contest {
    std::vector<std::vector<Entry>> support;  // [num_kv_heads] competing entries, then the transient ones
    int64_t num_transient = 0;
    int64_t num_tokens = 0;  // T of the published formulas, less the transient ones
    int64_t num_places = 0;  // B, less the transient ones
    std::vector<Query> window;
    int64_t window_begin = 0;  // position of its first query
  };

  // Of one KV head: one value for each competing entry.
  struct Ranking {
    std::vector<double> score, tolerance;
    std::vector<bool> is_forced;
    int64_t num_kept = 0;
  };

  std::vector<double> Attention(const Query& query, int query_head, const std::vector<Entry>& entries,
                                bool before_window, int64_t window_begin) const;
  double Logit(const Query& query, int query_head, const Entry& entry) const;
  double RelativeError(const std::vector<Query>& queries, const std::vector<Entry>& entries) const;
  void AddAttention(Layer& state, const std::vector<Query>& rows);

  Contest Open(const Layer& state, const PassInfo& pass, const std::vector<Query>& rows) const;
  std::vector<Ranking> Rank(const Contest& contest, int layer) const;
  std::vector<double> WindowScores(const Contest& contest, size_t head) const;
  std::vector<double> Redundancy(const std::vector<Entry>& own, double similar) const;
  static int64_t WindowSize(const Contest& contest);
  int64_t PyramidPlaces(const Contest& contest, int layer) const;
  std::string SettleHeads(const Contest& contest, int layer, std::vector<Ranking>& rankings,
                          const std::vector<std::vector<bool>>& is_kept);
  std::string CheckRuns(const Contest& contest, int layer, const std::vector<Ranking>& rankings,
                        const std::vector<std::vector<bool>>& is_kept);
  std::string CheckRanking(const Ranking& ranking, const std::vector<bool>& is_kept);

  Settings settings_;
  Shape shape_;
  std::vector<Layer> layers_;
  int64_t num_decoded_ = 0;
  int64_t num_choices_ = 0, num_near_ties_ = 0;
  std::vector<std::vector<bool>> first_choice_;  // ChunkKV: of the layer whose choice the next ones share
};

}  // namespace cachette::reference
