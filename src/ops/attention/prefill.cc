#include "ops/attention/prefill.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <limits>

#include "base/result.h"
#include "ops/attention/prefill_kernels.h"
#include "ops/attention/tile_gemm.h"
#include "ops/numeric.h"

namespace cachette::ops {
namespace {

// Rows (queries x group) of a score tile. 192 to 256 rows by 512 slots of f32 scores are 384 to 512 KB: they stay in L2
// between the product that writes them, the softmax and the product that reads them.
constexpr int kMaxTileRows = 256;
constexpr int kTileSlots = 512;
// The last tile before the diagonal is cut to a multiple of this: less waste there, few shapes to prepare.
constexpr int kTileStep = 128;
// Slots converted at a time. Longer rows go in several rounds, so that scratch does not grow with the context.
constexpr int64_t kRoundSlots = 8192;
constexpr size_t kMaxPanelBytes = 16u << 20;  // rows of a batch convert together up to this size (at least one)

void CheckParams(const PrefillParams& params) {
  CACHETTE_CHECK(params.group_size >= 1 && params.group_size <= 64);
  CACHETTE_CHECK(params.head_dim >= 8 && params.head_dim <= 256 && params.head_dim % 8 == 0);
  CACHETTE_CHECK(params.num_queries >= 0 && params.attention_window >= 0);
  for (const PrefillRow& row : params.rows) {
    CACHETTE_CHECK(row.kv.num_slots >= params.num_queries && row.kv.format.head_dim == params.head_dim);
    CACHETTE_CHECK(row.kv.positions != nullptr || params.attention_window == 0);
    CACHETTE_CHECK(row.kv.num_coded_slots % kCodedEntries == 0 &&
                   row.kv.num_coded_slots <= row.kv.num_slots - params.num_queries);
  }
}

PrefillKernels KernelsOf(Isa isa) {
#if defined(CACHETTE_X86)
  switch (isa) {
    case Isa::kAvx2: return avx2::PrefillKernelsOfIsa();
    case Isa::kAvx512: return avx512::PrefillKernelsOfIsa();
    case Isa::kAvx512Vnni: return avx512vnni::PrefillKernelsOfIsa();
    case Isa::kAvx512Bf16: return avx512bf16::PrefillKernelsOfIsa();
    default: break;
  }
#else
  (void)isa;
#endif
  return {};
}

// Sizes that all tiles of a call share.
struct Geometry {
  bool is_bf16;
  int group_size;
  int head_dim;
  int k_dim;
  int v_dim;
  int tile_queries;   // a power of two
  int64_t num_tiles;  // query tiles per row
  int64_t num_queries;
  size_t element_bytes;

  int tile_rows() const { return tile_queries * group_size; }
  int QueriesOf(int64_t tile_idx) const {
    return static_cast<int>(std::min<int64_t>(tile_queries, num_queries - tile_idx * tile_queries));
  }
  // Three heights per call at most: full tiles, and two for tails.
  int PaddedRows(int num_queries_of_tile) const {
    const int rows = num_queries_of_tile * group_size;
    return rows <= 16 ? 16 : rows <= 64 ? 64 : static_cast<int>(RoundUp(tile_rows(), 16));
  }
  size_t PanelBytes(int64_t num_slots) const {
    return static_cast<size_t>(num_slots) * static_cast<size_t>(k_dim + v_dim) * element_bytes;
  }
  TileGemmShape ScoreShape(int rows, int slots) const { return {is_bf16, false, rows, slots, k_dim}; }
  TileGemmShape ValueShape(int rows, int slots) const { return {is_bf16, true, rows, kSlabColumns, slots}; }
};

Geometry GeometryOf(const PrefillParams& params) {
  Geometry g{};
  g.is_bf16 = params.gemm == GemmDtype::kBF16 && HasBf16Panels();
  g.group_size = params.group_size;
  g.head_dim = params.head_dim;
  g.k_dim = static_cast<int>(RoundUp(params.head_dim, 32));
  g.v_dim = static_cast<int>(RoundUp(params.head_dim, kSlabColumns));
  g.tile_queries = 1;
  while (2 * g.tile_queries * g.group_size <= kMaxTileRows) g.tile_queries *= 2;
  g.num_queries = params.num_queries;
  g.num_tiles = (params.num_queries + g.tile_queries - 1) / g.tile_queries;
  g.element_bytes = g.is_bf16 ? 2 : 4;
  return g;
}

// One row during one round: its slots [begin, end) as panels, and the softmax state of its queries over all rounds.
struct RowWork {
  const PrefillRow* row;
  PanelView panel;                    // slot begin is slot 0 of the panel
  CodedLayout coded;                  // of the row's coded blocks, if it has any
  std::span<int32_t> positions;       // [panel slots], INT32_MIN for dead ones; empty when nothing but causality masks
  std::span<float> max, denominator;  // [num_tiles * tile_rows]
  std::span<float> out;               // per tile [v_dim/64][padded rows][64]
};

struct Round {
  int64_t begin, end;  // slots, the same for all rows; rows that end before take part as far as they go
};

// What a thread needs for one tile.
struct TileScratch {
  int thread_idx;
  std::byte* queries;
  float* scores;
  std::byte* gemm;
};

class Prefill {
 public:
  Prefill(Context& cx, const PrefillParams& params)
      : cx_(cx),
        params_(params),
        geometry_(GeometryOf(params)),
        kernels_(KernelsOf(cx.isa())),
        gemms_(cx.Cached<TileGemmCache>()) {}

  void Run() {
    const ScratchScope scope(cx_.scratch());
    const size_t num_rows = params_.rows.size();
    int64_t max_slots = 0;
    for (const PrefillRow& row : params_.rows) max_slots = std::max(max_slots, row.kv.num_slots);
    const int64_t round_slots = std::min(kRoundSlots, RoundUp(max_slots, kTileStep));
    const size_t batch_rows = std::clamp<size_t>(kMaxPanelBytes / geometry_.PanelBytes(round_slots), 1, num_rows);
    for (size_t first = 0; first < num_rows; first += batch_rows)
      RunBatch(params_.rows.subspan(first, std::min(batch_rows, num_rows - first)), round_slots);
  }

 private:
  void RunBatch(std::span<const PrefillRow> rows, int64_t round_slots) {
    const ScratchScope scope(cx_.scratch());
    std::span<RowWork> works = cx_.scratch().Array<RowWork>(rows.size());
    int64_t max_slots = 0;
    for (size_t r = 0; r < rows.size(); ++r) {
      works[r] = BeginRow(rows[r], round_slots);
      max_slots = std::max(max_slots, rows[r].kv.num_slots);
    }
    for (int64_t begin = 0; begin < max_slots; begin += round_slots)
      RunRound(works, {begin, std::min(begin + round_slots, max_slots)});
  }

  RowWork BeginRow(const PrefillRow& row, int64_t round_slots) {
    const auto tiles = static_cast<size_t>(geometry_.num_tiles);
    const size_t panel_slots = static_cast<size_t>(std::min(round_slots, RoundUp(row.kv.num_slots, kTileStep)));
    ScratchArena& scratch = cx_.scratch();
    RowWork work{};
    work.row = &row;
    if (row.kv.num_coded_slots > 0) work.coded = CodedLayoutOf(row.kv.coded_bits, geometry_.head_dim);
    work.panel = {scratch.Allocate(panel_slots * static_cast<size_t>(geometry_.k_dim) * geometry_.element_bytes),
                  scratch.Allocate(panel_slots * static_cast<size_t>(geometry_.v_dim) * geometry_.element_bytes),
                  static_cast<int64_t>(panel_slots),
                  geometry_.head_dim,
                  geometry_.k_dim,
                  geometry_.v_dim,
                  geometry_.is_bf16};
    if (params_.attention_window > 0 || row.kv.live_masks != nullptr)
      work.positions = scratch.Array<int32_t>(panel_slots);
    work.max = scratch.Array<float>(tiles * StateRows());
    work.denominator = scratch.Array<float>(tiles * StateRows());
    work.out = scratch.Array<float>(tiles * StateRows() * static_cast<size_t>(geometry_.v_dim));
    std::fill(work.max.begin(), work.max.end(), kMinusInfinity);
    std::fill(work.denominator.begin(), work.denominator.end(), 0.0f);
    return work;
  }

  void RunRound(std::span<RowWork> works, const Round& round) {
    const ScratchScope scope(cx_.scratch());
    PrepareGemms(works, round);
    GatherAll(works, round);
    const auto num_tasks = static_cast<int64_t>(works.size()) * geometry_.num_tiles;
    const std::span<TileScratch> scratch = MakeTileScratch();
    const bool is_parallel = num_tasks > 1 && cx_.num_threads() > 1;
    // Later queries see more entries: longest first, so that the threads finish together.
    cx_.ParallelFor(num_tasks, [&](int64_t task) {
      RowWork& work = works[static_cast<size_t>(task) % works.size()];
      const int64_t tile_idx = geometry_.num_tiles - 1 - task / static_cast<int64_t>(works.size());
      RunQueryTile(work, tile_idx, round, scratch[is_parallel ? static_cast<size_t>(omp_get_thread_num()) : 0]);
    });
  }

  // Converts the blocks of the round once; all query tiles and the whole group read the result.
  void GatherAll(std::span<RowWork> works, const Round& round) {
    constexpr int64_t kBlocksPerTask = 32;
    const int64_t tasks_per_row =
        (RoundUp(round.end - round.begin, kTileStep) / kBlockTokens + kBlocksPerTask - 1) / kBlocksPerTask;
    cx_.ParallelFor(static_cast<int64_t>(works.size()) * tasks_per_row, [&](int64_t task) {
      RowWork& work = works[static_cast<size_t>(task / tasks_per_row)];
      const int64_t begin = round.begin + task % tasks_per_row * kBlocksPerTask * kBlockTokens;
      const int64_t end = std::min(begin + kBlocksPerTask * kBlockTokens, round.begin + work.panel.num_slots);
      for (int64_t slot = begin; slot < end; slot += kBlockTokens) Gather(work, slot, slot - round.begin);
    });
  }

  void Gather(RowWork& work, int64_t slot, int64_t panel_slot) {
    const KvRow& kv = work.row->kv;
    const int64_t block = slot / kBlockTokens;
    kernels_.gather_block(
        work.panel, {slot < kv.num_slots ? kv.blocks[block] : nullptr, kv.format.dtype, panel_slot,
                     slot < kv.num_coded_slots ? work.coded : CodedLayout{}, static_cast<int>(slot % kCodedEntries)});
    if (work.positions.empty()) return;
    const uint32_t live = kv.live_masks == nullptr || slot >= kv.num_slots ? 0xffffu : kv.live_masks[block];
    for (int i = 0; i < kBlockTokens; ++i) {
      const bool is_seen = slot + i < kv.num_slots && ((live >> i) & 1u) != 0;
      // Without a window only the holes matter; positions may then be absent.
      const int32_t position = params_.attention_window > 0 && is_seen ? kv.positions[slot + i] : 0;
      work.positions[static_cast<size_t>(panel_slot + i)] = is_seen ? position : std::numeric_limits<int32_t>::min();
    }
  }

  // Calls visit(first panel slot, num_slots) for the key tiles that some query of the tile sees in this round.
  template <class Visit>
  void ForKeyTiles(const RowWork& work, int64_t tile_idx, const Round& round, bool use_window,
                   const Visit& visit) const {
    const KvRow& kv = work.row->kv;
    const int64_t first_query_slot = kv.num_slots - geometry_.num_queries + tile_idx * geometry_.tile_queries;
    const int64_t end = std::min(first_query_slot + geometry_.QueriesOf(tile_idx), round.end) - round.begin;
    int64_t begin = 0;
    if (use_window && params_.attention_window > 0) {
      const int32_t oldest = kv.positions[first_query_slot] - params_.attention_window;
      while (begin < end && work.positions[static_cast<size_t>(begin)] <= oldest) ++begin;
      begin = begin / kTileStep * kTileStep;
    }
    for (int64_t slot = begin; slot < end; slot += kTileSlots)
      visit(slot, static_cast<int>(RoundUp(std::min<int64_t>(kTileSlots, end - slot), kTileStep)));
  }

  void PrepareGemms(std::span<RowWork> works, const Round& round) {
    for (const RowWork& work : works)
      for (int64_t tile_idx = 0; tile_idx < geometry_.num_tiles; ++tile_idx) {
        const int rows = geometry_.PaddedRows(geometry_.QueriesOf(tile_idx));
        const auto prepare = [&](int64_t, int slots) {
          gemms_.Prepare(geometry_.ScoreShape(rows, slots), cx_.num_threads());
          gemms_.Prepare(geometry_.ValueShape(rows, slots), cx_.num_threads());
        };
        ForKeyTiles(work, tile_idx, round, false, prepare);
        // Where a window begins is not known before the positions are gathered; it may end in a tile of any size.
        if (params_.attention_window > 0)
          for (int slots = kTileStep; slots <= kTileSlots; slots += kTileStep) prepare(0, slots);
      }
  }

  std::span<TileScratch> MakeTileScratch() {
    const auto rows = StateRows();
    ScratchArena& scratch = cx_.scratch();
    const std::span<TileScratch> all = scratch.Array<TileScratch>(static_cast<size_t>(cx_.num_threads()));
    for (size_t t = 0; t < all.size(); ++t) {
      TileScratch& s = all[t];
      s.thread_idx = static_cast<int>(t);
      s.queries = scratch.Allocate(rows * static_cast<size_t>(geometry_.k_dim) * geometry_.element_bytes);
      s.scores = scratch.Array<float>(rows * kTileSlots).data();
      s.gemm = scratch.Allocate(gemms_.scratch_bytes());
    }
    return all;
  }

  void RunQueryTile(RowWork& work, int64_t tile_idx, const Round& round, const TileScratch& scratch) const {
    const int num_queries = geometry_.QueriesOf(tile_idx);
    const int padded_rows = geometry_.PaddedRows(num_queries);
    const size_t state = static_cast<size_t>(tile_idx) * StateRows();
    float* out = work.out.data() + state * static_cast<size_t>(geometry_.v_dim);
    if (round.begin == 0) std::fill_n(out, padded_rows * geometry_.v_dim, 0.0f);
    bool is_packed = false;
    ForKeyTiles(work, tile_idx, round, true, [&](int64_t slot, int num_slots) {
      if (!is_packed) Pack(work, tile_idx, padded_rows, scratch);
      is_packed = true;
      Score(work, padded_rows, slot, num_slots, scratch);
      MaskAndSoftmax(work, tile_idx, padded_rows, round, slot, num_slots, scratch);
      Accumulate(work, padded_rows, slot, num_slots, scratch, out);
    });
    const int64_t last_slot =
        work.row->kv.num_slots - geometry_.num_queries + tile_idx * geometry_.tile_queries + num_queries - 1;
    if (last_slot >= round.begin && last_slot < round.end) StoreOut(work, tile_idx, padded_rows, out);
  }

  void Pack(const RowWork& work, int64_t tile_idx, int padded_rows, const TileScratch& scratch) const {
    const int num_queries = geometry_.QueriesOf(tile_idx);
    kernels_.pack_queries({work.row->q + tile_idx * geometry_.tile_queries * params_.q_stride, params_.q_stride,
                           geometry_.group_size, num_queries * geometry_.group_size, padded_rows, geometry_.head_dim,
                           geometry_.k_dim, params_.softcap > 0.0f ? params_.scale : params_.scale * kLog2e,
                           geometry_.is_bf16, scratch.queries});
  }

  void Score(const RowWork& work, int padded_rows, int64_t slot, int num_slots, const TileScratch& scratch) const {
    const size_t offset = static_cast<size_t>(slot * geometry_.k_dim) * geometry_.element_bytes;
    gemms_.Find(geometry_.ScoreShape(padded_rows, num_slots))
        .Run(scratch.thread_idx, scratch.queries, work.panel.keys + offset, scratch.scores, scratch.gemm);
  }

  void MaskAndSoftmax(RowWork& work, int64_t tile_idx, int padded_rows, const Round& round, int64_t slot, int num_slots,
                      const TileScratch& scratch) const {
    const KvRow& kv = work.row->kv;
    const int64_t first_query_slot = kv.num_slots - geometry_.num_queries + tile_idx * geometry_.tile_queries;
    const size_t state = static_cast<size_t>(tile_idx) * StateRows();
    kernels_.softmax_tile({scratch.scores, geometry_.QueriesOf(tile_idx) * geometry_.group_size, padded_rows, num_slots,
                           geometry_.group_size, first_query_slot + 1 - round.begin - slot,
                           work.positions.empty() ? nullptr : work.positions.data() + slot,
                           kv.positions == nullptr ? nullptr : kv.positions + first_query_slot,
                           params_.attention_window, params_.softcap, geometry_.is_bf16, work.max.data() + state,
                           work.denominator.data() + state,
                           work.out.data() + state * static_cast<size_t>(geometry_.v_dim), geometry_.v_dim});
  }

  void Accumulate(const RowWork& work, int padded_rows, int64_t slot, int num_slots, const TileScratch& scratch,
                  float* out) const {
    const TileGemm& gemm = gemms_.Find(geometry_.ValueShape(padded_rows, num_slots));
    for (int d = 0; d < geometry_.v_dim; d += kSlabColumns) {
      const size_t offset =
          static_cast<size_t>(d * work.panel.num_slots + slot * kSlabColumns) * geometry_.element_bytes;
      gemm.Run(scratch.thread_idx, reinterpret_cast<const std::byte*>(scratch.scores), work.panel.values + offset,
               out + d * padded_rows, scratch.gemm);
    }
  }

  void StoreOut(const RowWork& work, int64_t tile_idx, int padded_rows, const float* out) const {
    const size_t state = static_cast<size_t>(tile_idx) * StateRows();
    for (int r = 0; r < geometry_.QueriesOf(tile_idx) * geometry_.group_size; ++r) {
      const int64_t query = tile_idx * geometry_.tile_queries + r / geometry_.group_size;
      float* to = work.row->out + query * params_.out_stride + r % geometry_.group_size * geometry_.head_dim;
      const float inverse = 1.0f / work.denominator[state + static_cast<size_t>(r)];
      for (int first = 0; first < geometry_.head_dim; first += kSlabColumns) {
        const float* from = out + (first / kSlabColumns * padded_rows + r) * kSlabColumns;
        const int count = std::min(kSlabColumns, geometry_.head_dim - first);
        for (int d = 0; d < count; ++d) to[first + d] = from[d] * inverse;
      }
    }
  }

  // Rows of state per query tile: as many as its products write.
  size_t StateRows() const { return static_cast<size_t>(std::max<int64_t>(64, RoundUp(geometry_.tile_rows(), 16))); }

  Context& cx_;
  const PrefillParams& params_;
  const Geometry geometry_;
  const PrefillKernels kernels_;
  TileGemmCache& gemms_;
};

}  // namespace

void PrefillAttention(Context& cx, const PrefillParams& params) {
  CheckParams(params);
  if (params.num_queries == 0 || params.rows.empty()) return;
  if (cx.isa() == Isa::kRef) return PrefillRef(cx, params);
  Prefill(cx, params).Run();
}

}  // namespace cachette::ops
