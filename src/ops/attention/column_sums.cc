#include "ops/attention/column_sums.h"

#include <omp.h>

#include <algorithm>

#include "base/result.h"
#include "ops/attention/column_sums_kernels.h"
#include "ops/numeric.h"
#include "ops/simd.h"

namespace cachette::ops {
namespace {

constexpr int kRowsPerPass = 32;  // query rows whose logits are in scratch together
constexpr int64_t kMaxSpans = 4;  // tasks per KV head; each has sums of its own, added up in order afterwards

// What a thread needs.
struct PassScratch {
  std::span<float> q;       // [kRowsPerPass][head_dim], scaled
  std::span<float> logits;  // [kRowsPerPass][stride]
};

class ColumnSummer {
 public:
  ColumnSummer(Context& cx, const ColumnSumParams& params)
      : cx_(cx),
        params_(params),
        kernels_(ForIsa(cx.isa(), []<Isa kIsa>() { return ColumnSumKernelsOf<kIsa>(); })),
        num_out_(params.group_logits == GroupLogits::kMax ? 1 : params.group_size),
        queries_per_pass_(std::max(1, kRowsPerPass / params.group_size)) {
    const int64_t num_passes = (params.num_queries + queries_per_pass_ - 1) / queries_per_pass_;
    num_spans_ = std::min(num_passes, kMaxSpans);
    for (const ColumnSumRow& row : params.rows) stride_ = std::max(stride_, RoundUp(row.kv.num_slots, kLogitTileSlots));
  }

  void Run() {
    const ScratchScope scope(cx_.scratch());
    const auto num_rows = static_cast<int64_t>(params_.rows.size());
    const auto span_floats = static_cast<size_t>(num_out_ * stride_);
    const std::span<float> partial_sums =
        cx_.scratch().Array<float>(static_cast<size_t>(num_rows * num_spans_) * span_floats);
    std::fill(partial_sums.begin(), partial_sums.end(), 0.0f);
    const std::span<PassScratch> scratch = cx_.scratch().Array<PassScratch>(static_cast<size_t>(cx_.num_threads()));
    for (PassScratch& s : scratch) {
      s.q = cx_.scratch().Array<float>(static_cast<size_t>(RowsPerPass() * params_.head_dim));
      s.logits = cx_.scratch().Array<float>(static_cast<size_t>(RowsPerPass() * stride_));
    }
    const int64_t num_tasks = num_rows * num_spans_;
    const bool is_parallel = num_tasks > 1 && cx_.num_threads() > 1;
    cx_.ParallelFor(num_tasks, [&](int64_t task) {
      RunSpan(params_.rows[static_cast<size_t>(task / num_spans_)], task % num_spans_,
              scratch[is_parallel ? static_cast<size_t>(omp_get_thread_num()) : 0],
              partial_sums.data() + static_cast<size_t>(task) * span_floats);
    });
    for (int64_t r = 0; r < num_rows; ++r) {
      const ColumnSumRow& row = params_.rows[static_cast<size_t>(r)];
      for (int g = 0; g < num_out_; ++g) {
        float* sums = row.sums + g * row.kv.num_slots;
        std::fill_n(sums, row.kv.num_slots, 0.0f);
        for (int64_t span = 0; span < num_spans_; ++span) {
          const float* part =
              partial_sums.data() + static_cast<size_t>(r * num_spans_ + span) * span_floats + g * stride_;
          for (int64_t j = 0; j < row.kv.num_slots; ++j) sums[j] += part[j];
        }
      }
    }
  }

 private:
  int RowsPerPass() const { return queries_per_pass_ * params_.group_size; }

  // sums [num_out][stride] of a share of the queries.
  void RunSpan(const ColumnSumRow& row, int64_t span, const PassScratch& scratch, float* sums) const {
    const int64_t begin = params_.num_queries * span / num_spans_;
    const int64_t end = params_.num_queries * (span + 1) / num_spans_;
    for (int64_t i = begin; i < end; i += queries_per_pass_)
      RunPass(row, i, std::min<int64_t>(queries_per_pass_, end - i), scratch, sums);
  }

  void RunPass(const ColumnSumRow& row, int64_t first_query, int64_t num_queries, const PassScratch& scratch,
               float* sums) const {
    const int group = params_.group_size;
    const float factor = params_.softcap > 0.0f ? params_.scale : params_.scale * kLog2e;
    int64_t low = row.kv.num_slots, high = 0;  // slots that some query covers
    for (int64_t i = first_query; i < first_query + num_queries; ++i) {
      low = std::min(low, row.begin_slots[i]);
      high = std::max(high, row.end_slots[i]);
      for (int d = 0; d < group * params_.head_dim; ++d)
        scratch.q[static_cast<size_t>((i - first_query) * group * params_.head_dim + d)] =
            row.q[i * params_.q_stride + d] * factor;
    }
    low = std::max<int64_t>(low, 0) / kLogitTileSlots * kLogitTileSlots;
    CACHETTE_CHECK(low >= row.kv.num_coded_slots || low >= high);  // only plain entries are scored
    for (int64_t slot = low; slot < high; slot += kLogitTileSlots)
      FillLogits(row.kv, slot, static_cast<int>(num_queries) * group, scratch);
    for (int64_t i = 0; i < num_queries; ++i) {
      const int64_t begin = row.begin_slots[first_query + i], end = row.end_slots[first_query + i];
      if (begin >= end) continue;
      float* logits = scratch.logits.data() + i * group * stride_;
      // Kernels work on whole registers: from a multiple of 16 on, what lies before begin made invisible.
      const int64_t aligned = begin / kBlockTokens * kBlockTokens;
      for (int g = 0; g < group; ++g)
        std::fill(logits + g * stride_ + aligned, logits + g * stride_ + begin, kMinusInfinity);
      if (params_.group_logits == GroupLogits::kMax) {
        for (int g = 1; g < group; ++g)
          kernels_.max_into(logits + aligned, logits + g * stride_ + aligned, end - aligned);
      }
      for (int g = 0; g < num_out_; ++g)
        kernels_.add_softmax({logits + g * stride_ + aligned, end - aligned, sums + g * stride_ + aligned});
    }
  }

  void FillLogits(const KvRow& kv, int64_t slot, int num_rows, const PassScratch& scratch) const {
    LogitTile tile{};
    for (int b = 0; b < 4; ++b) {
      const int64_t block = slot / kBlockTokens + b;
      if (block * kBlockTokens >= kv.num_slots) continue;
      const int64_t used = std::min<int64_t>(kBlockTokens, kv.num_slots - block * kBlockTokens);
      tile.blocks[b] = kv.blocks[block];
      tile.live_masks[b] = static_cast<uint16_t>((1u << used) - 1u);
      if (kv.live_masks != nullptr) tile.live_masks[b] &= kv.live_masks[block];
    }
    tile.dtype = kv.format.dtype;
    tile.head_dim = params_.head_dim;
    tile.num_rows = num_rows;
    tile.q = scratch.q.data();
    tile.softcap = params_.softcap;
    tile.logits = scratch.logits.data() + slot;
    tile.stride = stride_;
    kernels_.logit_tile(tile);
  }

  Context& cx_;
  const ColumnSumParams& params_;
  const ColumnSumKernels kernels_;
  const int num_out_;
  const int queries_per_pass_;
  int64_t num_spans_ = 0;
  int64_t stride_ = 0;  // slots of the longest row, rounded up to whole tiles
};

}  // namespace

void ColumnSums(Context& cx, const ColumnSumParams& params) {
  CACHETTE_CHECK(params.head_dim >= 8 && params.head_dim <= 256 && params.head_dim % 8 == 0 && params.group_size >= 1);
  if (params.rows.empty()) return;
  ColumnSummer(cx, params).Run();
}

}  // namespace cachette::ops
