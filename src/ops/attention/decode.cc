#include "ops/attention/decode.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <new>

#include "base/result.h"
#include "ops/attention/decode_kernels.h"
#include "ops/numeric.h"

namespace cachette::ops {
namespace {

// Slots per split. 256 slots of head_dim 64 in f16 are 64 KB, about 6 us of one core's memory bandwidth: small enough
// to balance three KV heads over two threads at a few hundred tokens, large enough to hide the task and the merge.
constexpr int64_t kSplitSlots = 256;
// Rows with coded blocks move a third of the bytes per slot or less: their splits are longer by that.
constexpr int64_t kCodedSplitSlots = 1024;

// Below this many bytes a call stays on the calling thread: waking the others costs 1.3 us when they spin and 5 us when
// the machine is busy, as much as reading 16 to 64 KB.
constexpr int64_t kMinParallelBytes = 96 << 10;

constexpr float kLn2 = 0.69314718055994530942f;

using AttendSplitFn = void (*)(const DecodeSplit&, const DecodePartial&);

AttendSplitFn AttendSplitOf(Isa isa) {
#if defined(CACHETTE_X86)
  constexpr std::array<AttendSplitFn, kNumIsas> kTable = {nullptr, avx2::AttendSplit, avx512::AttendSplit,
                                                          avx512vnni::AttendSplit, avx512bf16::AttendSplit};
  return kTable[static_cast<size_t>(isa)];
#else
  (void)isa;
  return nullptr;
#endif
}

void CheckParams(const DecodeParams& params) {
  CACHETTE_CHECK(params.group_size >= 1 && params.group_size <= 16);
  CACHETTE_CHECK(params.head_dim >= 8 && params.head_dim <= 256 && params.head_dim % 8 == 0);
  for (const DecodeRow& row : params.rows) {
    CACHETTE_CHECK(row.first_slot >= 0 && row.kv.num_slots >= 0);
    CACHETTE_CHECK(row.kv.num_slots == 0 || row.kv.format.head_dim == params.head_dim);
    CACHETTE_CHECK(row.kv.num_coded_slots % kCodedEntries == 0 && row.kv.num_coded_slots <= row.kv.num_slots);
  }
}

// A row's splits are tasks [first_task, first_task + num_splits); the one that finishes last merges them.
struct RowPlan {
  int64_t first_task = 0;
  int64_t num_splits = 0;
  std::atomic<int64_t> num_unfinished{0};
};

int64_t SplitSlotsOf(const KvRow& kv) { return kv.num_coded_slots > 0 ? kCodedSplitSlots : kSplitSlots; }

// What attention over slots [first_slot, num_slots) reads.
int64_t VisibleBytes(const DecodeRow& row) {
  const KvRow& kv = row.kv;
  const int64_t num_coded = std::max<int64_t>(kv.num_coded_slots - row.first_slot, 0);
  const int64_t num_plain = kv.num_slots - row.first_slot - num_coded;
  const int64_t coded_bytes =
      num_coded > 0 ? num_coded * CodedLayoutOf(kv.coded_bits, kv.format.head_dim).entry_bytes : 0;
  return num_plain * static_cast<int64_t>(kv.format.entry_bytes()) + coded_bytes;
}

struct Plan {
  std::span<RowPlan> rows;
  std::span<int32_t> row_of_task;  // [num_tasks]
  int64_t num_bytes = 0;           // what all tasks read
};

Plan MakePlan(Context& cx, const DecodeParams& params) {
  Plan plan;
  plan.rows = cx.scratch().Array<RowPlan>(params.rows.size());
  int64_t num_tasks = 0;
  for (size_t r = 0; r < params.rows.size(); ++r) {
    const DecodeRow& row = params.rows[r];
    RowPlan& row_plan = *new (&plan.rows[r]) RowPlan;
    row_plan.first_task = num_tasks;
    if (row.first_slot < row.kv.num_slots) {
      const int64_t split_slots = SplitSlotsOf(row.kv);
      row_plan.num_splits = (row.kv.num_slots - 1) / split_slots - row.first_slot / split_slots + 1;
      plan.num_bytes += VisibleBytes(row);
    }
    row_plan.num_unfinished = row_plan.num_splits;
    num_tasks += row_plan.num_splits;
  }
  plan.row_of_task = cx.scratch().Array<int32_t>(static_cast<size_t>(num_tasks));
  for (size_t r = 0; r < plan.rows.size(); ++r)
    std::fill_n(plan.row_of_task.begin() + plan.rows[r].first_task, plan.rows[r].num_splits, static_cast<int32_t>(r));
  return plan;
}

// Where the splits of a call leave their partial sums: one piece per task.
class Partials {
 public:
  Partials(Context& cx, const DecodeParams& params, size_t num_tasks)
      : head_dim_(static_cast<size_t>(params.head_dim)), group_size_(static_cast<size_t>(params.group_size)) {
    // A whole number of cache lines each, so that two threads never write one line.
    stride_ = (group_size_ * (head_dim_ + 2) + 15) / 16 * 16;
    floats_ = cx.scratch().Array<float>(num_tasks * stride_);
  }
  DecodePartial Of(int64_t task) const {
    float* p = floats_.data() + static_cast<size_t>(task) * stride_;
    return {p, p + group_size_ * head_dim_, p + group_size_ * (head_dim_ + 1)};
  }

 private:
  size_t head_dim_, group_size_, stride_ = 0;
  std::span<float> floats_;
};

DecodeSplit SplitOf(const DecodeParams& params, const DecodeRow& row, int64_t split_idx) {
  const int64_t split_slots = SplitSlotsOf(row.kv);
  const int64_t begin = (row.first_slot / split_slots + split_idx) * split_slots;
  return {row.kv.blocks,
          row.kv.live_masks,
          std::max(begin, row.first_slot),
          std::min(begin + split_slots, row.kv.num_slots),
          row.kv.num_coded_slots,
          row.kv.num_coded_slots > 0 ? CodedLayoutOf(row.kv.coded_bits, params.head_dim) : CodedLayout{},
          row.kv.format.dtype,
          params.head_dim,
          params.group_size,
          params.scale,
          params.softcap,
          row.q};
}

void StoreEmpty(const DecodeParams& params, const DecodeRow& row) {
  std::fill_n(row.out, params.group_size * params.head_dim, 0.0f);
  if (row.state != nullptr) std::fill_n(row.state, params.group_size, SoftmaxState{kMinusInfinity, 0.0f});
}

// Splits in slot order, whichever finished first: the result does not depend on the threads.
void MergeSplits(const DecodeParams& params, const DecodeRow& row, const RowPlan& plan, const Partials& partials) {
  for (int g = 0; g < params.group_size; ++g) {
    float max = kMinusInfinity;
    for (int64_t s = 0; s < plan.num_splits; ++s) max = std::max(max, partials.Of(plan.first_task + s).max_log2[g]);
    float* out = row.out + g * params.head_dim;
    std::fill_n(out, params.head_dim, 0.0f);
    float denominator = 0.0f;
    for (int64_t s = 0; s < plan.num_splits && max > kMinusInfinity; ++s) {
      const DecodePartial part = partials.Of(plan.first_task + s);
      const float factor = std::exp2(part.max_log2[g] - max);
      denominator += part.denominator[g] * factor;
      const float* part_out = part.out + g * params.head_dim;
      for (int d = 0; d < params.head_dim; ++d) out[d] += part_out[d] * factor;
    }
    const float inverse = denominator > 0.0f ? 1.0f / denominator : 0.0f;
    for (int d = 0; d < params.head_dim; ++d) out[d] *= inverse;
    if (row.state != nullptr) row.state[g] = {max * kLn2, denominator};
  }
}

}  // namespace

void DecodeAttention(Context& cx, const DecodeParams& params) {
  CheckParams(params);
  if (cx.isa() == Isa::kRef) {
    cx.ParallelFor(static_cast<int64_t>(params.rows.size()),
                   [&](int64_t r) { DecodeRowRef(params, params.rows[static_cast<size_t>(r)]); });
    return;
  }
  const AttendSplitFn attend_split = AttendSplitOf(cx.isa());
  const ScratchScope scope(cx.scratch());
  const Plan plan = MakePlan(cx, params);
  const Partials partials(cx, params, plan.row_of_task.size());
  const auto run_task = [&](int64_t task) {
    const auto r = static_cast<size_t>(plan.row_of_task[static_cast<size_t>(task)]);
    RowPlan& row_plan = plan.rows[r];
    attend_split(SplitOf(params, params.rows[r], task - row_plan.first_task), partials.Of(task));
    if (row_plan.num_unfinished.fetch_sub(1) == 1) MergeSplits(params, params.rows[r], row_plan, partials);
  };
  for (size_t r = 0; r < plan.rows.size(); ++r)
    if (plan.rows[r].num_splits == 0) StoreEmpty(params, params.rows[r]);
  const auto num_tasks = static_cast<int64_t>(plan.row_of_task.size());
  if (plan.num_bytes < kMinParallelBytes) {
    for (int64_t task = 0; task < num_tasks; ++task) run_task(task);
  } else {
    cx.ParallelFor(num_tasks, run_task);
  }
}

void MergeSoftmaxState(SoftmaxState& a, float* out_a, const SoftmaxState& b, const float* out_b, int head_dim) {
  if (b.denominator <= 0.0f) return;  // -inf minus -inf below would be NaN
  const float max = std::max(a.max, b.max);
  const float weight_a = a.denominator > 0.0f ? a.denominator * std::exp(a.max - max) : 0.0f;
  const float weight_b = b.denominator * std::exp(b.max - max);
  const float denominator = weight_a + weight_b;
  for (int d = 0; d < head_dim; ++d) {
    const float kept = weight_a > 0.0f ? out_a[d] * weight_a : 0.0f;
    out_a[d] = (kept + out_b[d] * weight_b) / denominator;
  }
  a = {max, denominator};
}

}  // namespace cachette::ops
