#include "methods/scorers/query_sums.h"

#include <algorithm>

namespace cachette {
namespace {

// Slots that queries at ascending positions cover, from begin_slot on.
struct Coverage {
  std::vector<int64_t> begin, end;  // [queries]
};

Coverage CoverageOf(const HeadStream& stream, const QuerySumsParams& params, int64_t begin_slot) {
  const size_t count = params.positions.size();
  Coverage covered{std::vector<int64_t>(count, begin_slot), std::vector<int64_t>(count)};
  const auto is_after = [&](int64_t slot, int32_t position) {
    return !stream.IsLive(slot) || stream.positions()[static_cast<size_t>(slot)] > position;
  };
  // From the newest query back: every end is near the stream's.
  int64_t end = stream.num_slots();
  for (size_t i = count; i-- > 0;) {
    while (end > 0 && is_after(end - 1, params.positions[i])) --end;
    covered.end[i] = end;
  }
  if (params.excludes_query_window && count > 0) {
    while (end > 0 && is_after(end - 1, params.positions[0] - 1)) --end;
    std::fill(covered.end.begin(), covered.end.end(), end);
  }
  if (const int32_t window = params.queries.attention_window; window > 0 && count > 0) {
    int64_t begin = covered.end.back();
    for (size_t i = count; i-- > 0;) {
      begin = std::min(begin, covered.end[i]);
      while (begin > begin_slot && is_after(begin - 1, params.positions[i] - window)) --begin;
      covered.begin[i] = begin;
    }
  }
  return covered;
}

}  // namespace

std::vector<std::vector<float>> QuerySums(Context& cx, const SequenceCache& cache, const QuerySumsParams& params) {
  const LayerQueries& queries = params.queries;
  const auto num_heads = static_cast<size_t>(cache.shape().num_kv_heads);
  const int head_dim = cache.shape().format.head_dim;
  const int num_out = params.group_logits == ops::GroupLogits::kMax ? 1 : queries.group_size;
  std::vector<std::vector<float>> sums(num_heads);
  std::vector<Coverage> covered(num_heads);
  std::vector<ops::ColumnSumRow> rows(num_heads);
  for (size_t head = 0; head < num_heads; ++head) {
    const HeadStream& stream = cache.stream(params.layer, static_cast<int>(head));
    sums[head].resize(static_cast<size_t>(num_out) * static_cast<size_t>(stream.num_slots()));
    covered[head] = CoverageOf(stream, params, params.begin_slots[head]);
    rows[head] = {stream.Row(), queries.q + static_cast<int64_t>(head) * queries.group_size * head_dim,
                  covered[head].begin.data(), covered[head].end.data(), sums[head].data()};
  }
  ops::ColumnSums(cx, {.rows = rows,
                       .num_queries = queries.num_rows,
                       .q_stride = queries.q_stride,
                       .group_size = queries.group_size,
                       .head_dim = head_dim,
                       .scale = queries.scale,
                       .softcap = queries.softcap,
                       .group_logits = params.group_logits});
  return sums;
}

std::vector<std::vector<float>> QuerySums(Context& cx, const LayerView& view, bool excludes_query_window,
                                          ops::GroupLogits group_logits) {
  std::vector<int64_t> begin_slots;
  for (const std::vector<int64_t>& slots : view.slots) begin_slots.push_back(slots.empty() ? 0 : slots.front());
  return QuerySums(cx, view.cache,
                   {.layer = view.layer,
                    .queries = view.queries,
                    .positions = view.positions,
                    .begin_slots = begin_slots,
                    .excludes_query_window = excludes_query_window,
                    .group_logits = group_logits});
}

}  // namespace cachette
