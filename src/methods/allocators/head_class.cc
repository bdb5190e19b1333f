#include "methods/allocators/head_class.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <numeric>
#include <string_view>

namespace cachette {
namespace {

// Rows of numbers; blank lines and lines starting with '#' do not count.
Result<std::vector<std::vector<double>>> ReadRows(const std::string& path) {
  std::ifstream file(path);
  if (!file) return Fail(Error::kNotFound, fmt::format("mask file {} cannot be read", path));
  std::vector<std::vector<double>> rows;
  std::string line;
  for (int line_number = 1; std::getline(file, line); ++line_number) {
    for (char& c : line)
      if (c == '\t' || c == ',' || c == '\r') c = ' ';
    const size_t first = line.find_first_not_of(' ');
    if (first == std::string::npos || line[first] == '#') continue;
    std::vector<double>& row = rows.emplace_back();
    const char* p = line.data() + first;
    const char* end = line.data() + line.size();
    while (p < end) {
      double value = 0;
      const auto [next, status] = std::from_chars(p, end, value);
      if (status != std::errc() || !(value >= 0.0 && value <= 1.0) || (next < end && *next != ' '))
        return Fail(Error::kCorrupt,
                    fmt::format("mask file {} line {}: '{}' is not a number in [0, 1]", path, line_number,
                                std::string_view(p, static_cast<size_t>(end - p)).substr(0, 20)));
      row.push_back(value);
      p = std::find_if(next, end, [](char c) { return c != ' '; });
    }
  }
  return rows;
}

}  // namespace

void HeadClass::VisitOptions(OptionVisitor& v) {
  v(mask_file, "mask_file", "file with one number in [0, 1] per layer (line) and KV head (column)");
  v(head_sparsity, "head_sparsity",
    "fraction of KV heads that stream, smallest numbers first; negative: those below 0.5");
}

Result<void> HeadClass::Prepare(const CacheShape& shape) {
  if (mask_file.empty())
    return Fail(Error::kInvalidArgument,
                "this recipe needs --allocator.mask_file with one number per layer and KV head");
  if (!(head_sparsity <= 1.0))
    return Fail(Error::kInvalidArgument, fmt::format("allocator.head_sparsity {} must be at most 1", head_sparsity));
  CACHETTE_TRY(const auto rows, ReadRows(mask_file));
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
