#include "ops/retrieval/kmeans.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/rng.h"
#include "ops/retrieval/kmeans_kernels.h"
#include "ops/simd.h"

namespace cachette::ops {
namespace {

// Keys around centres, drawn evenly or each twice as often as the next.
std::vector<float> MakeKeys(uint64_t seed, int64_t num_keys, int head_dim, int num_centres = 12, double spread = 0.5,
                            bool is_even = false) {
  Rng rng(seed);
  std::vector<double> centres;
  for (int i = 0; i < num_centres * head_dim; ++i) centres.push_back(rng.Normal());
  std::vector<float> keys;
  for (int64_t i = 0; i < num_keys; ++i) {
    int centre = 0;
    if (is_even) centre = static_cast<int>(rng.Below(static_cast<uint64_t>(num_centres)));
    while (!is_even && centre + 1 < num_centres && rng.Below(2) == 0) ++centre;
    for (int d = 0; d < head_dim; ++d)
      keys.push_back(static_cast<float>(centres[static_cast<size_t>(centre * head_dim + d)] + spread * rng.Normal()));
  }
  return keys;
}

struct Result {
  std::vector<int32_t> labels;
  int64_t num_clusters = 0;
  bool operator==(const Result&) const = default;
};

struct Job {
  const std::vector<float>* keys;
  int64_t num_clusters;
};

std::vector<Result> Cluster(const Backend& backend, int num_threads, const std::vector<Job>& jobs,
                            KMeansParams params) {
  std::vector<Result> results(jobs.size());
  std::vector<KMeansProblem> problems;
  for (size_t j = 0; j < jobs.size(); ++j) {
    const auto num_keys = static_cast<int64_t>(jobs[j].keys->size()) / params.head_dim;
    results[j].labels.assign(static_cast<size_t>(num_keys), -1);
    problems.push_back({jobs[j].keys->data(), num_keys, jobs[j].num_clusters, results[j].labels.data()});
  }
  params.problems = problems;
  std::vector<int64_t> made(jobs.size(), -1);
  Context cx(backend, num_threads);
  ClusterKeys(cx, params, made);
  for (size_t j = 0; j < jobs.size(); ++j) results[j].num_clusters = made[j];
  return results;
}

Result ClusterOne(const Backend& backend, const std::vector<float>& keys, int64_t num_clusters,
                  const KMeansParams& params) {
  return Cluster(backend, 1, {{&keys, num_clusters}}, params)[0];
}

// Dense labels in the order of first keys, no empty cluster, none above the cap.
void ExpectWellFormed(const Result& result, int64_t num_wanted, int64_t cap) {
  std::vector<int64_t> sizes;
  for (const int32_t label : result.labels) {
    ASSERT_GE(label, 0);
    ASSERT_LE(label, static_cast<int32_t>(sizes.size())) << "labels are numbered by their first keys";
    if (label == static_cast<int32_t>(sizes.size())) sizes.push_back(0);
    ++sizes[static_cast<size_t>(label)];
  }
  EXPECT_EQ(result.num_clusters, static_cast<int64_t>(sizes.size()));
  EXPECT_LE(result.num_clusters, num_wanted);
  if (cap > 0) {
    for (const int64_t size : sizes) ASSERT_LE(size, cap);
  }
}

std::vector<std::vector<double>> MeansOf(const std::vector<float>& keys, int head_dim, const Result& result) {
  std::vector<std::vector<double>> means(static_cast<size_t>(result.num_clusters),
                                         std::vector<double>(static_cast<size_t>(head_dim)));
  for (size_t i = 0; i < result.labels.size(); ++i)
    for (size_t d = 0; d < static_cast<size_t>(head_dim); ++d)
      means[static_cast<size_t>(result.labels[i])][d] +=
          static_cast<double>(keys[i * static_cast<size_t>(head_dim) + d]);
  return means;
}

double CosineOf(const float* key, const std::vector<double>& mean) {
  double dot = 0.0, key_squares = 0.0, mean_squares = 0.0;
  for (size_t d = 0; d < mean.size(); ++d) {
    const auto x = static_cast<double>(key[d]);
    dot += x * mean[d];
    key_squares += x * x;
    mean_squares += mean[d] * mean[d];
  }
  return key_squares > 0.0 && mean_squares > 0.0 ? dot / std::sqrt(key_squares * mean_squares) : 0.0;
}

double QualityOf(const std::vector<float>& keys, int head_dim, const Result& result) {
  const auto means = MeansOf(keys, head_dim, result);
  double sum = 0.0;
  for (size_t i = 0; i < result.labels.size(); ++i)
    sum += CosineOf(keys.data() + i * static_cast<size_t>(head_dim), means[static_cast<size_t>(result.labels[i])]);
  return sum / static_cast<double>(result.labels.size());
}

KMeansKernels KernelsOf(const Backend& backend) {
  return ForIsa(backend.isa, []<Isa kIsa>() { return KMeansKernelsOf<kIsa>(); });
}

TEST(KMeans, BackendsSelectTheSameNumbers) {
  Rng rng(3);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const size_t count : {1u, 2u, 7u, 8u, 9u, 40u, 333u})
    for (const bool has_equals : {false, true}) {
      std::vector<float> x;
      for (size_t i = 0; i < count; ++i)
        x.push_back(has_equals ? static_cast<float>(rng.Below(4)) : std::abs(static_cast<float>(rng.Normal())));
      if (count > 7) x[3] = kInfinity;
      x.resize((count + 7) / 8 * 8, kInfinity);
      std::vector<float> sorted(x.begin(), x.begin() + static_cast<int64_t>(count));
      std::sort(sorted.begin(), sorted.end());
      for (const Backend& backend : AllBackends()) {
        if (!backend.is_supported) continue;
        for (size_t rank = 0; rank < count; ++rank)
          ASSERT_EQ(KernelsOf(backend).select(x.data(), static_cast<int>(count), static_cast<int>(rank)), sorted[rank])
              << backend.name;
      }
    }
}

TEST(KMeans, BackendsSumNormaliseAndExchangeAlike) {
  const KMeansKernels reference = KMeansKernelsOf<Isa::kRef>();
  for (const Backend& backend : AllBackends()) {
    if (!backend.is_supported) continue;
    const KMeansKernels kernels = KernelsOf(backend);
    for (const int head_dim : {8, 16, 72, 128}) {
      Rng rng(4);
      const std::vector<float> keys = MakeKeys(5, 100, head_dim);
      std::vector<int32_t> order, labels;
      for (int i = 0; i < 50; ++i) {
        order.push_back(static_cast<int32_t>(rng.Below(100)));
        labels.push_back(static_cast<int32_t>(rng.Below(3)));
      }
      std::vector<float> expected(static_cast<size_t>(3 * head_dim)), sums = expected;
      reference.add_keys({keys.data(), order.data(), labels.data(), 50, head_dim, expected.data()});
      kernels.add_keys({keys.data(), order.data(), labels.data(), 50, head_dim, sums.data()});
      EXPECT_EQ(sums, expected) << "each sum goes in the order of the keys";
      std::vector<float> unit(static_cast<size_t>(head_dim), 1.0f);
      kernels.normalise(sums.data(), head_dim, unit.data());
      double squares = 0.0;
      for (const float x : unit) squares += static_cast<double>(x) * static_cast<double>(x);
      EXPECT_NEAR(squares, 1.0, 3e-7) << "the inverse and each product are rounded";
      kernels.normalise(std::vector<float>(static_cast<size_t>(head_dim)).data(), head_dim, unit.data());
      EXPECT_EQ(unit, std::vector<float>(static_cast<size_t>(head_dim)));
    }
    for (const int num_tiles : {1, 3}) {
      constexpr int kCentroids = 5;
      const auto num_slots = static_cast<size_t>(num_tiles * kKeyTile);
      for (uint64_t seed = 0; seed < 40; ++seed) {
        Rng rng(seed);
        // Scores of few values: several keys gain the same, and the first one counts.
        const auto score = [&] { return static_cast<float>(rng.Below(6)) * 0.25f; };
        std::vector<float> scores(num_slots * kCentroids), own(num_slots), of_key(kCentroids);
        std::vector<int32_t> labels(num_slots);
        for (float& x : scores) x = score();
        for (float& x : own) x = score();
        for (float& x : of_key) x = score();
        for (int32_t& label : labels) label = static_cast<int32_t>(rng.Below(kCentroids));
        for (size_t i = num_slots - 5; i < num_slots; ++i) own[i] = std::numeric_limits<float>::infinity();
        const float least_gain = seed % 2 == 0 ? 1e-6f : 1.5f;
        const KeyExchange exchange{scores.data(), own.data(), labels.data(), of_key.data(), 2,
                                   num_tiles,     kCentroids, least_gain};
        EXPECT_EQ(kernels.exchange(exchange), reference.exchange(exchange)) << backend.name << " " << seed;
      }
    }
  }
}

TEST(KMeans, IsWellFormedForEveryShape) {
  for (const Backend& backend : AllBackends()) {
    if (!backend.is_supported) continue;
    for (const int head_dim : {8, 40, 64, 256})
      for (const int64_t num_keys : {1, 2, 15, 16, 17, 63, 64, 65, 331})
        for (const int64_t cap : {0, 1, 16, 20})
          for (const bool is_two_level : {false, true}) {
            const std::vector<float> keys = MakeKeys(1, num_keys, head_dim);
            const int64_t wanted = cap > 0 ? (num_keys + cap - 1) / cap : num_keys / 5 + 1;
            const Result result = ClusterOne(backend, keys, wanted,
                                             {.problems = {},
                                              .head_dim = head_dim,
                                              .max_cluster_keys = cap,
                                              .is_two_level = is_two_level,
                                              .seed = 3});
            SCOPED_TRACE(std::string(backend.name) + " head_dim " + std::to_string(head_dim) + " keys " +
                         std::to_string(num_keys) + " cap " + std::to_string(cap));
            ExpectWellFormed(result, wanted, cap);
          }
  }
}

// When nothing moves any more, every key is in the cluster whose mean it is most similar to.
TEST(KMeans, ConvergesToNearestMeans) {
  const int head_dim = 24;
  const std::vector<float> keys = MakeKeys(2, 500, head_dim);
  for (const Backend& backend : AllBackends()) {
    if (!backend.is_supported) continue;
    const Result result = ClusterOne(
        backend, keys, 12, {.problems = {}, .head_dim = head_dim, .num_iterations = 100, .is_two_level = false});
    ExpectWellFormed(result, 12, 0);
    const auto means = MeansOf(keys, head_dim, result);
    for (size_t i = 0; i < result.labels.size(); ++i) {
      const float* key = keys.data() + i * static_cast<size_t>(head_dim);
      const double own = CosineOf(key, means[static_cast<size_t>(result.labels[i])]);
      // Cosines of f32 sums: head_dim roundings at both ends.
      for (const std::vector<double>& mean : means) ASSERT_LE(CosineOf(key, mean), own + 2 * head_dim * 0x1p-24);
    }
  }
}

// Well separated groups of just the cap: the one right answer must be found from any seed.
TEST(KMeans, FindsSeparateGroupsThatFillTheirClusters) {
  const int head_dim = 16;
  const int64_t cap = 16, num_groups = 8;
  Rng rng(9);
  std::vector<float> keys;
  for (int64_t i = 0; i < cap * num_groups; ++i)
    for (int d = 0; d < head_dim; ++d)
      keys.push_back(static_cast<float>((d == i % num_groups ? 1.0 : 0.0) + 0.02 * rng.Normal()));
  int num_right = 0;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const Result result = ClusterOne(*FindBackend("auto"), keys, num_groups,
                                     {.problems = {},
                                      .head_dim = head_dim,
                                      .num_iterations = 8,
                                      .max_cluster_keys = cap,
                                      .is_two_level = false,
                                      .seed = seed});
    ExpectWellFormed(result, num_groups, cap);
    EXPECT_EQ(result.num_clusters, num_groups);
    bool is_right = true;
    for (int64_t i = 0; i < cap * num_groups; ++i)
      is_right &= result.labels[static_cast<size_t>(i)] == static_cast<int32_t>(i % num_groups);
    num_right += is_right;
  }
  EXPECT_GE(num_right, 5);  // random seeds that share a group may stay in a local optimum
}

TEST(KMeans, TwoLevelsAndCapsCostLittleSimilarity) {
  const int head_dim = 64;
  const std::vector<float> keys = MakeKeys(4, 2000, head_dim, 100, 0.4, true);
  const Backend backend = *FindBackend("auto");
  const auto quality = [&](bool is_two_level, int64_t cap, int num_iterations) {
    const Result result = ClusterOne(backend, keys, 125,
                                     {.problems = {},
                                      .head_dim = head_dim,
                                      .num_iterations = num_iterations,
                                      .max_cluster_keys = cap,
                                      .is_two_level = is_two_level});
    ExpectWellFormed(result, 125, cap);
    return QualityOf(keys, head_dim, result);
  };
  const double best = quality(false, 0, 20), start = quality(false, 0, 0);
  ASSERT_GT(best, start + 0.01);
  EXPECT_GT(quality(true, 0, 4), start + 0.5 * (best - start));
  EXPECT_GT(quality(true, 16, 4), start - 0.05);
}

TEST(KMeans, EqualAndZeroKeysMakeFewerClusters) {
  const int head_dim = 8;
  for (const Backend& backend : AllBackends()) {
    if (!backend.is_supported) continue;
    for (const bool is_two_level : {false, true})
      for (const float value : {0.0f, 2.0f}) {
        const std::vector<float> keys(static_cast<size_t>(100 * head_dim), value);
        KMeansParams params{.problems = {}, .head_dim = head_dim, .is_two_level = is_two_level};
        const Result free = ClusterOne(backend, keys, 20, params);
        ExpectWellFormed(free, 20, 0);
        EXPECT_EQ(free.num_clusters, 1) << backend.name;
        params.max_cluster_keys = 5;  // full to the last place
        const Result capped = ClusterOne(backend, keys, 20, params);
        ExpectWellFormed(capped, 20, 5);
        EXPECT_EQ(capped.num_clusters, 20) << backend.name;
      }
  }
}

TEST(KMeans, FewerKeysThanClusters) {
  const std::vector<float> keys = MakeKeys(7, 5, 8, 5, 0.1);
  const Result result = ClusterOne(*FindBackend("auto"), keys, 40, {.problems = {}, .head_dim = 8});
  ExpectWellFormed(result, 5, 0);
  const std::vector<float> none;
  EXPECT_EQ(ClusterOne(*FindBackend("auto"), none, 3, {.problems = {}, .head_dim = 8}).num_clusters, 0);
}

TEST(KMeans, DependsOnNothingButTheProblemAndTheSeed) {
  const int head_dim = 32;
  const std::vector<float> a = MakeKeys(1, 900, head_dim), b = MakeKeys(2, 333, head_dim),
                           c = MakeKeys(3, 64, head_dim);
  for (const Backend& backend : AllBackends()) {
    if (!backend.is_supported) continue;
    for (const int64_t cap : {0, 16}) {
      const KMeansParams params{.problems = {}, .head_dim = head_dim, .max_cluster_keys = cap, .seed = 11};
      const std::vector<Job> jobs = {{&a, 57}, {&b, 21}, {&c, 4}};
      const std::vector<Result> together = Cluster(backend, 4, jobs, params);
      EXPECT_EQ(together, Cluster(backend, 1, jobs, params)) << backend.name;
      for (size_t j = 0; j < jobs.size(); ++j) {
        EXPECT_EQ(together[j], Cluster(backend, 2, {jobs[j]}, params)[0]) << backend.name;
      }
      KMeansParams other = params;
      other.seed = 12;
      EXPECT_NE(together[0].labels, ClusterOne(backend, a, 57, other).labels) << backend.name;
    }
  }
}

}  // namespace
}  // namespace cachette::ops
