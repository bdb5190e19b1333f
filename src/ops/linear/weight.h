#pragma once
// A weight matrix bound for Linear: where its bytes are and, for the fast backends, the form the kernels read.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/dtype.h"
#include "base/result.h"
#include "tensor/context.h"

namespace cachette::ops {

// A matrix as a file stores it, row-major: [rows][cols], each row RowBytes(dtype, cols) bytes, no gaps. Not owning.
struct MatrixView {
  const std::byte* data = nullptr;
  Dtype dtype = Dtype::kF32;
  int64_t rows = 0;  // output features
  int64_t cols = 0;  // input features
  size_t num_bytes() const { return static_cast<size_t>(rows) * RowBytes(dtype, cols); }
};

struct PackedWeight;  // the kernels' own layout; see ops/linear/pack.h

// One weight matrix, ready to multiply. Movable, not copyable; thread-safe to read.
class Weight {
 public:
  Weight();
  Weight(Weight&&) noexcept;
  Weight& operator=(Weight&&) noexcept;
  ~Weight();

  // Binds source. On Isa::kRef it is only referenced: its bytes must outlive the Weight. On other backends it is
  // repacked into owned memory (about source.num_bytes(), never more than f32) and source may be released afterwards.
  // Errors: kInvalidArgument when cols is not a multiple of the dtype's block.
  static Result<Weight> Bind(Context& cx, const MatrixView& source);

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  Dtype dtype() const { return dtype_; }
  const MatrixView& source() const { return source_; }          // meaningful on Isa::kRef only
  const PackedWeight* packed() const { return packed_.get(); }  // null on Isa::kRef
  size_t owned_bytes() const;
  size_t read_bytes() const;  // what one decode mat-vec reads

 private:
  int64_t rows_ = 0, cols_ = 0;
  Dtype dtype_ = Dtype::kF32;
  MatrixView source_;
  std::unique_ptr<PackedWeight> packed_;
};

}  // namespace cachette::ops
