#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace cachette::ops {

// Decodes num_elements (a multiple of the dtype's block) consecutive elements at data into out, exactly as the GGUF
// block formats define them (f32 arithmetic, scales f16). The reference for every packed kernel. data needs no
// alignment.
void Dequantize(Dtype dtype, const std::byte* data, int64_t num_elements, float* out);

// The inverse for the formats the tests and adapters need: f32, f16, bf16 (round to nearest even), q8_0, q4_0, q4_1,
// q5_0, q5_1 (absolute-maximum or min/max scales, bit for bit as ggml's Python quantisers). CACHETTE_CHECK for other
// formats. in holds finite values; a NaN becomes some value of its block's range.
void Quantize(Dtype dtype, const float* in, int64_t num_elements, std::byte* out);

}  // namespace cachette::ops
