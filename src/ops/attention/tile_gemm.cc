#include "ops/attention/tile_gemm.h"

#include <omp.h>

#include <algorithm>
#include <compare>
#include <oneapi/dnnl/dnnl.hpp>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/result.h"
#include "ops/attention/prefill_kernels.h"

namespace cachette::ops {
namespace {

// A primitive splits its work by the thread count in force when it is made. Ours run inside parallel regions, one tile
// per thread, so they are made for one thread.
class OneThreadScope {
 public:
  OneThreadScope() : num_threads_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThreadScope() { omp_set_num_threads(num_threads_); }
  OneThreadScope(const OneThreadScope&) = delete;
  OneThreadScope& operator=(const OneThreadScope&) = delete;

 private:
  int num_threads_;
};

const dnnl::engine& Engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

using Tag = dnnl::memory::format_tag;

dnnl::matmul::primitive_desc Describe(const TileGemmShape& s, const dnnl::memory::desc& panel) {
  const auto type = s.is_bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
  const dnnl::memory::desc a({s.rows, s.depth}, type, dnnl::memory::dims{s.depth, 1});
  // Of one slab only where the products go slab by slab.
  const dnnl::memory::desc c({s.rows, panel.dims()[1]}, dnnl::memory::data_type::f32, dnnl::memory::dims{s.columns, 1});
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (s.accumulate) {
    dnnl::post_ops post_ops;
    post_ops.append_sum(1.0f);
    attr.set_post_ops(post_ops);
  }
  return {dnnl::matmul::desc(a, panel, c), attr, Engine()};
}

bool IsBrgemm(const dnnl::matmul::primitive_desc& desc) {
  return std::string_view(desc.impl_info_str()).starts_with("brg");
}

}  // namespace

struct TileGemm::Primitive {
  // What a call hands to the library. Kept per thread: making these anew costs 3 us, a fifth of a small product.
  struct Operands {
    dnnl::stream stream;
    dnnl::memory a, panel, c, scratch;
    std::unordered_map<int, dnnl::memory> by_role;  // handles to the four above
  };
  dnnl::matmul::primitive_desc desc;
  dnnl::matmul matmul;
  std::vector<Operands> operands;  // [num_threads]
  int num_calls = 1;               // products side by side, one per slab, where the library lacks the packed form
  size_t panel_step_bytes = 0;     // from one call to the next
};

TileGemm::TileGemm(const TileGemmShape& shape, int num_threads) : primitive_(std::make_unique<Primitive>()) {
  CACHETTE_CHECK(shape.columns % kSlabColumns == 0 && shape.depth % 32 == 0);
  const OneThreadScope one_thread;
  Primitive& p = *primitive_;
  const auto type = shape.is_bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
  try {
    p.desc = Describe(shape, {{shape.depth, shape.columns}, type, shape.is_bf16 ? Tag::BA16a64b2a : Tag::BA16a64b});
    if (!IsBrgemm(p.desc)) p.desc = {};
  } catch (const dnnl::error&) {
    p.desc = {};  // not supported: below
  }
  if (!p.desc) {
    CACHETTE_CHECK(!shape.is_bf16);
    p.desc = Describe(shape, {{shape.depth, kSlabColumns}, type, dnnl::memory::dims{kSlabColumns, 1}});
    p.num_calls = shape.columns / kSlabColumns;
    p.panel_step_bytes = static_cast<size_t>(shape.depth) * kSlabColumns * sizeof(float);
  }
  p.matmul = dnnl::matmul(p.desc);
  const auto memory_of = [](const dnnl::memory::desc& desc) { return dnnl::memory(desc, Engine(), DNNL_MEMORY_NONE); };
  for (int t = 0; t < num_threads; ++t) {
    Primitive::Operands o{
        dnnl::stream(Engine()),       memory_of(p.desc.src_desc()),        memory_of(p.desc.weights_desc()),
        memory_of(p.desc.dst_desc()), memory_of(p.desc.scratchpad_desc()), {}};
    o.by_role = {
        {DNNL_ARG_SRC, o.a}, {DNNL_ARG_WEIGHTS, o.panel}, {DNNL_ARG_DST, o.c}, {DNNL_ARG_SCRATCHPAD, o.scratch}};
    p.operands.push_back(std::move(o));
  }
}

TileGemm::~TileGemm() = default;

size_t TileGemm::scratch_bytes() const { return primitive_->desc.scratchpad_desc().get_size(); }

void TileGemm::Run(int thread_idx, const std::byte* a, const std::byte* panel, float* c, std::byte* scratch) const {
  const Primitive& p = *primitive_;
  const Primitive::Operands& o = p.operands[static_cast<size_t>(thread_idx)];
  o.a.set_data_handle(const_cast<std::byte*>(a));
  o.scratch.set_data_handle(scratch);
  for (int i = 0; i < p.num_calls; ++i) {
    o.panel.set_data_handle(const_cast<std::byte*>(panel + static_cast<size_t>(i) * p.panel_step_bytes));
    o.c.set_data_handle(c + i * kSlabColumns);
    p.matmul.execute(o.stream, o.by_role);
  }
}

void TileGemmCache::Prepare(const TileGemmShape& shape, int num_threads) {
  std::unique_ptr<TileGemm>& gemm = gemms_[shape];
  if (gemm == nullptr) gemm = std::make_unique<TileGemm>(shape, num_threads);
  scratch_bytes_ = std::max(scratch_bytes_, gemm->scratch_bytes());
}

bool HasBf16Panels() {
  static const bool has = [] {
    const OneThreadScope one_thread;
    try {
      const TileGemmShape shape{true, false, 64, 64, 64};
      return IsBrgemm(Describe(shape, {{64, 64}, dnnl::memory::data_type::bf16, Tag::BA16a64b2a}));
    } catch (const dnnl::error&) {
      return false;
    }
  }();
  return has;
}

}  // namespace cachette::ops
