#include "methods/allocators/ada_head.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace cachette {
namespace {

struct Candidate {
  float score;
  int32_t head;
};

// Scores of a head's unprotected entries, best first.
std::vector<float> Ranked(const std::vector<float>& scores) {
  std::vector<float> ranked;
  for (const float score : scores)
    if (!std::isinf(score)) ranked.push_back(std::isnan(score) ? 0.0f : score);
  std::sort(ranked.begin(), ranked.end(), std::greater<>());
  return ranked;
}

}  // namespace

void AdaHead::VisitOptions(OptionVisitor& v) {
  v(floor_share, "floor_share", "share of a layer's places that is split equally over its KV heads, in [0, 1]");
  v(normalise, "normalise", "weigh a head's scores by the share of them that its best entries hold");
  v(skeleton, "skeleton", "average places of a layer: uniform or pyramid");
  pyramid_.VisitOptions(v);
}

Result<void> AdaHead::Prepare(const CacheShape& shape) {
  if (!(floor_share >= 0.0 && floor_share <= 1.0))
    return Fail(Error::kInvalidArgument, fmt::format("allocator.floor_share {} must be in [0, 1]", floor_share));
  if (skeleton != "uniform" && skeleton != "pyramid")
    return Fail(Error::kInvalidArgument,
                fmt::format("option allocator.skeleton: '{}' is neither uniform nor pyramid", skeleton));
  return pyramid_.Prepare(shape);
}

void AdaHead::Share(const LayerContest& contest, std::span<int64_t> num_kept) const {
  const auto num_heads = static_cast<int64_t>(num_kept.size());
  std::vector<std::vector<float>> ranked(num_kept.size());
  std::vector<Candidate> all;
  int64_t base = contest.num_places - contest.num_window;  // places per head beyond the window
  for (size_t head = 0; head < num_kept.size(); ++head) ranked[head] = Ranked(contest.scores[head]);
  if (skeleton == "pyramid") base = pyramid_.PlacesBeyondWindow(contest);
  base = std::max<int64_t>(base, 0);
  std::vector<float> weights(num_kept.size(), 1.0f);
  size_t longest = 0;
  for (size_t head = 0; head < num_kept.size(); ++head) {
    const std::vector<float>& scores = ranked[head];
    longest = std::max(longest, scores.size());
    if (!normalise) continue;
    const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
    const auto best_end = scores.begin() + std::min(base, static_cast<int64_t>(scores.size()));
    const double best = std::accumulate(scores.begin(), best_end, 0.0);
    if (sum > 0.0) weights[head] = static_cast<float>(best / sum);
  }
  // Ties, which smoothing makes many of, go to the better rank in its own head, then to the lower head: the order of
  // this list. So heads that are alike share alike.
  for (size_t rank = 0; rank < longest; ++rank)
    for (size_t head = 0; head < num_kept.size(); ++head)
      if (rank < ranked[head].size()) all.push_back({ranked[head][rank] * weights[head], static_cast<int32_t>(head)});
  const int64_t total = std::min(num_heads * base, static_cast<int64_t>(all.size()));
  std::stable_sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
  std::vector<int64_t> won(num_kept.size());
  for (int64_t i = 0; i < total; ++i) ++won[static_cast<size_t>(all[static_cast<size_t>(i)].head)];

  int64_t rest = total;
  for (size_t head = 0; head < num_kept.size(); ++head) {
    const double mixed = floor_share * static_cast<double>(base) + (1.0 - floor_share) * static_cast<double>(won[head]);
    num_kept[head] = std::min(static_cast<int64_t>(std::nearbyint(mixed)), static_cast<int64_t>(ranked[head].size()));
    rest -= num_kept[head];
  }
  for (bool has_moved = true; rest != 0 && has_moved;) {
    has_moved = false;
    for (size_t head = 0; head < num_kept.size() && rest != 0; ++head) {
      const int64_t step = rest > 0 ? 1 : -1;
      const int64_t next = num_kept[head] + step;
      if (next < 0 || next > static_cast<int64_t>(ranked[head].size())) continue;
      num_kept[head] = next;
      rest -= step;
      has_moved = true;
    }
  }
  for (size_t head = 0; head < num_kept.size(); ++head)  // what is protected is kept besides
    num_kept[head] += static_cast<int64_t>(contest.scores[head].size() - ranked[head].size());
}

}  // namespace cachette
