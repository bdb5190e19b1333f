#include "ops/attention/tile_gemm.h"

#include <omp.h>

#include <algorithm>
#include <compare>
#include <oneapi/dnnl/dnnl.hpp>
#include <string_view>
#include <unordered_map>

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
  dnnl::matmul::primitive_desc desc;
  dnnl::matmul matmul;
  int num_calls = 1;            // products side by side, one per slab, where the library does not know the packed form
  size_t panel_step_bytes = 0;  // from one call to the next
};

TileGemm::TileGemm(const TileGemmShape& shape) : shape_(shape), primitive_(std::make_unique<Primitive>()) {
  CACHETTE_CHECK(shape.columns % kSlabColumns == 0 && shape.depth % 32 == 0);
  const OneThreadScope one_thread;
  const auto type = shape.is_bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
  try {
    const dnnl::memory::desc packed({shape.depth, shape.columns}, type,
                                    shape.is_bf16 ? Tag::BA16a64b2a : Tag::BA16a64b);
    primitive_->desc = Describe(shape, packed);
    if (!IsBrgemm(primitive_->desc)) primitive_->desc = {};
  } catch (const dnnl::error&) {
    primitive_->desc = {};  // not supported: below
  }
  if (!primitive_->desc) {
    CACHETTE_CHECK(!shape.is_bf16);
    primitive_->desc = Describe(shape, {{shape.depth, kSlabColumns}, type, dnnl::memory::dims{kSlabColumns, 1}});
    primitive_->num_calls = shape.columns / kSlabColumns;
    primitive_->panel_step_bytes = static_cast<size_t>(shape.depth) * kSlabColumns * sizeof(float);
  }
  primitive_->matmul = dnnl::matmul(primitive_->desc);
}

TileGemm::~TileGemm() = default;

size_t TileGemm::scratch_bytes() const { return primitive_->desc.scratchpad_desc().get_size(); }

void TileGemm::Run(const std::byte* a, const std::byte* panel, float* c, std::byte* scratch) const {
  const Primitive& p = *primitive_;
  dnnl::stream stream(Engine());
  const auto memory_of = [](const dnnl::memory::desc& desc, const void* at) {
    return dnnl::memory(desc, Engine(), const_cast<void*>(at));
  };
  for (int i = 0; i < p.num_calls; ++i)
    p.matmul.execute(stream, {{DNNL_ARG_SRC, memory_of(p.desc.src_desc(), a)},
                              {DNNL_ARG_WEIGHTS,
                               memory_of(p.desc.weights_desc(), panel + static_cast<size_t>(i) * p.panel_step_bytes)},
                              {DNNL_ARG_DST, memory_of(p.desc.dst_desc(), c + i * kSlabColumns)},
                              {DNNL_ARG_SCRATCHPAD, memory_of(p.desc.scratchpad_desc(), scratch)}});
}

void TileGemmCache::Prepare(const TileGemmShape& shape) {
  std::unique_ptr<TileGemm>& gemm = gemms_[shape];
  if (gemm == nullptr) gemm = std::make_unique<TileGemm>(shape);
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
