#include "methods/reference_eviction.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

namespace cachette::reference {
namespace {

constexpr double kEps = 0x1.0p-24;  // unit roundoff of f32

double Norm(const double* x, int64_t count) {
  double squares = 0.0;
  for (int64_t i = 0; i < count; ++i) squares += x[i] * x[i];
  return std::sqrt(squares);
}

// Centred windows over the list, zeros past its ends; an average always divides by the width.
std::vector<double> Pool(const std::vector<double>& x, int64_t width, bool is_max) {
  const auto count = static_cast<int64_t>(x.size());
  std::vector<double> pooled(x.size());
  for (int64_t i = 0; i < count; ++i) {
    double sum = 0.0, most = 0.0;
    for (int64_t j = i - width / 2; j <= i + width / 2; ++j) {
      const double value = j < 0 || j >= count ? 0.0 : x[static_cast<size_t>(j)];
      sum += value;
      most = std::max(most, value);
    }
    pooled[static_cast<size_t>(i)] = is_max ? most : sum / static_cast<double>(width);
  }
  return pooled;
}

int64_t RoundHalfEven(double x) {
  const double below = std::floor(x), rest = x - below;
  const auto whole = static_cast<int64_t>(below);
  return rest > 0.5 || (rest == 0.5 && whole % 2 != 0) ? whole + 1 : whole;
}

}  // namespace

Eviction::Eviction(const Settings& settings, const Shape& shape)
    : settings_(settings), shape_(shape), layers_(static_cast<size_t>(shape.num_layers)) {
  for (Layer& layer : layers_) {
    layer.heads.resize(static_cast<size_t>(shape.num_kv_heads));
    layer.kept_of_prompt.resize(static_cast<size_t>(shape.num_kv_heads));
  }
}

double Eviction::Logit(const Query& query, int query_head, const Entry& entry) const {
  const double* q = query.q.data() + static_cast<size_t>(query_head) * static_cast<size_t>(shape_.head_dim);
  double dot = 0.0;
  for (int d = 0; d < shape_.head_dim; ++d) dot += q[d] * entry.key[static_cast<size_t>(d)];
  return dot * shape_.scale;
}

// softmax over the entries that the query sees; with before_window over those before the window only.
std::vector<double> Eviction::Attention(const Query& query, int query_head, const std::vector<Entry>& entries,
                                        bool before_window, int64_t window_begin) const {
  std::vector<double> weights(entries.size(), 0.0);
  double most = -std::numeric_limits<double>::infinity(), sum = 0.0;
  const auto is_seen = [&](const Entry& entry) {
    return before_window ? entry.position < window_begin : entry.position <= query.position;
  };
  for (size_t j = 0; j < entries.size(); ++j)
    if (is_seen(entries[j])) most = std::max(most, weights[j] = Logit(query, query_head, entries[j]));
  for (size_t j = 0; j < entries.size(); ++j) {
    if (!is_seen(entries[j])) continue;
    weights[j] = std::exp(weights[j] - most);
    sum += weights[j];
  }
  for (double& weight : weights)
    if (sum > 0.0) weight /= sum;
  return weights;
}

// Of a softmax weight computed in f32: twice the error of a logit (head_dim rounded products, scaled, less the largest
// one, which is no larger), the exponential's own, the sum's.
double Eviction::RelativeError(const std::vector<Query>& queries, const std::vector<Entry>& entries) const {
  double q = 0.0, k = 0.0;
  for (const Query& query : queries)
    for (int h = 0; h < shape_.num_kv_heads * shape_.group_size; ++h)
      q = std::max(q, Norm(query.q.data() + static_cast<size_t>(h * shape_.head_dim), shape_.head_dim));
  for (const Entry& entry : entries) k = std::max(k, Norm(entry.key.data(), shape_.head_dim));
  const double logit_error = q * k * shape_.scale * (shape_.head_dim + 8) * kEps;
  return 2.0 * logit_error + 1e-6 + (static_cast<double>(queries.size()) + 32.0) * kEps;
}

// H2O: every query hands out one whole over what it sees, itself included.
void Eviction::AddAttention(Layer& state, const std::vector<Query>& rows) {
  for (size_t head = 0; head < state.heads.size(); ++head) {
    std::vector<Entry>& entries = state.heads[head];
    for (const Query& row : rows)
      for (int g = 0; g < shape_.group_size; ++g) {
        const auto weights =
            Attention(row, static_cast<int>(head) * shape_.group_size + g, entries, false, row.position);
        for (size_t j = 0; j < entries.size(); ++j) entries[j].attention_sum += weights[j];
      }
  }
}

Eviction::Contest Eviction::Open(const Layer& state, const PassInfo& pass, const std::vector<Query>& rows) const {
  const Settings& s = settings_;
  const bool is_prefill = pass.phase == Phase::kPrefill;
  const int64_t seen = pass.first_token + pass.num_tokens;
  // A fraction is one of a chunk, or of the prompt; a budget is one of everything.
  const bool is_apart = is_prefill && s.budget == 0 && s.is_per_chunk;
  const int64_t first = is_apart ? pass.first_token : 0;
  Contest contest;
  contest.num_transient = pass.num_transient;
  for (const std::vector<Entry>& entries : state.heads) {
    std::vector<Entry>& support = contest.support.emplace_back();
    for (const Entry& entry : entries)
      if (entry.position >= first) support.push_back(entry);
  }
  contest.num_tokens = seen - first;
  contest.num_places = s.budget;
  if (s.budget == 0 && is_prefill)
    contest.num_places = std::min(
        RoundHalfEven(s.keep_fraction * static_cast<double>(contest.num_tokens)) + s.keep_extra, contest.num_tokens);
  const int64_t window = s.method == Method::kTova                                  ? 1
                         : s.method == Method::kH2o || s.method == Method::kKeyNorm ? 0
                                                                                    : s.window;
  const std::vector<Query>& from = is_apart || pass.num_transient > 0 ? rows : state.queries;
  const auto count = std::min<int64_t>(window, static_cast<int64_t>(from.size()));
  contest.window.assign(from.end() - count, from.end());
  contest.window_begin = count > 0 ? contest.window.front().position : std::numeric_limits<int64_t>::max();
  return contest;
}

// SnapKV's score of the entries before the window.
std::vector<double> Eviction::WindowScores(const Contest& contest, size_t head) const {
  const Settings& s = settings_;
  const std::vector<Entry>& support = contest.support[head];
  size_t num_ranked = 0;
  while (num_ranked < support.size() && support[num_ranked].position < contest.window_begin) ++num_ranked;
  std::vector<double> reduced(num_ranked, 0.0);
  for (int g = 0; g < shape_.group_size; ++g) {
    std::vector<double> sum(num_ranked, 0.0);
    for (const Query& query : contest.window) {
      const auto weights =
          Attention(query, static_cast<int>(head) * shape_.group_size + g, support, false, query.position);
      for (size_t j = 0; j < num_ranked; ++j) sum[j] += weights[j];
    }
    if (!s.pools_reduced) sum = Pool(sum, s.pool_width, s.is_max_pool);
    for (size_t j = 0; j < num_ranked; ++j)
      reduced[j] = s.is_group_max ? std::max(reduced[j], sum[j]) : reduced[j] + sum[j] / shape_.group_size;
  }
  return s.pools_reduced ? Pool(reduced, s.pool_width, s.is_max_pool) : reduced;
}

// R-KV: softmax over all entries of the mean cosine to the others, the last near-duplicate of each entry spared.
std::vector<double> Eviction::Redundancy(const std::vector<Entry>& own, double similar) const {
  const size_t n = own.size();
  std::vector<double> mean(n, 0.0), norms;
  for (const Entry& entry : own) norms.push_back(Norm(entry.key.data(), shape_.head_dim));
  for (size_t i = 0; i < n; ++i) {
    std::vector<double> row(n, 0.0);
    for (size_t j = 0; j < n; ++j) {
      if (i == j) continue;
      for (size_t d = 0; d < own[i].key.size(); ++d) row[j] += own[i].key[d] * own[j].key[d];
      row[j] = norms[i] > 0.0 && norms[j] > 0.0 ? row[j] / (norms[i] * norms[j]) : 0.0;
    }
    for (size_t j = n; j-- > 0;)
      if (row[j] > similar) {
        row[j] = 0.0;
        break;
      }
    for (size_t j = 0; j < n; ++j) mean[j] += row[j] / static_cast<double>(n);
  }
  double sum = 0.0;
  for (double& value : mean) sum += value = std::exp(value);
  for (double& value : mean) value /= sum;
  return mean;
}

// W. A patch is one, even where fewer of its queries score.
int64_t Eviction::WindowSize(const Contest& contest) {
  return std::max(static_cast<int64_t>(contest.window.size()), contest.num_transient);
}

// Places of a layer beyond the window: C = B - W of T, shared out over the layers.
int64_t Eviction::PyramidPlaces(const Contest& contest, int layer) const {
  const int64_t window = WindowSize(contest);
  const int64_t budget = contest.num_places + contest.num_transient;
  const int64_t total = contest.num_tokens + contest.num_transient;
  const int64_t average = budget - window;
  if (average <= 0) return 0;
  if (shape_.num_layers == 1 || total < 2 * average) return average;
  int64_t least = average / settings_.beta;
  int64_t most = 2 * average - least;
  if (most >= total - window) {
    most = total - window;
    least = 2 * average - most;
  }
  const int64_t step = (most - least) / (shape_.num_layers - 1);
  return std::min(most - layer * step, total - window);
}

std::vector<Eviction::Ranking> Eviction::Rank(const Contest& contest, int layer) const {
  const Settings& s = settings_;
  const size_t num_heads = contest.support.size();
  const bool has_window = s.method != Method::kH2o && s.method != Method::kTova && s.method != Method::kKeyNorm;
  std::vector<Ranking> rankings(num_heads);
  for (size_t head = 0; head < num_heads; ++head) {
    const std::vector<Entry>& support = contest.support[head];
    Ranking& ranking = rankings[head];
    std::vector<Entry> own(support.begin(), support.end() - contest.num_transient);
    const size_t n = own.size();
    ranking.num_kept = contest.num_places;
    ranking.is_forced.assign(n, false);
    ranking.score.assign(n, 0.0);
    std::vector<Query> queries = contest.window;
    if (s.method == Method::kH2o) queries = layers_[static_cast<size_t>(layer)].queries;
    const double relative = RelativeError(queries, support);
    int64_t num_forced = 0;  // newest entries, as many as there are places for
    if (has_window)
      num_forced = std::count_if(own.begin(), own.end(),
                                 [&](const Entry& entry) { return entry.position >= contest.window_begin; });
    if (s.method == Method::kH2o)
      num_forced = static_cast<int64_t>(s.recent_share *
                                        static_cast<double>(std::min(contest.num_places, static_cast<int64_t>(n))));
    num_forced = std::min({num_forced, contest.num_places, static_cast<int64_t>(n)});
    for (int64_t i = 0; i < num_forced; ++i) ranking.is_forced[n - 1 - static_cast<size_t>(i)] = true;

    switch (s.method) {
      case Method::kKeyNorm:
        for (size_t j = 0; j < n; ++j) ranking.score[j] = -Norm(own[j].key.data(), shape_.head_dim);
        break;
      case Method::kH2o:
        for (size_t j = 0; j < n; ++j) {
          ranking.score[j] = own[j].attention_sum;
          if (s.is_normalised)
            ranking.score[j] /=
                static_cast<double>(layers_[static_cast<size_t>(layer)].queries.back().position + 1 - own[j].position);
        }
        break;
      case Method::kTova:
        for (size_t from = 0; from < num_heads; ++from)  // all query heads of the layer
          for (int g = 0; g < shape_.group_size; ++g) {
            const auto weights = Attention(contest.window.back(), static_cast<int>(from) * shape_.group_size + g,
                                           contest.support[from], false, 0);
            for (size_t j = 0; j < n; ++j)
              ranking.score[j] += weights[j] / static_cast<double>(num_heads * static_cast<size_t>(shape_.group_size));
          }
        break;
      case Method::kRKv: {
        std::vector<double> importance;
        for (const Entry& entry : own)
          if (entry.position < contest.window_begin) importance.push_back(0.0);
        for (const Query& query : contest.window) {
          // The group's largest logit for each entry, then one softmax over what lies before the window.
          std::vector<double> logits;
          for (const Entry& entry : support) {
            if (entry.position >= contest.window_begin) break;
            double most = -std::numeric_limits<double>::infinity();
            for (int g = 0; g < shape_.group_size; ++g)
              most = std::max(most, Logit(query, static_cast<int>(head) * shape_.group_size + g, entry));
            logits.push_back(most);
          }
          if (logits.empty()) continue;
          const double top = *std::max_element(logits.begin(), logits.end());
          double sum = 0.0;
          for (double& logit : logits) sum += logit = std::exp(logit - top);
          for (size_t j = 0; j < importance.size(); ++j)
            importance[j] += logits[j] / sum / static_cast<double>(contest.window.size());
        }
        importance = Pool(importance, s.pool_width, true);
        const double cosine_error = (shape_.head_dim + 12) * kEps;
        const auto redundancy = Redundancy(own, s.similar);
        const auto low = Redundancy(own, s.similar - cosine_error), high = Redundancy(own, s.similar + cosine_error);
        ranking.tolerance.assign(n, 0.0);
        for (size_t j = 0; j < importance.size(); ++j) {
          ranking.score[j] = s.lambda * importance[j] - (1.0 - s.lambda) * redundancy[j];
          ranking.tolerance[j] = s.lambda * importance[j] * (relative + 4 * kEps) +
                                 (1.0 - s.lambda) * (redundancy[j] * (2 * cosine_error + 4 * kEps) +
                                                     std::abs(low[j] - high[j]) + std::abs(low[j] - redundancy[j]));
        }
        break;
      }
      default: {
        const auto scores = WindowScores(contest, head);
        std::copy_n(scores.begin(), std::min(scores.size(), n), ranking.score.begin());
      }
    }
    if (ranking.tolerance.empty())
      for (const double score : ranking.score) ranking.tolerance.push_back(std::abs(score) * relative);
  }
  if (s.method == Method::kChunkKv) {  // all heads choose alike
    std::vector<double> sum(rankings[0].score.size(), 0.0), tolerance(sum);
    for (const Ranking& ranking : rankings)
      for (size_t j = 0; j < sum.size(); ++j) {
        sum[j] += ranking.score[j];
        tolerance[j] += ranking.tolerance[j];
      }
    for (Ranking& ranking : rankings) {
      ranking.score = sum;
      ranking.tolerance = tolerance;
    }
  }
  if (s.method == Method::kPyramidKv)
    for (Ranking& ranking : rankings)
      ranking.num_kept =
          PyramidPlaces(contest, layer) + std::min(contest.num_places, WindowSize(contest) - contest.num_transient);
  return rankings;
}

// AdaKV: how many entries each head keeps. A near-tie at the layer's cut may move an entry from head to head.
std::string Eviction::SettleHeads(const Contest& contest, int layer, std::vector<Ranking>& rankings,
                                  const std::vector<std::vector<bool>>& is_kept) {
  const Settings& s = settings_;
  const size_t num_heads = rankings.size();
  const int64_t base = s.has_pyramid
                           ? PyramidPlaces(contest, layer)
                           : std::max<int64_t>(0, contest.num_places + contest.num_transient - WindowSize(contest));
  struct Item {
    double score, tolerance;
    size_t head, rank;
  };
  std::vector<Item> items;
  std::vector<int64_t> free(num_heads, 0), forced(num_heads, 0), won(num_heads, 0), share(num_heads, 0);
  for (size_t head = 0; head < num_heads; ++head) {
    std::vector<double> own;
    for (size_t j = 0; j < rankings[head].score.size(); ++j)
      if (!rankings[head].is_forced[j]) own.push_back(rankings[head].score[j]);
    free[head] = static_cast<int64_t>(own.size());
    forced[head] = static_cast<int64_t>(rankings[head].score.size()) - free[head];
    double weight = 1.0;
    std::sort(own.rbegin(), own.rend());
    if (s.is_normalised) {
      const double sum = std::accumulate(own.begin(), own.end(), 0.0);
      const double best = std::accumulate(own.begin(), own.begin() + std::min(base, free[head]), 0.0);
      weight = sum > 0.0 ? best / sum : 1.0;
    }
    for (size_t j = 0; j < rankings[head].score.size(); ++j)
      if (!rankings[head].is_forced[j])
        items.push_back({rankings[head].score[j] * weight, 3 * rankings[head].tolerance[j] * weight, head, 0});
    // Equal scores of a head have consecutive ranks.
    std::map<double, size_t> next_rank;
    for (auto it = items.end() - free[head]; it != items.end(); ++it) {
      const auto better = static_cast<size_t>(std::count_if(
          items.end() - free[head], items.end(), [&](const Item& other) { return other.score > it->score; }));
      it->rank = better + next_rank[it->score]++;
    }
  }
  std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
    return a.score != b.score ? a.score > b.score : a.rank != b.rank ? a.rank < b.rank : a.head < b.head;
  });
  const auto total = std::min(static_cast<int64_t>(num_heads) * base, static_cast<int64_t>(items.size()));
  for (int64_t i = 0; i < total; ++i) ++won[items[static_cast<size_t>(i)].head];
  int64_t rest = total;
  for (size_t head = 0; head < num_heads; ++head) {
    const double mixed = s.alpha * static_cast<double>(base) + (1.0 - s.alpha) * static_cast<double>(won[head]);
    share[head] = std::min(RoundHalfEven(mixed), free[head]);
    rest -= share[head];
  }
  // What rounding leaves over goes round the heads, one entry each, from the first.
  for (bool has_moved = true; rest != 0 && has_moved;) {
    has_moved = false;
    for (size_t head = 0; head < num_heads; ++head) {
      if (rest > 0 && share[head] < free[head]) {
        ++share[head], --rest, has_moved = true;
      } else if (rest < 0 && share[head] > 0) {
        --share[head], ++rest, has_moved = true;
      }
    }
  }
  int64_t num_ambiguous = 0;
  if (total > 0 && total < static_cast<int64_t>(items.size())) {
    const Item &in = items[static_cast<size_t>(total - 1)], &out = items[static_cast<size_t>(total)];
    for (const Item& item : items)
      num_ambiguous += std::abs(item.score - in.score) <= item.tolerance + in.tolerance ||
                       std::abs(item.score - out.score) <= item.tolerance + out.tolerance;
    if (in.score - out.score > in.tolerance + out.tolerance) num_ambiguous = 0;
  }
  bool differs = false;
  int64_t sum_kept = 0, sum_expected = 0;
  for (size_t head = 0; head < num_heads; ++head) {
    const int64_t expected = share[head] + forced[head];
    const int64_t kept = std::count(is_kept[head].begin(), is_kept[head].end(), true);
    sum_kept += kept;
    sum_expected += expected;
    if (std::abs(kept - expected) > (num_ambiguous > 0 ? num_ambiguous + 1 : 0))
      return fmt::format("KV head {} keeps {} entries instead of {}", head, kept, expected);
    differs |= kept != expected;
    rankings[head].num_kept = kept;
  }
  if (sum_kept != sum_expected) return fmt::format("the layer keeps {} entries instead of {}", sum_kept, sum_expected);
  num_near_ties_ += differs;
  return "";
}

std::string Eviction::CheckRanking(const Ranking& ranking, const std::vector<bool>& is_kept) {
  const auto n = static_cast<int64_t>(is_kept.size());
  const int64_t num_forced = std::count(ranking.is_forced.begin(), ranking.is_forced.end(), true);
  const int64_t expected = std::clamp(ranking.num_kept, num_forced, n);
  const int64_t num_kept = std::count(is_kept.begin(), is_kept.end(), true);
  if (num_kept != expected) return fmt::format("keeps {} of {} entries instead of {}", num_kept, n, expected);
  if (num_kept == n) return "";
  ++num_choices_;
  std::vector<int64_t> order;
  for (int64_t j = 0; j < n; ++j) {
    if (!ranking.is_forced[static_cast<size_t>(j)]) {
      order.push_back(j);
    } else if (!is_kept[static_cast<size_t>(j)]) {
      return fmt::format("drops the protected entry {} of {}", j, n);
    }
  }
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const double x = ranking.score[static_cast<size_t>(a)], y = ranking.score[static_cast<size_t>(b)];
    return x != y ? x > y : a > b;  // ties: the newer entry stays
  });
  std::vector<int64_t> missing, extra;
  for (int64_t i = 0; i < static_cast<int64_t>(order.size()); ++i) {
    const int64_t j = order[static_cast<size_t>(i)];
    const bool should_stay = i < expected - num_forced;
    if (should_stay && !is_kept[static_cast<size_t>(j)]) missing.push_back(j);
    if (!should_stay && is_kept[static_cast<size_t>(j)]) extra.push_back(j);
  }
  if (missing.empty()) return "";
  bool is_tie = true;
  for (const int64_t a : missing)
    for (const int64_t b : extra) {
      const auto x = static_cast<size_t>(a), y = static_cast<size_t>(b);
      const double gap = ranking.score[x] - ranking.score[y];
      if (gap > ranking.tolerance[x] + ranking.tolerance[y])
        return fmt::format("keeps entries [{}] instead of [{}] of {}; scores differ by {} tolerances",
                           fmt::join(extra, " "), fmt::join(missing, " "), n,
                           gap / (ranking.tolerance[x] + ranking.tolerance[y]));
      is_tie &= gap == 0.0;
    }
  if (is_tie)
    return fmt::format("keeps the older entries [{}] of a tie instead of [{}]", fmt::join(extra, " "),
                       fmt::join(missing, " "));
  ++num_near_ties_;
  return "";
}

// ChunkKV: whole runs of the text; the same choice for all heads and for the layers that share it.
std::string Eviction::CheckRuns(const Contest& contest, int layer, const std::vector<Ranking>& rankings,
                                const std::vector<std::vector<bool>>& is_kept) {
  for (const std::vector<bool>& kept : is_kept)
    if (kept != is_kept[0]) return "KV heads choose differently";
  if (layer % settings_.reuse_layers != 0)
    return is_kept == first_choice_ ? "" : "the choice differs from that of the layer it should share it with";
  first_choice_ = is_kept;
  struct Run {
    std::vector<size_t> entries;
    double score = 0.0, tolerance = 0.0;
    bool is_kept = false;
  };
  const std::vector<Entry>& support = contest.support[0];
  const Ranking& ranking = rankings[0];
  std::vector<Run> runs;
  int64_t room = contest.num_places, size = 0;
  int64_t last_chunk = -1;
  for (size_t j = 0; j < ranking.score.size(); ++j) {
    if (ranking.is_forced[j]) {
      if (!is_kept[0][j]) return "drops an entry of the window";
      --room;
      continue;
    }
    const int64_t chunk = support[j].position / settings_.run_tokens;
    if (chunk != last_chunk) runs.emplace_back();
    last_chunk = chunk;
    Run& run = runs.back();
    run.entries.push_back(j);
    run.score += ranking.score[j];
    run.tolerance += ranking.tolerance[j];
    run.is_kept = is_kept[0][j];
    if (run.is_kept != is_kept[0][run.entries.front()]) return "splits a run";
  }
  ++num_choices_;
  for (Run& run : runs) {
    run.score /= static_cast<double>(run.entries.size());
    run.tolerance /= static_cast<double>(run.entries.size());
    size += run.is_kept ? static_cast<int64_t>(run.entries.size()) : 0;
  }
  std::vector<const Run*> order;
  for (const Run& run : runs) order.push_back(&run);
  std::sort(order.begin(), order.end(), [](const Run* a, const Run* b) {
    return a->score != b->score ? a->score > b->score : a->entries.front() > b->entries.front();
  });
  // The k best, and after them those that still fit because some are short.
  const int64_t least = std::max<int64_t>(room, 0) / settings_.run_tokens;
  bool is_exact = true;
  int64_t taken = 0, num_taken = 0;
  bool is_full = false;
  for (const Run* run : order) {
    const auto length = static_cast<int64_t>(run->entries.size());
    is_full |= taken + length > room;
    if (!is_full) {
      taken += length;
      ++num_taken;
    }
    is_exact &= run->is_kept == !is_full;
  }
  if (num_taken < std::min(least, static_cast<int64_t>(runs.size()))) return "the reference is wrong";
  if (is_exact) return "";
  if (size > room) return fmt::format("keeps {} entries beside the window in {}", size, room);
  bool has_inversion = false;
  for (const Run& lost : runs)
    for (const Run& kept : runs) {
      if (lost.is_kept || !kept.is_kept || lost.score <= kept.score) continue;
      has_inversion = true;
      if (lost.score - kept.score > lost.tolerance + kept.tolerance)
        return fmt::format("keeps the run at {} instead of that at {}", kept.entries.front(), lost.entries.front());
    }
  if (!has_inversion) return fmt::format("keeps {} entries instead of {}", size, taken);
  ++num_near_ties_;
  return "";
}

std::string Eviction::Check(const PassInfo& pass, int layer, const float* q, const float* keys,
                            const std::vector<std::vector<int64_t>>& kept) {
  const Settings& s = settings_;
  Layer& state = layers_[static_cast<size_t>(layer)];
  const bool is_prefill = pass.phase == Phase::kPrefill;
  if (layer == 0) num_decoded_ = is_prefill ? 0 : num_decoded_ + 1;
  const auto q_width = static_cast<int64_t>(shape_.num_kv_heads) * shape_.group_size * shape_.head_dim;
  const auto k_width = static_cast<int64_t>(shape_.num_kv_heads) * shape_.head_dim;
  std::vector<Query> rows;
  for (int64_t i = 0; i < pass.num_tokens + pass.num_transient; ++i) {
    rows.push_back({pass.first_token + i, {q + i * q_width, q + (i + 1) * q_width}});
    for (size_t head = 0; head < state.heads.size(); ++head) {
      const float* key = keys + i * k_width + static_cast<int64_t>(head) * shape_.head_dim;
      state.heads[head].push_back({pass.first_token + i, {key, key + shape_.head_dim}});
    }
  }
  state.queries.insert(state.queries.end(), rows.begin(), rows.begin() + pass.num_tokens);
  if (s.method == Method::kH2o) AddAttention(state, rows);

  const bool fires = is_prefill ? s.is_per_chunk || pass.is_last_prefill_chunk
                                : s.decode_every > 0 && num_decoded_ % s.decode_every == 0;
  Contest contest;
  if (fires) contest = Open(state, pass, rows);
  for (std::vector<Entry>& entries : state.heads)
    entries.resize(entries.size() - static_cast<size_t>(pass.num_transient));

  // What the recipe kept, over the lists as they were before the eviction.
  std::vector<std::vector<bool>> is_kept;
  for (size_t head = 0; head < state.heads.size(); ++head) {
    const std::vector<Entry>& entries = state.heads[head];
    std::vector<bool>& mask = is_kept.emplace_back();
    size_t next = 0;
    for (const Entry& entry : entries) {
      mask.push_back(next < kept[head].size() && kept[head][next] == entry.position);
      next += mask.back();
    }
    if (next != kept[head].size())
      return fmt::format("KV head {} holds position {}, which it should not have", head, kept[head][next]);
  }
  const auto take_over = [&] {
    for (size_t head = 0; head < state.heads.size(); ++head) {
      std::vector<Entry> left;
      for (size_t j = 0; j < is_kept[head].size(); ++j)
        if (is_kept[head][j]) left.push_back(std::move(state.heads[head][j]));
      state.heads[head] = std::move(left);
      if (is_prefill && pass.is_last_prefill_chunk)
        state.kept_of_prompt[head] = static_cast<int64_t>(state.heads[head].size());
    }
  };
  const bool is_all_kept = std::all_of(is_kept.begin(), is_kept.end(), [](const std::vector<bool>& mask) {
    return std::find(mask.begin(), mask.end(), false) == mask.end();
  });
  if (!fires) {
    take_over();
    return is_all_kept ? "" : "an entry left at a time when none should";
  }
  // Entries that do not compete stay.
  std::vector<std::vector<bool>> competing;
  for (size_t head = 0; head < is_kept.size(); ++head) {
    const size_t count = contest.support[head].size() - static_cast<size_t>(contest.num_transient);
    const size_t first = is_kept[head].size() - count;
    for (size_t j = 0; j < first; ++j)
      if (!is_kept[head][j]) return "an entry of an earlier chunk left";
    competing.emplace_back(is_kept[head].begin() + static_cast<int64_t>(first), is_kept[head].end());
  }
  const bool is_by_prompt = s.budget == 0 && !is_prefill;  // as many places as the prompt was left with
  std::string wrong;
  if (is_by_prompt && s.keep_fraction == 1.0) {
    if (!is_all_kept) wrong = "an entry left though all are to be kept";
  } else if (!is_by_prompt && contest.num_tokens <= contest.num_places) {
    if (!is_all_kept) wrong = "an entry left though all fit";
  } else {
    if (is_by_prompt) contest.num_places = state.kept_of_prompt[0];
    std::vector<Ranking> rankings = Rank(contest, layer);
    if (s.method == Method::kAdaKv && !is_by_prompt) wrong = SettleHeads(contest, layer, rankings, competing);
    if (s.method == Method::kChunkKv) {
      wrong = CheckRuns(contest, layer, rankings, competing);
    } else {
      for (size_t head = 0; head < rankings.size() && wrong.empty(); ++head) {
        if (is_by_prompt) rankings[head].num_kept = state.kept_of_prompt[head];
        wrong = CheckRanking(rankings[head], competing[head]);
        if (!wrong.empty()) wrong = fmt::format("KV head {} {}", head, wrong);
      }
    }
  }
  take_over();
  return wrong;
}

}  // namespace cachette::reference
