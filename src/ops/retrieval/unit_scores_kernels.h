#pragma once
// What unit_scores.cc and its kernels agree on; not for other files.

#include <cstddef>
#include <cstdint>

#include "ops/retrieval/unit_index.h"
#include "tensor/isa.h"

namespace cachette::ops {

// Scores of a run of index blocks for a whole group.
struct UnitScoreBlocks {
  const std::byte* index;  // f16 [num_blocks][num_vectors][head_dim][16]
  int64_t num_blocks;
  UnitBound bound;
  int head_dim;
  int group_size;
  const float* q;  // [group_size][head_dim]
  float scale;
  float softcap;  // 0: none
  float* scores;  // [group_size][16 * num_blocks], stride floats between heads
  int64_t stride;
};

// scores [group_size][num_units] of one row -> weights [num_units]; both up to whole blocks of 16, stride floats
// between heads. Uses scores as scratch. num_units >= 1.
struct UnitReduce {
  float* scores;
  int64_t stride;
  int group_size;
  int64_t num_units;
  GroupReduce reduce;
  float* weights;  // 0 from num_units on
};

// f16 of what fits f16, what exceeds its range becomes its largest finite value.
enum class Narrowing : uint8_t { kNearest, kDown, kUp };

struct UnitScoreKernels {
  void (*score)(const UnitScoreBlocks& blocks);
  void (*reduce)(const UnitReduce& reduce);
  void (*narrow)(const float* x, int count, Narrowing narrowing, uint16_t* bits);  // count: a multiple of 8
};

template <Isa>
UnitScoreKernels UnitScoreKernelsOf();
template <>
UnitScoreKernels UnitScoreKernelsOf<Isa::kRef>();
template <>
UnitScoreKernels UnitScoreKernelsOf<Isa::kAvx2>();
template <>
UnitScoreKernels UnitScoreKernelsOf<Isa::kAvx512>();
template <>
UnitScoreKernels UnitScoreKernelsOf<Isa::kAvx512Vnni>();
template <>
UnitScoreKernels UnitScoreKernelsOf<Isa::kAvx512Bf16>();

}  // namespace cachette::ops
