#include "ops/linear/weight.h"

#include <fmt/format.h>

#include "ops/linear/pack.h"

namespace cachette::ops {

Weight::Weight() = default;
Weight::Weight(Weight&&) noexcept = default;
Weight& Weight::operator=(Weight&&) noexcept = default;
Weight::~Weight() = default;

Result<Weight> Weight::Bind(Context& cx, const MatrixView& source) {
  const DtypeInfo& info = InfoOf(source.dtype);
  if (source.rows < 0 || source.cols < 0)
    return Fail(
        Error::kInvalidArgument,
        fmt::format("a matrix of {} x {} has a negative size; give both sizes as 0 or more", source.rows, source.cols));
  if (source.cols % info.block_elements != 0)
    return Fail(Error::kInvalidArgument,
                fmt::format("a row of {} columns does not divide into {} blocks of {}; store this matrix as f16",
                            source.cols, info.name, info.block_elements));
  Weight weight;
  weight.rows_ = source.rows;
  weight.cols_ = source.cols;
  weight.dtype_ = source.dtype;
  weight.source_ = source;
  if (cx.isa() != Isa::kRef) {
    weight.packed_ = Pack(cx, source);
    weight.source_.data = nullptr;  // the caller may release it
  }
  return weight;
}

size_t Weight::owned_bytes() const { return packed_ == nullptr ? 0 : packed_->num_bytes(); }

size_t Weight::read_bytes() const { return packed_ == nullptr ? source_.num_bytes() : packed_->num_bytes(); }

}  // namespace cachette::ops
