#include "ops/retrieval/kmeans.h"

#include <omp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "base/result.h"
#include "base/rng.h"
#include "ops/retrieval/kmeans_kernels.h"
#include "ops/simd.h"

namespace cachette::ops {

namespace {

constexpr int64_t kMinTwoLevelClusters = 16;  // below, cells would hold a handful of clusters: one level costs no more
constexpr int64_t kSampledKeysPerCell = 96;   // that the cells' centroids are found with
// Keys up to which misplaced ones are exchanged: it takes a look at all keys each, which the sizes of cells are not
// worth.
constexpr int64_t kMaxExchangeKeys = 2048;
constexpr int kPriceRounds = 4;  // of the last assignment; what is crowded then is moved key by key
// A price rises by more than what one more cluster's excess asks for, since others rise too, and falls again where room
// is left. Both, like the number of rounds, are what did best on keys of SmolLM2 (docs/ops_retrieval.md).
constexpr float kPriceRise = 1.4f;
constexpr float kPriceFall = 0.8f;

int64_t NumTiles(int64_t num_keys) { return (num_keys + kKeyTile - 1) / kKeyTile; }

// Most keys and centroids that are worked on at once.
struct Extent {
  int64_t num_keys = 0;
  int64_t num_packed = 0;  // keys
  int64_t num_centroids = 0;
  int64_t num_kept_scores = 0;  // floats

  void Cover(int64_t keys, int64_t packed, int64_t centroids, bool keeps_scores) {
    num_keys = std::max(num_keys, keys);
    num_packed = std::max(num_packed, packed);
    num_centroids = std::max(num_centroids, centroids);
    num_kept_scores = std::max(num_kept_scores, (keeps_scores ? NumTiles(keys) : int64_t{1}) * kKeyTile * centroids);
  }
};

// What a thread needs.
struct Workspace {
  std::span<float> tiles;      // [tiles of the packed keys][head_dim][64]
  std::span<float> scores;     // [num_tiles, or 1 when they are not kept][num_centroids][64]
  std::span<float> centroids;  // [num_centroids][head_dim], of length 1 or 0
  std::span<float> sums;       // [num_centroids][head_dim]
  std::span<float> prices;     // [num_centroids]
  std::span<int32_t> counts;   // [num_centroids]
  std::span<int32_t> starts;   // [num_centroids + 1]
  std::span<int32_t> labels;   // [num_tiles][64]
  std::span<float> margins;    // [num_tiles][64]
  std::span<float> own;        // [num_tiles][64]
  std::span<int32_t> members;  // [num_keys]

  Workspace(ScratchArena& scratch, const Extent& extent, int head_dim) {
    const auto padded = static_cast<size_t>(NumTiles(extent.num_keys) * kKeyTile);
    const auto centroid_count = static_cast<size_t>(extent.num_centroids);
    tiles = scratch.Array<float>(static_cast<size_t>(NumTiles(extent.num_packed) * kKeyTile * head_dim));
    scores = scratch.Array<float>(static_cast<size_t>(extent.num_kept_scores));
    centroids = scratch.Array<float>(centroid_count * static_cast<size_t>(head_dim));
    sums = scratch.Array<float>(centroid_count * static_cast<size_t>(head_dim));
    prices = scratch.Array<float>(centroid_count);
    counts = scratch.Array<int32_t>(centroid_count);
    starts = scratch.Array<int32_t>(centroid_count + 1);
    labels = scratch.Array<int32_t>(padded);
    margins = scratch.Array<float>(padded);
    own = scratch.Array<float>(padded);
    members = scratch.Array<int32_t>(padded);
  }
};

// Keys being assigned to centroids: a problem, a sample of it or one of its cells.
class Clustering {
 public:
  // order [num_keys]: which rows of keys; it must outlive this.
  Clustering(const KMeansKernels& kernels, int head_dim, const float* keys, std::span<const int32_t> order,
             int64_t num_centroids, Workspace& work)
      : kernels_(kernels),
        head_dim_(head_dim),
        keys_(keys),
        order_(order),
        num_keys_(static_cast<int64_t>(order.size())),
        num_tiles_(NumTiles(num_keys_)),
        num_centroids_(num_centroids),
        work_(work) {
    std::fill_n(work_.prices.begin(), num_centroids_, 0.0f);
  }

  // Before keys are assigned, however often.
  void PackTiles() {
    for (int64_t t = 0; t < num_tiles_; ++t) Pack(t, TileAt(t));
  }

  // Centroids become distinct keys.
  void Seed(Rng& rng) {
    std::iota(work_.members.begin(), work_.members.begin() + num_keys_, 0);
    for (int64_t c = 0; c < num_centroids_; ++c) {
      std::swap(work_.members[static_cast<size_t>(c)],
                work_.members[static_cast<size_t>(c) + rng.Below(static_cast<uint64_t>(num_keys_ - c))]);
      const float* key = KeyAt(work_.members[static_cast<size_t>(c)]);
      std::copy(key, key + head_dim_, SumAt(c));
      StoreCentroid(c);
    }
  }

  void AssignNearest() {
    for (int64_t t = 0; t < num_tiles_; ++t) {
      kernels_.score(
          {TileAt(t), work_.centroids.data(), static_cast<int>(num_centroids_), head_dim_, work_.scores.data()});
      Pick(t, work_.scores.data());
    }
  }

  // The same of keys that are assigned to these centroids only once; scores are kept for SettleWithin.
  void PackAndAssign(bool keeps_scores) {
    for (int64_t t = 0; t < num_tiles_; ++t) {
      float* const scores = keeps_scores ? ScoresAt(t) : work_.scores.data();
      Pack(t, work_.tiles.data());
      kernels_.score({work_.tiles.data(), work_.centroids.data(), static_cast<int>(num_centroids_), head_dim_, scores});
      Pick(t, scores);
    }
  }

  // The nearest at current prices; crowded centroids become dearer for the next time, others cheaper.
  void AssignPriced(std::span<const int32_t> capacities) {
    AssignNearest();
    GroupMembers();
    for (int64_t c = 0; c < num_centroids_; ++c)
      if (CountOf(c) < capacities[static_cast<size_t>(c)]) work_.prices[static_cast<size_t>(c)] *= kPriceFall;
    RaisePrices(capacities);
  }

  // At most capacities[c] keys to centroid c; the capacities must be enough for all keys.
  void AssignWithin(std::span<const int32_t> capacities) {
    for (int64_t t = 0; t < num_tiles_; ++t)
      kernels_.score({TileAt(t), work_.centroids.data(), static_cast<int>(num_centroids_), head_dim_, ScoresAt(t)});
    SettleWithin(capacities);
  }
  // The same where the scores are there.
  void SettleWithin(std::span<const int32_t> capacities) {
    for (int round = 0;; ++round) {
      for (int64_t t = 0; t < num_tiles_; ++t) Pick(t, ScoresAt(t));
      GroupMembers();
      bool is_crowded = false;
      for (int64_t c = 0; c < num_centroids_; ++c) is_crowded |= CountOf(c) > capacities[static_cast<size_t>(c)];
      if (!is_crowded) break;
      if (round == kPriceRounds) {
        MoveExcess(capacities);
        break;
      }
      RaisePrices(capacities);
    }
  }

  // Each centroid becomes the mean of its keys; one without keys stays.
  void Update() {
    std::fill_n(work_.sums.begin(), num_centroids_ * head_dim_, 0.0f);
    std::fill_n(work_.counts.begin(), num_centroids_, 0);
    kernels_.add_keys({keys_, order_.data(), work_.labels.data(), num_keys_, head_dim_, work_.sums.data()});
    for (int64_t i = 0; i < num_keys_; ++i) ++work_.counts[static_cast<size_t>(work_.labels[static_cast<size_t>(i)])];
    for (int64_t c = 0; c < num_centroids_; ++c)
      if (work_.counts[static_cast<size_t>(c)] > 0) StoreCentroid(c);
  }

  std::span<const int32_t> labels() const { return work_.labels.first(static_cast<size_t>(num_keys_)); }

 private:
  float* TileAt(int64_t t) { return work_.tiles.data() + t * kKeyTile * head_dim_; }
  float* ScoresAt(int64_t t) { return work_.scores.data() + t * kKeyTile * num_centroids_; }
  float ScoreOf(int64_t i, int64_t c) const {
    return work_.scores[static_cast<size_t>((i / kKeyTile * num_centroids_ + c) * kKeyTile + i % kKeyTile)];
  }
  const float* KeyAt(int64_t i) const {
    return keys_ + static_cast<int64_t>(order_[static_cast<size_t>(i)]) * head_dim_;
  }
  float* SumAt(int64_t c) { return work_.sums.data() + c * head_dim_; }
  int32_t CountOf(int64_t c) const {
    return work_.starts[static_cast<size_t>(c) + 1] - work_.starts[static_cast<size_t>(c)];
  }
  std::span<int32_t> MembersOf(int64_t c) {
    return work_.members.subspan(static_cast<size_t>(work_.starts[static_cast<size_t>(c)]),
                                 static_cast<size_t>(CountOf(c)));
  }

  void StoreCentroid(int64_t c) { kernels_.normalise(SumAt(c), head_dim_, work_.centroids.data() + c * head_dim_); }

  void Pack(int64_t t, float* tile) {
    kernels_.pack({keys_, order_.data() + t * kKeyTile,
                   static_cast<int>(std::min<int64_t>(kKeyTile, num_keys_ - t * kKeyTile)), head_dim_, tile});
  }

  void Pick(int64_t t, const float* scores) {
    kernels_.pick({scores, work_.prices.data(), static_cast<int>(num_centroids_), work_.labels.data() + t * kKeyTile,
                   work_.margins.data() + t * kKeyTile});
  }

  // members: keys sorted by label, each label's in order.
  void GroupMembers() {
    std::fill_n(work_.starts.begin(), num_centroids_ + 1, 0);
    for (int64_t i = 0; i < num_keys_; ++i)
      ++work_.starts[static_cast<size_t>(work_.labels[static_cast<size_t>(i)]) + 1];
    std::inclusive_scan(work_.starts.begin(), work_.starts.begin() + num_centroids_ + 1, work_.starts.begin());
    std::copy_n(work_.starts.begin(), num_centroids_, work_.counts.begin());
    for (int64_t i = 0; i < num_keys_; ++i) {
      const auto c = static_cast<size_t>(work_.labels[static_cast<size_t>(i)]);
      work_.members[static_cast<size_t>(work_.counts[c]++)] = static_cast<int32_t>(i);
    }
  }

  // The members of a crowded cluster that lead its next best least, as many as are too many; the last of them leads
  // most.
  std::span<const uint64_t> ExcessOf(int64_t c, int32_t capacity) {
    leads_.clear();
    for (const int32_t i : MembersOf(c))  // floats >= 0 rank as their bits do
      leads_.push_back((static_cast<uint64_t>(std::bit_cast<uint32_t>(work_.margins[static_cast<size_t>(i)])) << 32) |
                       static_cast<uint32_t>(i));
    const auto excess = static_cast<std::ptrdiff_t>(CountOf(c) - capacity);
    std::nth_element(leads_.begin(), leads_.begin() + excess - 1, leads_.end());
    return std::span<const uint64_t>(leads_).first(static_cast<size_t>(excess));
  }

  // A crowded cluster gets dearer by just what makes its excess prefer another.
  void RaisePrices(std::span<const int32_t> capacities) {
    for (int64_t c = 0; c < num_centroids_; ++c) {
      const int32_t excess = CountOf(c) - capacities[static_cast<size_t>(c)];
      if (excess <= 0) continue;
      margins_of_.clear();
      for (const int32_t i : MembersOf(c)) margins_of_.push_back(work_.margins[static_cast<size_t>(i)]);
      margins_of_.resize((margins_of_.size() + 7) / 8 * 8, std::numeric_limits<float>::infinity());
      const float margin = kernels_.select(margins_of_.data(), CountOf(c), excess - 1);
      work_.prices[static_cast<size_t>(c)] += kPriceRise * margin + 1e-6f;
    }
  }

  // What prices could not settle: excess keys to the most similar cluster with room, and from there by exchange.
  void MoveExcess(std::span<const int32_t> capacities) {
    for (int64_t c = 0; c < num_centroids_; ++c) work_.counts[static_cast<size_t>(c)] = CountOf(c);
    moved_.clear();
    for (int64_t c = 0; c < num_centroids_; ++c) {
      const int32_t capacity = capacities[static_cast<size_t>(c)];
      if (CountOf(c) <= capacity) continue;
      for (const uint64_t lead : ExcessOf(c, capacity)) moved_.push_back(static_cast<int32_t>(lead & 0xffffffffu));
      work_.counts[static_cast<size_t>(c)] = capacity;
    }
    for (const int32_t i : moved_) {
      int64_t to = -1;
      for (int64_t c = 0; c < num_centroids_; ++c)
        if (work_.counts[static_cast<size_t>(c)] < capacities[static_cast<size_t>(c)] &&
            (to < 0 || ScoreOf(i, c) > ScoreOf(i, to)))
          to = c;
      work_.labels[static_cast<size_t>(i)] = static_cast<int32_t>(to);
      ++work_.counts[static_cast<size_t>(to)];
    }
    if (num_keys_ > kMaxExchangeKeys || moved_.empty()) return;
    std::fill_n(work_.own.begin(), num_tiles_ * kKeyTile, std::numeric_limits<float>::infinity());
    for (int64_t i = 0; i < num_keys_; ++i) SetOwn(i);
    for (const int32_t i : moved_) Exchange(i);
  }
  void SetOwn(int64_t i) { work_.own[static_cast<size_t>(i)] = ScoreOf(i, work_.labels[static_cast<size_t>(i)]); }

  // Key i changes places with the key where both together gain most cosine, if there is one.
  void Exchange(int64_t i) {
    key_scores_.clear();
    for (int64_t c = 0; c < num_centroids_; ++c) key_scores_.push_back(ScoreOf(i, c));
    int32_t& own = work_.labels[static_cast<size_t>(i)];
    const int64_t best =
        kernels_.exchange({work_.scores.data(), work_.own.data(), work_.labels.data(), key_scores_.data(), own,
                           static_cast<int>(num_tiles_), static_cast<int>(num_centroids_), /*least_gain=*/1e-6f});
    if (best < 0) return;
    std::swap(own, work_.labels[static_cast<size_t>(best)]);
    SetOwn(i);
    SetOwn(best);
  }

  const KMeansKernels& kernels_;
  const int head_dim_;
  const float* const keys_;
  const std::span<const int32_t> order_;
  const int64_t num_keys_, num_tiles_, num_centroids_;
  Workspace& work_;
  std::vector<uint64_t> leads_;
  std::vector<int32_t> moved_;
  std::vector<float> margins_of_;  // the members of a cluster, padded
  std::vector<float> key_scores_;  // [num_centroids]
};

// A share of a problem's keys that is clustered by itself.
struct Cell {
  int64_t problem = 0;
  int64_t begin = 0, end = 0;  // of the problem's order
  int64_t num_clusters = 0;
  int32_t first_label = 0;
};

// total split over parts in proportion to their weights (sum > 0), largest remainders first; a part with a weight gets
// at least one. Needs total >= parts with a weight.
std::vector<int64_t> Shares(std::span<const int64_t> weights, int64_t total) {
  const int64_t sum = std::accumulate(weights.begin(), weights.end(), int64_t{0});
  std::vector<int64_t> shares;
  std::vector<size_t> by_remainder(weights.size());
  int64_t left = total;
  for (const int64_t weight : weights) {
    shares.push_back(weight > 0 ? std::max<int64_t>(1, weight * total / sum) : 0);
    left -= shares.back();
  }
  std::iota(by_remainder.begin(), by_remainder.end(), 0);
  // What a part of one more than its due is short of, relative to its weight, decides; the first of equals.
  for (; left > 0; --left) {
    size_t to = weights.size();
    for (size_t i = 0; i < weights.size(); ++i)
      if (weights[i] > 0 && (to == weights.size() || weights[i] * shares[to] > weights[to] * shares[i])) to = i;
    ++shares[to];
  }
  for (; left < 0; ++left) {
    size_t from = weights.size();
    for (size_t i = 0; i < weights.size(); ++i)
      if (shares[i] > 1 && (from == weights.size() || weights[i] * shares[from] < weights[from] * shares[i])) from = i;
    --shares[from];
  }
  return shares;
}

class KMeans {
 public:
  KMeans(Context& cx, const KMeansParams& params)
      : cx_(cx), params_(params), kernels_(ForIsa(cx.isa(), []<Isa kIsa>() { return KMeansKernelsOf<kIsa>(); })) {}

  void Run(std::span<int64_t> num_clusters_made) {
    const ScratchScope scope(cx_.scratch());
    const size_t num_problems = params_.problems.size();
    cells_of_.resize(num_problems);
    for (const KMeansProblem& problem : params_.problems)
      orders_.push_back(cx_.scratch().Array<int32_t>(static_cast<size_t>(problem.num_keys)));
    MakeCells();
    ClusterCells();
    cx_.ParallelFor(static_cast<int64_t>(num_problems), [&](int64_t p) {
      num_clusters_made[static_cast<size_t>(p)] = NumberClusters(params_.problems[static_cast<size_t>(p)]);
    });
  }

 private:
  bool HasCap() const { return params_.max_cluster_keys > 0; }
  int64_t WantedOf(const KMeansProblem& problem) const { return std::min(problem.num_clusters, problem.num_keys); }
  int64_t NumCellsOf(const KMeansProblem& problem) const {
    const int64_t wanted = WantedOf(problem);
    if (!params_.is_two_level || wanted < kMinTwoLevelClusters) return 1;
    return std::llround(std::sqrt(static_cast<double>(wanted)));
  }

  // A cell's centroid is the mean of hundreds of keys: a sample finds it as well.
  int64_t NumSampledOf(const KMeansProblem& problem) const {
    return std::min(problem.num_keys, kSampledKeysPerCell * NumCellsOf(problem));
  }

  std::vector<Workspace> WorkspacesFor(const Extent& extent) {
    std::vector<Workspace> workspaces;
    for (int t = 0; t < cx_.num_threads(); ++t) workspaces.emplace_back(cx_.scratch(), extent, params_.head_dim);
    return workspaces;
  }
  static int ThreadIdx(int64_t num_tasks) { return num_tasks > 1 ? omp_get_thread_num() : 0; }

  void MakeCells() {
    const ScratchScope scope(cx_.scratch());
    Extent extent;
    for (const KMeansProblem& problem : params_.problems)
      if (NumCellsOf(problem) > 1) extent.Cover(problem.num_keys, NumSampledOf(problem), NumCellsOf(problem), HasCap());
    std::vector<Workspace> workspaces = WorkspacesFor(extent);
    const auto num_problems = static_cast<int64_t>(params_.problems.size());
    cx_.ParallelFor(num_problems, [&](int64_t p) {
      const auto idx = static_cast<size_t>(p);
      const KMeansProblem& problem = params_.problems[idx];
      if (problem.num_keys == 0) return;
      if (NumCellsOf(problem) > 1) {
        SplitIntoCells(p, workspaces[static_cast<size_t>(ThreadIdx(num_problems))]);
      } else {
        std::iota(orders_[idx].begin(), orders_[idx].end(), 0);
        cells_of_[idx].push_back({p, 0, problem.num_keys, WantedOf(problem), 0});
      }
    });
  }

  void SplitIntoCells(int64_t p, Workspace& work) {
    const KMeansProblem& problem = params_.problems[static_cast<size_t>(p)];
    const std::span<int32_t> order = orders_[static_cast<size_t>(p)];
    const int64_t num_cells = NumCellsOf(problem);
    Rng rng(params_.seed);
    std::iota(order.begin(), order.end(), 0);
    const int64_t num_sampled = NumSampledOf(problem);
    for (int64_t i = 0; i < num_sampled; ++i)
      std::swap(order[static_cast<size_t>(i)],
                order[static_cast<size_t>(i) + rng.Below(static_cast<uint64_t>(problem.num_keys - i))]);
    Clustering sample(kernels_, params_.head_dim, problem.keys, order.first(static_cast<size_t>(num_sampled)),
                      num_cells, work);
    sample.PackTiles();
    sample.Seed(rng);
    for (int i = 0; i < params_.num_iterations; ++i) {
      sample.AssignNearest();
      sample.Update();
    }
    std::iota(order.begin(), order.end(), 0);
    Clustering all(kernels_, params_.head_dim, problem.keys, order, num_cells, work);
    all.PackAndAssign(/*keeps_scores=*/HasCap());
    std::vector<int64_t> sizes(static_cast<size_t>(num_cells));
    const auto count = [&] {
      std::fill(sizes.begin(), sizes.end(), 0);
      for (const int32_t label : all.labels()) ++sizes[static_cast<size_t>(label)];
    };
    count();
    const std::vector<int64_t> shares = Shares(sizes, WantedOf(problem));
    if (HasCap()) {  // cells of whole clusters
      std::vector<int32_t> capacities;
      for (const int64_t share : shares) capacities.push_back(static_cast<int32_t>(share * params_.max_cluster_keys));
      all.SettleWithin(capacities);
      count();
    }
    std::vector<int64_t> begins(sizes.size());
    std::exclusive_scan(sizes.begin(), sizes.end(), begins.begin(), int64_t{0});
    int32_t first_label = 0;
    for (size_t c = 0; c < sizes.size(); ++c) {
      if (sizes[c] > 0)
        cells_of_[static_cast<size_t>(p)].push_back(
            {p, begins[c], begins[c] + sizes[c], std::min(shares[c], sizes[c]), first_label});
      first_label += static_cast<int32_t>(shares[c]);
    }
    for (size_t i = 0; i < all.labels().size(); ++i)
      order[static_cast<size_t>(begins[static_cast<size_t>(all.labels()[i])]++)] = static_cast<int32_t>(i);
  }

  void ClusterCells() {
    std::vector<Cell> cells;
    for (const std::vector<Cell>& own : cells_of_) cells.insert(cells.end(), own.begin(), own.end());
    Extent extent;
    for (const Cell& cell : cells) {
      const int64_t num_keys = cell.end - cell.begin;
      extent.Cover(num_keys, num_keys, cell.num_clusters, HasCap());
    }
    std::vector<Workspace> workspaces = WorkspacesFor(extent);
    const auto num_cells = static_cast<int64_t>(cells.size());
    cx_.ParallelFor(num_cells, [&](int64_t i) {
      ClusterCell(cells[static_cast<size_t>(i)], workspaces[static_cast<size_t>(ThreadIdx(num_cells))]);
    });
  }

  void ClusterCell(const Cell& cell, Workspace& work) {
    const KMeansProblem& problem = params_.problems[static_cast<size_t>(cell.problem)];
    const std::span<const int32_t> order = orders_[static_cast<size_t>(cell.problem)].subspan(
        static_cast<size_t>(cell.begin), static_cast<size_t>(cell.end - cell.begin));
    Rng rng(params_.seed + static_cast<uint64_t>(cell.begin) + 1);
    Clustering clustering(kernels_, params_.head_dim, problem.keys, order, cell.num_clusters, work);
    clustering.PackTiles();
    clustering.Seed(rng);
    std::vector<int32_t> capacities(static_cast<size_t>(cell.num_clusters),
                                    static_cast<int32_t>(params_.max_cluster_keys));
    for (int i = 0; i < params_.num_iterations; ++i) {
      if (HasCap())
        clustering.AssignPriced(capacities);
      else
        clustering.AssignNearest();
      clustering.Update();
    }
    if (HasCap())
      clustering.AssignWithin(capacities);
    else
      clustering.AssignNearest();
    for (size_t i = 0; i < order.size(); ++i) problem.labels[order[i]] = cell.first_label + clustering.labels()[i];
  }

  // Labels in the order of first keys, without gaps; returns their number.
  int64_t NumberClusters(const KMeansProblem& problem) const {
    std::vector<int32_t> numbers(static_cast<size_t>(WantedOf(problem)), -1);
    int32_t num_made = 0;
    for (int64_t i = 0; i < problem.num_keys; ++i) {
      int32_t& number = numbers[static_cast<size_t>(problem.labels[i])];
      if (number < 0) number = num_made++;
      problem.labels[i] = number;
    }
    return num_made;
  }

  Context& cx_;
  const KMeansParams& params_;
  const KMeansKernels kernels_;
  std::vector<std::span<int32_t>> orders_;   // of each problem's keys: by cell
  std::vector<std::vector<Cell>> cells_of_;  // each problem's
};

void CheckParams(const KMeansParams& params, size_t num_results) {
  CACHETTE_CHECK(params.head_dim >= 8 && params.head_dim <= 256 && params.head_dim % 8 == 0);
  CACHETTE_CHECK(params.num_iterations >= 0 && params.max_cluster_keys >= 0);
  CACHETTE_CHECK(num_results == params.problems.size());
  for (const KMeansProblem& problem : params.problems) {
    CACHETTE_CHECK(problem.num_keys >= 0 && problem.num_keys <= std::numeric_limits<int32_t>::max() - kKeyTile);
    CACHETTE_CHECK(problem.num_clusters >= 1);
    CACHETTE_CHECK(params.max_cluster_keys == 0 || problem.num_clusters * params.max_cluster_keys >= problem.num_keys);
  }
}

}  // namespace

void ClusterKeys(Context& cx, const KMeansParams& params, std::span<int64_t> num_clusters_made) {
  CheckParams(params, num_clusters_made.size());
  KMeans(cx, params).Run(num_clusters_made);
}

}  // namespace cachette::ops
