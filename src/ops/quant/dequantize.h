#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace cachette::ops {

// Decodes num_elements (a multiple of the dtype's block) consecutive elements at data into out, exactly as the GGUF
// block formats define them (f32 arithmetic, scales f16). The reference for every packed kernel.
void Dequantize(Dtype dtype, const std::byte* data, int64_t num_elements, float* out);

// The inverse for the formats the tests and adapters need: f32, f16, bf16 (round to nearest even), q8_0, q4_0, q4_1
// (absolute-maximum or min/max scales as ggml's reference quantisers). CACHETTE_CHECK for other formats.
void Quantize(Dtype dtype, const float* in, int64_t num_elements, std::byte* out);

}  // namespace cachette::ops
