#pragma once
// Rows of KV blocks with known contents for the attention tests.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "base/half.h"
#include "base/rng.h"
#include "ops/attention/kv_codec.h"
#include "ops/attention/kv_store.h"
#include "ops/attention/kv_view.h"
#include "tensor/backend.h"

namespace cachette::ops::testing {

inline constexpr double kEps = 0x1.0p-24;  // half a unit in the last place of f32, relative

// Backends above the reference that this machine has.
inline std::vector<Backend> FastBackends() {
  std::vector<Backend> backends;
  for (const Backend& backend : AllBackends())
    if (backend.is_supported && backend.isa != Isa::kRef) backends.push_back(backend);
  return backends;
}

inline std::vector<float> Normals(Rng& rng, size_t count, double scale = 1.0) {
  std::vector<float> values(count);
  for (float& x : values) x = static_cast<float>(rng.Normal() * scale);
  return values;
}

inline double MaxAbs(const std::vector<float>& values) {
  double max = 0.0;
  for (float x : values) max = std::max(max, std::abs(static_cast<double>(x)));
  return max;
}

// A row that owns exactly its blocks, each in its own allocation so that a sanitizer sees every overrun, filled with
// standard normal entries through StoreEntries. Unused slots hold a large finite number: a missing mask shows.
class TestRow {
 public:
  TestRow(Rng& rng, Dtype dtype, int head_dim, int64_t num_slots) : format_{dtype, head_dim}, num_slots_(num_slots) {
    for (int64_t b = 0; b < (num_slots + kBlockTokens - 1) / kBlockTokens; ++b) {
      blocks_.emplace_back(static_cast<std::byte*>(std::aligned_alloc(64, format_.block_bytes())), std::free);
      pointers_.push_back(blocks_.back().get());
      const std::vector<float> junk(static_cast<size_t>(kBlockTokens * head_dim), 1000.0f);
      std::byte* one[] = {pointers_.back()};
      StoreEntries(format_, one, 0, junk.data(), head_dim, junk.data(), head_dim, kBlockTokens);
    }
    const auto count = static_cast<size_t>(num_slots * head_dim);
    const std::vector<float> keys = Normals(rng, count), values = Normals(rng, count);
    StoreEntries(format_, pointers_.data(), 0, keys.data(), head_dim, values.data(), head_dim, num_slots);
    positions_.resize(static_cast<size_t>(num_slots));
    std::iota(positions_.begin(), positions_.end(), 0);
  }

  // Encodes the first num_slots slots, a multiple of 64; before holes are punched.
  void Encode(int bits, int64_t num_slots) {
    coded_bits_ = bits;
    num_coded_slots_ = num_slots;
    const std::vector<uint16_t> all(4, 0xffff);
    const auto block_bytes = static_cast<size_t>(CodedLayoutOf(bits, format_.head_dim).block_bytes);
    for (auto b = static_cast<size_t>(num_slots / kBlockTokens); b > 0; b -= 4) {
      blocks_.emplace_back(static_cast<std::byte*>(std::aligned_alloc(64, block_bytes)), std::free);
      EncodeBlock(format_, &pointers_[b - 4], all.data(), 0, bits, blocks_.back().get());
      std::fill_n(pointers_.begin() + static_cast<int64_t>(b) - 4, 4, blocks_.back().get());
    }
  }

  // Kills about a third of the plain slots before keep_from, never a whole block, and scatters the positions.
  void PunchHoles(Rng& rng, int64_t keep_from) {
    masks_.assign(pointers_.size(), 0xffff);
    for (int64_t slot = num_coded_slots_; slot < keep_from; ++slot)
      if (slot % kBlockTokens != 3 && rng.Below(3) == 0)
        masks_[static_cast<size_t>(slot / kBlockTokens)] &= static_cast<uint16_t>(~(1u << (slot % kBlockTokens)));
    int32_t position = 0;
    for (int64_t slot = 0; slot < num_slots_; ++slot) {
      position += 1 + static_cast<int32_t>(rng.Below(3));
      positions_[static_cast<size_t>(slot)] = position;
    }
  }

  KvRow View() const { return ViewOf(num_slots_); }
  KvRow ViewOf(int64_t num_slots) const {
    return {pointers_.data(), positions_.data(), masks_.empty() ? nullptr : masks_.data(), num_slots, format_,
            num_coded_slots_, coded_bits_};
  }
  std::byte* const* blocks() const { return pointers_.data(); }
  const KvFormat& format() const { return format_; }

 private:
  KvFormat format_;
  int64_t num_slots_;
  int64_t num_coded_slots_ = 0;
  int coded_bits_ = 0;
  std::vector<std::unique_ptr<std::byte, void (*)(void*)>> blocks_;
  std::vector<std::byte*> pointers_;
  std::vector<int32_t> positions_;
  std::vector<uint16_t> masks_;
};

// Bounds for attention over num_slots standard normal entries. |q . k| <= |q|_1 max|k|; normal keys stay below 6.
struct AttentionBound {
  double logit;   // largest sum |q_d k_d| * scale
  double values;  // largest |v|
  // A coded key is code * scale + min: both terms are up to the group's range, four times the largest key, and leave
  // their own rounding errors. The scales of a logit's worst case in BoundOf allow for 2; 8 covers both terms.
  static constexpr double kCodedTerms = 8.0;
  // A relative error r of every product and a relative error w of every weight move the output by at most
  // 2 (logit * r + w) max|v| to first order (numerator and denominator both), plus summation.
  double Output(double product_error, double weight_error, int64_t num_slots) const {
    return 2.0 * values * (logit * product_error + weight_error + static_cast<double>(num_slots + 16) * kEps);
  }
};

inline AttentionBound BoundOf(const std::vector<float>& q, int head_dim, float scale) {
  double largest = 0.0;
  for (size_t first = 0; first + static_cast<size_t>(head_dim) <= q.size(); first += static_cast<size_t>(head_dim)) {
    double sum = 0.0;
    for (int d = 0; d < head_dim; ++d) sum += std::abs(static_cast<double>(q[first + static_cast<size_t>(d)]));
    largest = std::max(largest, sum);
  }
  // sum |q_d k_d| <= |q|_1 max |k|, but the mean |k| of normal keys is 0.8: 2 covers all test sizes.
  return {largest * 2.0 * static_cast<double>(scale), 6.0};
}

}  // namespace cachette::ops::testing
