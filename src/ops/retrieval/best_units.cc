#include "ops/retrieval/best_units.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>

#include "base/result.h"

namespace cachette::ops {
namespace {

// Equal weights get equal ranks, larger ones smaller ranks, NaN the last: a float's bits order like the number once the
// sign is accounted for.
uint32_t RankOf(float weight) {
  if (std::isnan(weight)) return 0xffffffffu;
  const uint32_t bits = std::bit_cast<uint32_t>(weight + 0.0f);  // -0 becomes 0
  const uint32_t ascending = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return ~ascending;
}

// Below this many units of undecided order sorting them is cheaper than another histogram.
constexpr size_t kSortUnits = 96;
constexpr std::array<int, 3> kDigitShifts = {21, 10, 0};  // of ranks, 11 bits each (the last has 10)
constexpr uint32_t kDigitMask = 2047;

// The units that fit are all of those in the better bins of a histogram by rank and some of the first bin that does not
// fit whole: that bin alone is looked into further.
class Chooser {
 public:
  Chooser(std::span<const float> weights, std::span<const int32_t> sizes, int32_t uniform_size, int64_t budget_entries)
      : weights_(weights), sizes_(sizes), uniform_size_(uniform_size), left_entries_(budget_entries) {}

  // Rank and unit of the chosen, best first.
  const std::vector<uint64_t>& Choose() {
    const auto unit_at = [&](size_t u) { return (static_cast<uint64_t>(RankOf(weights_[u])) << 32) | u; };
    pool_.resize(weights_.size());
    if (weights_.size() <= kSortUnits) {
      for (size_t u = 0; u < pool_.size(); ++u) pool_[u] = unit_at(u);
    } else {
      Narrow(kDigitShifts[0], unit_at);
      for (size_t digit = 1; digit < kDigitShifts.size() && pool_.size() > kSortUnits; ++digit)
        Narrow(kDigitShifts[digit], [&](size_t i) { return pool_[i]; });
    }
    std::sort(chosen_.begin(), chosen_.end());
    if (pool_.size() <= kSortUnits) std::sort(pool_.begin(), pool_.end());  // else of equal rank, in order of units
    for (const uint64_t unit : pool_) {
      if (SizeOf(unit) > left_entries_ && !chosen_.empty()) break;
      Take(unit);
      if (left_entries_ < 0) break;
    }
    return chosen_;
  }

 private:
  int64_t SizeOf(uint64_t unit) const { return sizes_.empty() ? uniform_size_ : sizes_[unit & 0xffffffffu]; }
  void Take(uint64_t unit) {
    left_entries_ -= SizeOf(unit);
    chosen_.push_back(unit);
  }

  // Takes the bins that fit; the pool, whose units unit_at tells, becomes the first that does not.
  template <class UnitAt>
  void Narrow(int shift, const UnitAt& unit_at) {
    std::array<int64_t, kDigitMask + 1> entries{};  // of the units in each bin
    const auto bin_of = [shift](uint64_t unit) { return static_cast<uint32_t>(unit >> (32 + shift)) & kDigitMask; };
    for (size_t i = 0; i < pool_.size(); ++i) {
      const uint64_t unit = unit_at(i);
      entries[bin_of(unit)] += SizeOf(unit);
    }
    uint32_t bin = 0;
    for (int64_t total = 0; bin <= kDigitMask; ++bin) {
      total += entries[bin];
      if (total > left_entries_) break;
    }
    size_t num_kept = 0;
    for (size_t i = 0; i < pool_.size(); ++i) {
      const uint64_t unit = unit_at(i);
      const uint32_t own = bin_of(unit);
      if (own > bin) continue;
      if (own == bin)
        pool_[num_kept++] = unit;
      else
        Take(unit);
    }
    pool_.resize(num_kept);
  }

  const std::span<const float> weights_;
  const std::span<const int32_t> sizes_;
  const int64_t uniform_size_;
  int64_t left_entries_;
  std::vector<uint64_t> pool_;  // rank and unit of those undecided
  std::vector<uint64_t> chosen_;
};

}  // namespace

double TakeBestUnits(std::span<const float> weights, std::span<const int32_t> sizes, int32_t uniform_size,
                     int64_t budget_entries, std::vector<int32_t>& chosen) {
  chosen.clear();
  if (budget_entries <= 0 || weights.empty()) return 0.0;
  CACHETTE_CHECK(sizes.empty() ? uniform_size >= 1 : sizes.size() == weights.size());
  double sum = 0.0;
  Chooser chooser(weights, sizes, uniform_size, budget_entries);
  for (const uint64_t unit : chooser.Choose()) {
    chosen.push_back(static_cast<int32_t>(unit & 0xffffffffu));
    const float weight = weights[static_cast<size_t>(chosen.back())];
    if (!std::isnan(weight)) sum += static_cast<double>(weight);
  }
  return sum;
}

}  // namespace cachette::ops
