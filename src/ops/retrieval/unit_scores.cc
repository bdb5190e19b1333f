#include "ops/retrieval/unit_scores.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <new>

#include "base/result.h"
#include "ops/retrieval/unit_scores_kernels.h"
#include "ops/simd.h"
#include "tensor/backend.h"

namespace cachette::ops {
namespace {

// Blocks per task: 512 units, 64 KB of one vector of head_dim 64.
constexpr int64_t kSplitBlocks = 32;
// Below this many bytes a call stays on the calling thread, as in attention/decode.cc and for the same reason.
constexpr int64_t kMinParallelBytes = 96 << 10;
constexpr int kMaxHeadDim = 256;

int64_t NumBlocks(int64_t num_units) { return (num_units + kIndexBlockUnits - 1) / kIndexBlockUnits; }

// A row's splits are tasks [first_task, first_task + num_splits); the one that finishes last reduces the group.
struct RowPlan {
  int64_t first_task = 0;
  int64_t num_splits = 0;
  float* scores = nullptr;  // [group_size][16 * num_blocks]
  std::atomic<int64_t> num_unfinished{0};
};

void CheckParams(const UnitScoreParams& params) {
  CACHETTE_CHECK(params.group_size >= 1 && params.group_size <= 16);
  CACHETTE_CHECK(params.head_dim >= 8 && params.head_dim <= kMaxHeadDim && params.head_dim % 8 == 0);
  for (const UnitScoreRow& row : params.rows) CACHETTE_CHECK(row.num_units >= 0);
}

// All levels narrow alike, so the best one of the machine serves whoever has no Context.
const UnitScoreKernels& BestKernels() {
  static const UnitScoreKernels best =
      ForIsa(FindBackend("auto")->isa, []<Isa kIsa>() { return UnitScoreKernelsOf<kIsa>(); });
  return best;
}

}  // namespace

void StoreUnitVectors(UnitBound bound, int head_dim, std::byte* index, int64_t unit, const float* first,
                      const float* second) {
  CACHETTE_CHECK(head_dim <= kMaxHeadDim && head_dim % 8 == 0);
  std::byte* block = index + unit / kIndexBlockUnits * UnitIndexBytes(bound, kIndexBlockUnits, head_dim);
  uint16_t bits[kMaxHeadDim];
  const auto store = [&](const float* vector, Narrowing narrowing, int first_channel) {
    BestKernels().narrow(vector, head_dim, narrowing, bits);
    for (int d = 0; d < head_dim; ++d)
      std::memcpy(block + ((first_channel + d) * kIndexBlockUnits + unit % kIndexBlockUnits) * 2, &bits[d], 2);
  };
  store(first, bound == UnitBound::kBox ? Narrowing::kDown : Narrowing::kNearest, 0);
  if (bound == UnitBound::kBox) store(second, Narrowing::kUp, head_dim);
}

void ScoreUnits(Context& cx, const UnitScoreParams& params) {
  CheckParams(params);
  const UnitScoreKernels kernels = ForIsa(cx.isa(), []<Isa kIsa>() { return UnitScoreKernelsOf<kIsa>(); });
  const ScratchScope scope(cx.scratch());
  const std::span<RowPlan> plans = cx.scratch().Array<RowPlan>(params.rows.size());
  int64_t num_tasks = 0, num_bytes = 0;
  for (size_t r = 0; r < plans.size(); ++r) {
    const int64_t num_units = params.rows[r].num_units, num_blocks = NumBlocks(num_units);
    RowPlan& plan = *new (&plans[r]) RowPlan;
    plan.first_task = num_tasks;
    plan.num_splits = (num_blocks + kSplitBlocks - 1) / kSplitBlocks;
    plan.scores =
        cx.scratch().Array<float>(static_cast<size_t>(params.group_size * num_blocks * kIndexBlockUnits)).data();
    plan.num_unfinished = plan.num_splits;
    num_tasks += plan.num_splits;
    num_bytes += UnitIndexBytes(params.bound, num_units, params.head_dim);
  }
  const auto run_task = [&](int64_t task) {
    size_t r = plans.size() - 1;  // the last row that starts at or before the task and is not empty
    while (plans[r].first_task > task || plans[r].num_splits == 0) --r;
    const UnitScoreRow& row = params.rows[r];
    RowPlan& plan = plans[r];
    const int64_t num_blocks = NumBlocks(row.num_units), stride = num_blocks * kIndexBlockUnits;
    const int64_t first_block = (task - plan.first_task) * kSplitBlocks;
    kernels.score({row.index + first_block * UnitIndexBytes(params.bound, kIndexBlockUnits, params.head_dim),
                   std::min(kSplitBlocks, num_blocks - first_block), params.bound, params.head_dim, params.group_size,
                   row.q, params.scale, params.softcap, plan.scores + first_block * kIndexBlockUnits, stride});
    if (plan.num_unfinished.fetch_sub(1) == 1)
      kernels.reduce({plan.scores, stride, params.group_size, row.num_units, params.reduce, row.weights});
  };
  if (num_bytes < kMinParallelBytes) {
    for (int64_t task = 0; task < num_tasks; ++task) run_task(task);
  } else {
    cx.ParallelFor(num_tasks, run_task);
  }
}

}  // namespace cachette::ops
