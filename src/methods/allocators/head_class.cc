#include "methods/allocators/head_class.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "methods/number_rows.h"

namespace cachette {

void HeadClass::VisitOptions(OptionVisitor& v) {
  v(mask_file, "mask_file", "file with one number in [0, 1] per layer (line) and KV head (column)");
  v(head_sparsity, "head_sparsity",
    "fraction of KV heads that stream, smallest numbers first; negative: those below 0.5");
}

Result<void> HeadClass::Prepare(const CacheShape& shape) {
  if (mask_file.empty())
    return Fail(Error::kInvalidArgument,
                "this recipe needs --allocator.mask-file with one number per layer and KV head");
  if (!(head_sparsity <= 1.0))
    return Fail(Error::kInvalidArgument, fmt::format("allocator.head_sparsity {} must be at most 1", head_sparsity));
  CACHETTE_TRY(const auto rows, ReadNumberRows("mask file", mask_file, 0.0, 1.0));
  std::vector<double> alphas;
  for (const std::vector<double>& row : rows) {
    if (static_cast<int>(row.size()) != shape.num_kv_heads)
      return Fail(Error::kInvalidArgument,
                  fmt::format("mask file {} has a line of {} numbers; this model has {} KV heads per layer", mask_file,
                              row.size(), shape.num_kv_heads));
    alphas.insert(alphas.end(), row.begin(), row.end());
  }
  if (static_cast<int>(rows.size()) != shape.num_layers)
    return Fail(Error::kInvalidArgument, fmt::format("mask file {} has {} lines; this model has {} layers", mask_file,
                                                     rows.size(), shape.num_layers));
  is_streaming_.assign(alphas.size(), 0);
  if (head_sparsity < 0.0) {
    for (size_t i = 0; i < alphas.size(); ++i) is_streaming_[i] = alphas[i] < 0.5;
    return Ok();
  }
  std::vector<size_t> order(alphas.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return alphas[a] < alphas[b]; });
  const auto count = static_cast<size_t>(std::nearbyint(head_sparsity * static_cast<double>(alphas.size())));
  for (size_t i = 0; i < count; ++i) is_streaming_[order[i]] = 1;
  return Ok();
}

void HeadClass::Share(const LayerContest& contest, std::span<int64_t> num_kept) const {
  const size_t first = static_cast<size_t>(contest.layer) * num_kept.size();
  for (size_t head = 0; head < num_kept.size(); ++head) num_kept[head] = is_streaming_[first + head] ? 0 : kUnlimited;
}

}  // namespace cachette
