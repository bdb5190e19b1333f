#pragma once
// Packed weights: ownership, packing from the file formats, and reading a row back. Layouts: layout.h.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "ops/linear/weight.h"
#include "tensor/context.h"

namespace cachette::ops {

// Memory for packed weights in slabs on huge pages, where the kernel grants them. One per Context.
// A 2 MB page is one TLB entry and one prefetch stream; a weight of a small model alone (0.2 to 0.5 MB) could not use
// one, hence the shared slabs. docs/ops_linear.md has what it gains.
class WeightPool {
 public:
  // 64-byte aligned, uninitialised, alive as long as the pointer. Throws std::bad_alloc.
  std::shared_ptr<std::byte[]> Allocate(size_t num_bytes);

 private:
  std::shared_ptr<std::byte[]> slab_;
  size_t slab_bytes_ = 0, used_bytes_ = 0;
};

struct PackedWeight {
  Dtype dtype = Dtype::kF32;
  int64_t rows = 0, cols = 0;
  int64_t cols_padded = 0;  // what the kernels run over: cols rounded up to 4 in plain formats
  int64_t num_panels = 0;
  int64_t panel_bytes = 0;
  std::shared_ptr<std::byte[]> memory;  // [num_panels][panel_bytes]

  const uint8_t* panels() const { return reinterpret_cast<const uint8_t*>(memory.get()); }
  size_t num_bytes() const { return static_cast<size_t>(num_panels * panel_bytes); }
};

// Packs source, spread over the context's threads. Reads source once, writes about as many bytes.
std::unique_ptr<PackedWeight> Pack(Context& cx, const MatrixView& source);

// Row row_idx as f32 into out [cols]; the same values, bit for bit, as Dequantize of the source's row.
void UnpackRow(const PackedWeight& weight, int64_t row_idx, float* out);

}  // namespace cachette::ops
