#include "methods/retrieval/reference_retrieval.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <limits>
#include <map>
#include <numeric>

namespace cachette::reference {
namespace {

constexpr int64_t kPage = 16;         // entries leave the stream in whole pages
constexpr double kHalfUlp = 0x1p-11;  // of f16

double Dot(const double* a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < b.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

Retrieval::Retrieval(const RetrievalSettings& settings, const Shape& shape)
    : settings_(settings),
      shape_(shape),
      heads_(static_cast<size_t>(shape.num_kv_heads)),
      local_begin_(settings.sinks),
      pending_begin_(settings.sinks) {}

void Retrieval::Add(const float* q, const float* keys) {
  queries_.emplace_back(q, q + shape_.num_kv_heads * shape_.group_size * shape_.head_dim);
  for (size_t h = 0; h < heads_.size(); ++h) {
    const float* own = keys + static_cast<int64_t>(h) * shape_.head_dim;
    heads_[h].keys.emplace_back(own, own + shape_.head_dim);
  }
}

void Retrieval::Compare(double difference, double tolerance) {
  margin_ = std::min(margin_, std::abs(difference) / std::max(tolerance, 1e-300));
}

void Retrieval::CompareWeights(const Head& head, int64_t u, int64_t v) {
  const auto a = static_cast<size_t>(u), b = static_cast<size_t>(v);
  Compare(head.weights[a] - head.weights[b], head.tolerances[a] + head.tolerances[b]);
}

// Weight of every unit by the index, and how far f16 and f32 may be from it.
void Retrieval::Weigh(Head& head, size_t head_idx) {
  const size_t num_units = head.units.size();
  const bool is_box = settings_.index == Index::kMinMax || settings_.index == Index::kCuboidMean;
  const bool is_softmax =
      settings_.index == Index::kMeanKeySoftmax || settings_.trigger == Trigger::kCoverage || settings_.until < 1.0;
  head.weights.assign(num_units, settings_.index == Index::kMinMax && !is_softmax ? -1e300 : 0.0);
  head.tolerances.assign(num_units, 0.0);
  for (int g = 0; g < shape_.group_size; ++g) {
    const double* q = queries_.back().data() +
                      (static_cast<int64_t>(head_idx) * shape_.group_size + g) * static_cast<int64_t>(shape_.head_dim);
    std::vector<double> scores(num_units), tolerances(num_units);
    for (size_t u = 0; u < num_units; ++u) {
      const Unit& unit = head.units[u];
      double sum = 0, magnitude = 0;
      for (size_t c = 0; c < unit.first.size(); ++c) {
        const double low = q[c] * unit.first[c], high = is_box ? q[c] * unit.second[c] : low;
        sum += std::max(low, high);
        magnitude += std::max(std::abs(low), std::abs(high)) + 1e-4 * std::abs(q[c]);
      }
      scores[u] = shape_.scale * sum;
      tolerances[u] = shape_.scale * magnitude * (is_box ? 2.1 : 1.05) * kHalfUlp;
    }
    if (is_softmax) {
      const double highest = *std::max_element(scores.begin(), scores.end());
      const double error = std::exp(2 * *std::max_element(tolerances.begin(), tolerances.end())) - 1 + 1e-5;
      double sum = 0;
      for (double& score : scores) sum += score = std::exp(score - highest);
      for (size_t u = 0; u < num_units; ++u) {
        scores[u] /= sum;
        tolerances[u] = scores[u] * error;
      }
    }
    for (size_t u = 0; u < num_units; ++u) {
      if (is_softmax || settings_.index != Index::kMinMax) {
        head.weights[u] += scores[u] / shape_.group_size;
        head.tolerances[u] += tolerances[u] / shape_.group_size;
      } else {
        head.weights[u] = std::max(head.weights[u], scores[u]);
        head.tolerances[u] = std::max(head.tolerances[u], tolerances[u]);
      }
    }
  }
  head.order.resize(num_units);
  std::iota(head.order.begin(), head.order.end(), 0);
  std::stable_sort(head.order.begin(), head.order.end(), [&](int64_t a, int64_t b) {
    return head.weights[static_cast<size_t>(a)] > head.weights[static_cast<size_t>(b)];
  });
  head.best.clear();
  int64_t num_entries = 0;
  for (size_t i = 0; i < num_units; ++i) {
    const int64_t size = head.units[static_cast<size_t>(head.order[i])].size();
    if (i > 0) CompareWeights(head, head.order[i - 1], head.order[i]);
    if (num_entries > 0 && num_entries + size > settings_.budget) break;
    head.best.push_back(head.order[i]);
    num_entries += size;
  }
}

double Retrieval::Cosine(const std::vector<double>& other) const {
  double sum = 0;
  const auto dim = static_cast<size_t>(shape_.head_dim);
  const size_t num_heads = other.size() / dim;
  for (size_t h = 0; h < num_heads; ++h) {
    double dot = 0, aa = 0, bb = 0;
    for (size_t c = h * dim; c < (h + 1) * dim; ++c) {
      dot += queries_.back()[c] * other[c];
      aa += queries_.back()[c] * queries_.back()[c];
      bb += other[c] * other[c];
    }
    sum += dot / std::sqrt(aa * bb);
  }
  return sum / static_cast<double>(num_heads);
}

bool Retrieval::Fires(const std::vector<std::set<int64_t>>& residents) {
  if (!has_selection_) return true;
  switch (settings_.trigger) {
    case Trigger::kEvery: return true;
    case Trigger::kStride: return now() - last_retrieval_ >= settings_.stride;
    case Trigger::kPrevious:
    case Trigger::kLast: {
      const int64_t against = settings_.trigger == Trigger::kLast ? last_retrieval_ : last_decode_;
      const double cosine = Cosine(queries_[static_cast<size_t>(against)]);
      Compare(cosine - settings_.tau, 1e-5);
      return cosine < settings_.tau;
    }
    case Trigger::kCoverage: {
      double resident = 0, best = 0, tolerance = 1e-6;
      for (size_t h = 0; h < heads_.size(); ++h) {
        for (const int64_t u : residents[h]) {
          resident += heads_[h].weights[static_cast<size_t>(u)];
          tolerance += heads_[h].tolerances[static_cast<size_t>(u)];
        }
        for (const int64_t u : heads_[h].best) {
          best += heads_[h].weights[static_cast<size_t>(u)];
          tolerance += heads_[h].tolerances[static_cast<size_t>(u)];
        }
      }
      Compare(resident - settings_.least_coverage * best, tolerance);
      return resident < settings_.least_coverage * best;
    }
  }
  return true;
}

std::string Retrieval::Decode(const Step& step) {
  margin_ = 1e9;
  if (heads_[0].units.empty()) {
    if (step.is_retrieval) return "a retrieval without units";
    for (const std::vector<int32_t>& seen : step.seen) {
      std::vector<int32_t> all(static_cast<size_t>(now() + 1));
      std::iota(all.begin(), all.end(), 0);
      if (seen != all) return fmt::format("without units attention reads {} of {} entries", seen.size(), all.size());
    }
    last_decode_ = now();
    return "";
  }
  for (size_t h = 0; h < heads_.size(); ++h) Weigh(heads_[h], h);
  if (settings_.trigger != Trigger::kCoverage) margin_ = 1e9;
  ++num_decisions_;
  const bool fires = Fires(step.before);
  if (fires != step.is_retrieval) {
    if (margin_ > 1.0) return fmt::format("retrieval: {} instead of {}", step.is_retrieval, fires);
    ++num_near_ties_;
  }
  if (step.is_retrieval) {
    ++num_retrievals_;
    has_selection_ = true;
    last_retrieval_ = now();
    boundaries_.push_back(now());
  }
  last_decode_ = now();
  // Where everything fits, everything is read.
  const double most = settings_.selected * static_cast<double>(settings_.budget);
  brings_ = step.is_retrieval;
  bool fits = true, lacks = false;
  for (size_t h = 0; h < heads_.size(); ++h) {
    int64_t num_entries = 0;
    for (const Unit& unit : heads_[h].units) num_entries += unit.size();
    fits = fits && static_cast<double>(num_entries) <= most;
    lacks = lacks || step.before[h].size() < heads_[h].units.size();
  }
  brings_ = brings_ || (fits && lacks);
  for (size_t h = 0; h < heads_.size(); ++h)
    if (std::string wrong = DecodeHead(h, step); !wrong.empty()) return fmt::format("KV head {}: {}", h, wrong);
  return "";
}

// Blocks that a KV head's units can always have.
int64_t Retrieval::LeastBlocks() const {
  int64_t longest = settings_.units == Units::kPages ? settings_.page : settings_.cluster_cap;
  switch (settings_.output_units) {
    case Units::kPages: longest = std::max(longest, settings_.output_page); break;
    case Units::kClusters: longest = std::max(longest, settings_.cluster_cap); break;
    case Units::kSegments: longest = std::max(longest, settings_.segment_entries); break;
  }
  return (std::max(settings_.budget, longest) + 15) / 16;
}

// Cuts what was chosen, best first, down to the front part that is resident.
std::string Retrieval::GiveUp(const Head& head, const std::set<int64_t>& after, std::vector<int64_t>& chosen) const {
  size_t num_kept = 0;
  int64_t num_blocks = 0;
  const auto blocks = [&](size_t i) { return head.units[static_cast<size_t>(chosen[i])].num_blocks(); };
  while (num_kept < chosen.size() && after.contains(chosen[num_kept])) num_blocks += blocks(num_kept++);
  if (num_kept == chosen.size()) return "";
  // What a KV head is promised, but no more than what its entries fill.
  const int64_t least_blocks = std::min(LeastBlocks(), (local_begin_ - settings_.sinks + 15) / 16);
  if (num_blocks + blocks(num_kept) <= least_blocks)
    return fmt::format("unit {} was left out, and the {} blocks of the better ones leave room for it", chosen[num_kept],
                       num_blocks);
  for (size_t i = num_kept; i < chosen.size(); ++i)
    if (after.contains(chosen[i])) return fmt::format("unit {} came before better ones", chosen[i]);
  chosen.resize(num_kept);
  return "";
}

std::string Retrieval::DecodeHead(size_t head_idx, const Step& step) {
  Head& head = heads_[head_idx];
  const std::set<int64_t>&before = step.before[head_idx], &after = step.after[head_idx];
  const auto unit = [&](int64_t u) -> Unit& { return head.units[static_cast<size_t>(u)]; };
  const auto entries = [&](const std::set<int64_t>& of) {
    return std::accumulate(of.begin(), of.end(), int64_t{0},
                           [&](int64_t sum, int64_t u) { return sum + unit(u).size(); });
  };
  const auto blocks = [&](const std::set<int64_t>& of) {
    return std::accumulate(of.begin(), of.end(), int64_t{0},
                           [&](int64_t sum, int64_t u) { return sum + unit(u).num_blocks(); });
  };
  std::string wrong;
  if (settings_.is_tight)  // what had to leave before the pass
    std::erase_if(head.selection, [&](int64_t u) { return !before.contains(u); });
  margin_ = head.guess_margin;
  for (size_t i = 1; i < head.order.size(); ++i) CompareWeights(head, head.order[i - 1], head.order[i]);
  const bool is_scored = brings_ || settings_.trigger == Trigger::kCoverage || settings_.attend == Attend::kBest;
  if (is_scored)
    for (const int64_t u : head.best)
      if (before.contains(u)) unit(u).last_used = now();

  // A retrieval: units in descending weight until the budget is used, or until enough is covered.
  std::set<int64_t> missing;
  if (brings_) {
    const auto wanted = static_cast<int64_t>(std::llround(settings_.selected * static_cast<double>(settings_.budget)));
    double covered = 0, best = 0, tolerance = 1e-9;
    for (const int64_t u : before) covered += head.weights[static_cast<size_t>(u)];
    for (const int64_t u : head.best) best += head.weights[static_cast<size_t>(u)];
    for (const double t : head.tolerances) tolerance += t;
    const bool takes_part = settings_.until < 1.0 && head.best.size() < head.units.size();
    int64_t num_entries = 0;
    std::vector<int64_t> chosen;
    int64_t cut_unit = -1, cut_entries = 0;
    for (const int64_t u : settings_.cuts_last ? head.order : head.best) {
      const int64_t size = unit(u).size();
      if (settings_.cuts_last ? num_entries >= wanted : num_entries > 0 && num_entries + size > wanted) break;
      if (takes_part) Compare(covered - settings_.until * best, tolerance);
      if (takes_part && covered >= settings_.until * best) break;
      chosen.push_back(u);
      if (settings_.cuts_last && num_entries + size > wanted) {
        cut_unit = u;
        cut_entries = wanted - num_entries;
      }
      num_entries += size;
      if (!before.contains(u)) covered += head.weights[static_cast<size_t>(u)];
    }
    if (settings_.is_tight) wrong = GiveUp(head, after, chosen);
    for (const int64_t u : chosen) {
      unit(u).last_used = now();
      if (!before.contains(u)) missing.insert(u);
    }
    if (settings_.attend == Attend::kSelection) {
      head.selection = {chosen.begin(), chosen.end()};
      const bool is_cut = cut_unit >= 0 && head.selection.contains(cut_unit);
      head.cut_unit = is_cut ? cut_unit : -1;
      head.cut_entries = is_cut ? cut_entries : 0;
    }
  }

  // What came and what went.
  std::set<int64_t> came, gone;
  std::set_difference(after.begin(), after.end(), before.begin(), before.end(), std::inserter(came, came.end()));
  std::set_difference(before.begin(), before.end(), after.begin(), after.end(), std::inserter(gone, gone.end()));
  if (wrong.empty() && came != missing) wrong = fmt::format("units {} came, {} were missing", came, missing);
  const int64_t pool = std::max(
      LeastBlocks(), static_cast<int64_t>(std::ceil(settings_.pool * static_cast<double>(settings_.budget) / 16)));
  std::set<int64_t> idle;
  for (const int64_t u : after)
    if (unit(u).last_used < now() && !came.contains(u)) idle.insert(u);
  if (wrong.empty() && brings_ && blocks(after) > pool && !idle.empty())
    wrong = fmt::format("{} blocks are resident, the pool has {}, and units {} are idle", blocks(after), pool, idle);
  if (wrong.empty() && !gone.empty()) {
    if (!brings_) wrong = fmt::format("units {} went without a retrieval", gone);
    if (blocks(after) + blocks(gone) <= pool && !settings_.is_tight)
      wrong = fmt::format("units {} went though the pool has room", gone);
    for (const int64_t u : gone)
      for (const int64_t v : idle)
        if (unit(u).last_used > unit(v).last_used && !has_tied_)
          wrong = fmt::format("unit {} went, used at {}, and unit {} stays, used at {}", u, unit(u).last_used, v,
                              unit(v).last_used);
  }

  // What attention reads.
  if (settings_.attend != Attend::kSelection) {
    head.selection = after;
    if (settings_.attend == Attend::kBest && entries(after) > settings_.budget) {
      head.selection.clear();
      int64_t num_entries = 0;
      for (const int64_t u : head.order) {
        if (!after.contains(u)) continue;
        if (num_entries > 0 && num_entries + unit(u).size() > settings_.budget) break;
        head.selection.insert(u);
        num_entries += unit(u).size();
      }
    }
  }
  const std::vector<int32_t>& seen = step.seen[head_idx];
  std::set<int32_t> expected;
  for (int32_t p = 0; p < settings_.sinks; ++p) expected.insert(p);
  for (auto p = static_cast<int32_t>(local_begin_); p <= now(); ++p) expected.insert(p);
  std::set<int32_t> of_selected;  // guesses of an attended unit's entries are not wanted
  for (const int64_t u : head.selection) {
    const std::vector<int32_t>& positions = unit(u).positions;
    of_selected.insert(positions.begin(), positions.end());
    const bool is_cut = u == head.cut_unit && head.cut_entries > 0;
    expected.insert(positions.begin(), is_cut ? positions.begin() + head.cut_entries : positions.end());
  }
  const size_t num_without_guesses = expected.size();
  for (const int32_t p : head.guesses)
    if (!of_selected.contains(p)) expected.insert(p);
  if (std::adjacent_find(seen.begin(), seen.end()) != seen.end()) return "attention reads a position twice";
  if (wrong.empty() && !std::equal(seen.begin(), seen.end(), expected.begin(), expected.end())) {
    std::vector<int32_t> extra, lost;
    std::set_difference(seen.begin(), seen.end(), expected.begin(), expected.end(), std::back_inserter(extra));
    std::set_difference(expected.begin(), expected.end(), seen.begin(), seen.end(), std::back_inserter(lost));
    wrong = fmt::format("attention reads {} too many and {} too few", extra, lost);
  }
  ++num_decisions_;
  if (wrong.empty()) {
    num_guesses_seen_ += static_cast<int64_t>(expected.size() - num_without_guesses);
  } else {
    if (margin_ > 1.0) return wrong;
    ++num_near_ties_;
    has_tied_ = true;
    head.cut_unit = -1;
    head.cut_entries = 0;
    head.selection.clear();
    for (size_t u = 0; u < head.units.size(); ++u) {
      const std::vector<int32_t>& positions = head.units[u].positions;
      const auto num_seen = std::count_if(positions.begin(), positions.end(), [&](int32_t p) {
        return std::binary_search(seen.begin(), seen.end(), p) && !head.guesses.contains(p);
      });
      const bool is_whole = num_seen == static_cast<int64_t>(positions.size());
      if (!is_whole && (num_seen == 0 || !settings_.cuts_last)) continue;
      head.selection.insert(static_cast<int64_t>(u));
      if (is_whole) continue;
      head.cut_unit = static_cast<int64_t>(u);
      head.cut_entries = num_seen;
    }
    for (const int64_t u : came) unit(u).last_used = now();
  }
  if (step.is_retrieval && settings_.next_keys > 0) Guess(head, head_idx, seen);
  return "";
}

// The positions after the keys that get the most attention, sinks and what is local left aside.
// Of a KV head's positions, over the group's query heads.
std::map<int32_t, double> Retrieval::Attention(const Head& head, size_t head_idx,
                                               const std::vector<int32_t>& positions) const {
  std::map<int32_t, double> attention;
  for (int g = 0; g < shape_.group_size; ++g) {
    const double* q = queries_.back().data() +
                      (static_cast<int64_t>(head_idx) * shape_.group_size + g) * static_cast<int64_t>(shape_.head_dim);
    std::vector<double> weights;
    double highest = -1e300, sum = 0;
    for (const int32_t p : positions) {
      weights.push_back(shape_.scale * Dot(q, head.keys[static_cast<size_t>(p)]));
      highest = std::max(highest, weights.back());
    }
    for (double& w : weights) sum += w = std::exp(w - highest);
    for (size_t i = 0; i < positions.size(); ++i) attention[positions[i]] += weights[i] / sum;
  }
  return attention;
}

Retrieval::Range Retrieval::OracleHits(const std::vector<std::vector<int32_t>>& seen) const {
  Range hits;
  std::vector<int32_t> all(static_cast<size_t>(now() + 1));
  std::iota(all.begin(), all.end(), 0);
  for (size_t h = 0; h < heads_.size(); ++h) {
    std::map<int32_t, double> attention = Attention(heads_[h], h, all);
    std::vector<std::pair<double, bool>> entries;  // and whether it was read
    for (const Unit& unit : heads_[h].units)
      for (const int32_t p : unit.positions)
        entries.emplace_back(attention[p], std::binary_search(seen[h].begin(), seen[h].end(), p));
    std::sort(entries.begin(), entries.end(), std::greater<>());
    const auto num_read = std::count_if(entries.begin(), entries.end(), [](const auto& e) { return e.second; });
    if (num_read == 0) continue;
    const double last = entries[static_cast<size_t>(num_read - 1)].first, tolerance = 2e-5 * last + 1e-30;
    for (const auto& [weight, is_read] : entries) {
      hits.least += is_read && weight > last + tolerance;
      hits.most += is_read && weight >= last - tolerance;
    }
  }
  return hits;
}

void Retrieval::Guess(Head& head, size_t head_idx, const std::vector<int32_t>& seen) {
  std::map<int32_t, double> attention = Attention(head, head_idx, seen);
  std::vector<std::pair<double, int32_t>> ranked;
  std::set<int32_t> of_selected;
  for (const int64_t u : head.selection) {
    const std::vector<int32_t>& positions = head.units[static_cast<size_t>(u)].positions;
    of_selected.insert(positions.begin(), positions.end());
    const auto count =
        u == head.cut_unit && head.cut_entries > 0 ? head.cut_entries : static_cast<int64_t>(positions.size());
    for (int64_t i = 0; i < count; ++i)
      ranked.emplace_back(-attention[positions[static_cast<size_t>(i)]], positions[static_cast<size_t>(i)]);
  }
  std::sort(ranked.begin(), ranked.end());
  head.guesses.clear();
  head.guess_margin = 1e9;
  const size_t count = std::min(static_cast<size_t>(settings_.next_keys), ranked.size());
  for (size_t k = 0; k < count; ++k)
    for (int32_t p = ranked[k].second + 1; p <= ranked[k].second + settings_.next_positions; ++p)
      if (page_positions_.contains(p) && !of_selected.contains(p)) head.guesses.insert(p);
  if (count < ranked.size())
    head.guess_margin = (ranked[count].first - ranked[count - 1].first) / (-1e-5 * ranked[count - 1].first);
}

// ---- Entries become units ----

void Retrieval::SetPages(int64_t first, int64_t end) {
  for (int64_t p = first; p < end; ++p) page_positions_.insert(p);
}

std::string Retrieval::AddUnit(size_t head_idx, std::vector<int32_t> positions, const UnitTable& table) {
  Head& head = heads_[head_idx];
  const auto unit_idx = static_cast<int64_t>(head.units.size());
  if (unit_idx >= table.num_units()) return fmt::format("KV head {}: unit {} is missing", head_idx, positions);
  if (static_cast<int64_t>(positions.size()) > LeastBlocks() * 16)
    return fmt::format("KV head {}: unit {} of {} entries does not fit into {} blocks", head_idx, unit_idx,
                       positions.size(), LeastBlocks());
  const std::span<const int32_t> made = table.positions(unit_idx);
  if (!std::equal(made.begin(), made.end(), positions.begin(), positions.end()))
    return fmt::format("KV head {}: unit {} is {} instead of {}", head_idx, unit_idx, made, positions);
  const auto dim = static_cast<size_t>(shape_.head_dim);
  const auto count = static_cast<double>(positions.size());
  Unit unit{positions, std::vector<double>(dim), std::vector<double>(dim), -1};
  for (size_t c = 0; c < dim; ++c) {
    double low = 1e300, high = -1e300, sum = 0, spread = 0;
    for (const int32_t p : positions) {
      const double key = head.keys[static_cast<size_t>(p)][c];
      low = std::min(low, key);
      high = std::max(high, key);
      sum += key;
    }
    for (const int32_t p : positions) spread += std::abs(head.keys[static_cast<size_t>(p)][c] - (low + high) / 2);
    switch (settings_.index) {
      case Index::kMinMax:
        unit.first[c] = low;
        unit.second[c] = high;
        break;
      case Index::kCuboidMean:
        unit.first[c] = (low + high) / 2 - spread / count;
        unit.second[c] = (low + high) / 2 + spread / count;
        break;
      case Index::kMeanKey:
      case Index::kMeanKeySoftmax: unit.first[c] = sum / count; break;
    }
  }
  head.units.push_back(std::move(unit));
  return "";
}

std::string Retrieval::AddRuns(int64_t first, int64_t end, int64_t length,
                               const std::vector<const UnitTable*>& tables) {
  for (size_t h = 0; h < heads_.size(); ++h)
    for (int64_t begin = first; begin < end; begin += length) {
      std::vector<int32_t> positions(static_cast<size_t>(std::min(length, end - begin)));
      std::iota(positions.begin(), positions.end(), static_cast<int32_t>(begin));
      if (std::string wrong = AddUnit(h, positions, *tables[h]); !wrong.empty()) return wrong;
    }
  return "";
}

// Units that together are the positions [first, end), whatever they are.
std::string Retrieval::AddClusters(int64_t first, int64_t end, const std::vector<const UnitTable*>& tables) {
  for (size_t h = 0; h < heads_.size(); ++h) {
    std::set<int32_t> all;
    while (static_cast<int64_t>(all.size()) < end - first) {
      const auto unit_idx = static_cast<int64_t>(heads_[h].units.size());
      if (unit_idx >= tables[h]->num_units()) return fmt::format("KV head {}: [{}, {}) is not covered", h, first, end);
      const std::span<const int32_t> made = tables[h]->positions(unit_idx);
      if (!std::is_sorted(made.begin(), made.end())) return fmt::format("KV head {}: {} is not sorted", h, made);
      for (const int32_t p : made)
        if (p < first || p >= end || !all.insert(p).second)
          return fmt::format("KV head {}: {} of unit {} is outside [{}, {}) or comes twice", h, p, unit_idx, first,
                             end);
      if (std::string wrong = AddUnit(h, {made.begin(), made.end()}, *tables[h]); !wrong.empty()) return wrong;
    }
  }
  return "";
}

std::string Retrieval::ClosePrompt(bool is_last_chunk, const std::vector<const UnitTable*>& tables) {
  const int64_t num_aged = now() + 1 - settings_.window - local_begin_;
  if (num_aged >= kPage) {
    SetPages(local_begin_, local_begin_ + num_aged / kPage * kPage);
    local_begin_ += num_aged / kPage * kPage;
  }
  const bool is_clusters = settings_.units == Units::kClusters;
  const int64_t length = is_clusters ? settings_.cluster_window : settings_.page;
  while (pending_begin_ < local_begin_) {
    const int64_t pending = local_begin_ - pending_begin_;
    if (!is_last_chunk && (length == 0 || pending < length)) break;
    const int64_t end = pending_begin_ + (length == 0 ? pending : std::min(pending, length));
    std::string wrong =
        is_clusters ? AddClusters(pending_begin_, end, tables) : AddRuns(pending_begin_, end, settings_.page, tables);
    if (!wrong.empty()) return wrong;
    pending_begin_ = end;
  }
  if (is_last_chunk) {
    has_selection_ = false;
    boundaries_.clear();
  }
  for (size_t h = 0; h < heads_.size(); ++h)
    if (tables[h]->num_units() != static_cast<int64_t>(heads_[h].units.size()))
      return fmt::format("KV head {}: {} units instead of {}", h, tables[h]->num_units(), heads_[h].units.size());
  return "";
}

std::string Retrieval::CloseOutput(const std::vector<const UnitTable*>& tables) {
  for (;;) {
    const int64_t num_aged = now() + 1 - settings_.window - local_begin_;
    int64_t count = settings_.output_units == Units::kPages ? settings_.output_page : settings_.close_every;
    if (settings_.output_units == Units::kSegments) {
      count = settings_.segment_entries;
      for (const int64_t boundary : boundaries_)
        if (boundary > local_begin_) {
          count = std::min(count, boundary - local_begin_);
          break;
        }
    }
    if (num_aged < count) break;
    if (settings_.output_units != Units::kSegments || count % kPage == 0) SetPages(local_begin_, local_begin_ + count);
    std::string wrong = settings_.output_units == Units::kClusters
                            ? AddClusters(local_begin_, local_begin_ + count, tables)
                            : AddRuns(local_begin_, local_begin_ + count, count, tables);
    if (!wrong.empty()) return wrong;
    local_begin_ += count;
    pending_begin_ = local_begin_;
  }
  for (size_t h = 0; h < heads_.size(); ++h)
    if (tables[h]->num_units() != static_cast<int64_t>(heads_[h].units.size()))
      return fmt::format("KV head {}: {} units instead of {}", h, tables[h]->num_units(), heads_[h].units.size());
  return "";
}

}  // namespace cachette::reference
