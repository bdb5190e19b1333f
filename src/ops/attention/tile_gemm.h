#pragma once
// The matrix products of an attention tile: oneDNN primitives over panels (see prefill_kernels.h), made once per shape.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

namespace cachette::ops {

// c [rows][columns] f32 = a [rows][depth] * panel, or c += with accumulate. Dense: the AMX kernels take no strides.
struct TileGemmShape {
  bool is_bf16;  // a and the panel; else f32
  bool accumulate;
  int rows;
  int columns;  // a multiple of 64
  int depth;    // a multiple of 32
  auto operator<=>(const TileGemmShape&) const = default;
};

// One prepared product for up to num_threads callers; each call computes on its calling thread.
class TileGemm {
 public:
  TileGemm(const TileGemmShape& shape, int num_threads);
  ~TileGemm();
  // Concurrent calls differ in thread_idx, which is below num_threads. scratch: at least scratch_bytes(), 64-byte
  // aligned, not shared with a concurrent Run.
  void Run(int thread_idx, const std::byte* a, const std::byte* panel, float* c, std::byte* scratch) const;
  size_t scratch_bytes() const;

 private:
  struct Primitive;
  std::unique_ptr<Primitive> primitive_;
};

// The products a Context has used so far, num_threads being the same in all calls. Not thread-safe: Prepare before the
// parallel loop, Find inside it.
class TileGemmCache {
 public:
  void Prepare(const TileGemmShape& shape, int num_threads);
  const TileGemm& Find(const TileGemmShape& shape) const { return *gemms_.at(shape); }
  size_t scratch_bytes() const { return scratch_bytes_; }  // enough for any prepared product

 private:
  std::map<TileGemmShape, std::unique_ptr<TileGemm>> gemms_;
  size_t scratch_bytes_ = 0;
};

// Whether oneDNN multiplies bf16 panels natively on this machine; where it does not, panels are f32.
bool HasBf16Panels();

}  // namespace cachette::ops
