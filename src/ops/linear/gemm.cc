#include "ops/linear/gemm.h"

#include <omp.h>

#include <cstring>
#include <dnnl.hpp>
#include <map>
#include <tuple>
#include <unordered_map>

#include "base/result.h"

namespace cachette::ops {
namespace {

// oneDNN decides on its threads when a primitive is made and again when it runs; both happen under this.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) {
    if (before_ != 1) omp_set_num_threads(1);
  }
  ~OneThread() {
    if (before_ != 1) omp_set_num_threads(before_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

struct OperandLayout {
  dnnl::memory::desc desc;
  GemmOperand layout;
};

// The weights layout of a primitive that was free to choose it: [n / n_block][k / 16v][16][n_block][v], v = 1 or 2.
bool ReadBlockedLayout(const dnnl::memory::desc& desc, TileLayout& tile) {
  if (desc.data.format_kind != dnnl_blocked || desc.data.offset0 != 0) return false;
  const auto& b = desc.data.format_desc.blocking;
  const bool is_paired = b.inner_nblks == 3 && b.inner_idxs[2] == 0 && b.inner_blks[2] == 2;
  if (!(b.inner_nblks == 2 || is_paired) || b.inner_idxs[0] != 0 || b.inner_idxs[1] != 1) return false;
  tile.pack = is_paired ? 2 : 1;
  tile.k_block = b.inner_blks[0] * tile.pack;
  tile.n_block = b.inner_blks[1];
  tile.k_stride = b.strides[0];
  tile.n_stride = b.strides[1];
  return tile.n_block % 16 == 0 && tile.k_block % 2 == 0 && 32 % tile.k_block == 0;
}

class DnnlGemm : public Gemm {
 public:
  DnnlGemm(const dnnl::engine& engine, const dnnl::matmul::primitive_desc& pd)
      : engine_(engine),
        x_(pd.src_desc()),
        w_(pd.weights_desc()),
        y_(pd.dst_desc()),
        scratchpad_(pd.scratchpad_desc()),
        primitive_(pd) {}

  size_t scratch_bytes() const override { return scratchpad_.get_size(); }

  void Run(const void* x, const void* w, float* y, std::byte* scratch) const override {
    const OneThread one_thread;
    const dnnl::stream stream(engine_);
    primitive_.execute(stream, {{DNNL_ARG_SRC, {x_, engine_, const_cast<void*>(x)}},
                                {DNNL_ARG_WEIGHTS, {w_, engine_, const_cast<void*>(w)}},
                                {DNNL_ARG_DST, {y_, engine_, y}},
                                {DNNL_ARG_SCRATCHPAD, {scratchpad_, engine_, scratch}}});
  }

 private:
  dnnl::engine engine_;
  dnnl::memory::desc x_, w_, y_, scratchpad_;
  dnnl::matmul primitive_;
};

}  // namespace

struct GemmCache::Impl {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  bool supports_bf16 = false;
  std::map<std::tuple<int64_t, int64_t, bool>, OperandLayout> operands;
  struct Hash {
    size_t operator()(const GemmShape& s) const {
      uint64_t h = static_cast<uint64_t>(s.m);
      for (const int64_t v : {s.n, s.k, int64_t{s.is_bf16}}) h = h * 0x9e3779b97f4a7c15ull + static_cast<uint64_t>(v);
      return h ^ h >> 32;
    }
  };
  std::unordered_map<GemmShape, std::unique_ptr<DnnlGemm>, Hash> gemms;

  dnnl::matmul::primitive_desc Describe(const GemmShape& s, const dnnl::memory::desc& w) const {
    using dnnl::memory;
    const auto type = s.is_bf16 ? memory::data_type::bf16 : memory::data_type::f32;
    const memory::desc x({s.m, s.k}, type, memory::format_tag::ab);
    const memory::desc y({s.m, s.n}, memory::data_type::f32, memory::format_tag::ab);
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    return {dnnl::matmul::desc(x, w, y), attr, engine};
  }

  const OperandLayout& OperandOf(int64_t n, int64_t k, bool is_bf16) {
    const auto key = std::make_tuple(n, k, is_bf16);
    if (const auto found = operands.find(key); found != operands.end()) return found->second;
    using dnnl::memory;
    const auto type = is_bf16 ? memory::data_type::bf16 : memory::data_type::f32;
    // All m share the layout that 128 rows would get, so that one unpacked slice serves every row tile.
    const GemmShape shape{128, n, k, is_bf16};
    OperandLayout operand;
    operand.desc = Describe(shape, memory::desc({k, n}, type, memory::format_tag::any)).weights_desc();
    if (!ReadBlockedLayout(operand.desc, operand.layout.tile)) {
      const int64_t n16 = (n + 15) / 16 * 16;
      operand.desc = memory::desc({k, n}, type, memory::dims{n16, 1});
      operand.layout.tile = {n16, 0, k, 0, 1};
      operand.layout.num_bytes = static_cast<size_t>(n16 * k) * (is_bf16 ? 2 : 4);
    } else {
      operand.layout.num_bytes = operand.desc.get_size();
    }
    return operands.emplace(key, operand).first->second;
  }
};

GemmCache::GemmCache() : impl_(std::make_unique<Impl>()) {
  try {
    impl_->Describe({32, 32, 32, true},
                    dnnl::memory::desc({32, 32}, dnnl::memory::data_type::bf16, dnnl::memory::format_tag::any));
    impl_->supports_bf16 = true;
  } catch (const dnnl::error&) {
    impl_->supports_bf16 = false;  // no AVX-512, or the library was told to leave it alone
  }
}
GemmCache::~GemmCache() = default;

bool GemmCache::SupportsBF16() const { return impl_->supports_bf16; }

GemmOperand GemmCache::Operand(int64_t n, int64_t k, bool is_bf16) {
  const OneThread one_thread;
  return impl_->OperandOf(n, k, is_bf16).layout;
}

const Gemm& GemmCache::Get(const GemmShape& shape) {
  std::unique_ptr<DnnlGemm>& gemm = impl_->gemms[shape];
  if (gemm == nullptr) {
    const OneThread one_thread;
    const dnnl::memory::desc& w = impl_->OperandOf(shape.n, shape.k, shape.is_bf16).desc;
    gemm = std::make_unique<DnnlGemm>(impl_->engine, impl_->Describe(shape, w));
  }
  return *gemm;
}

}  // namespace cachette::ops
