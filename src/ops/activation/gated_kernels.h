#pragma once
// What gated.cc and its kernels agree on; not for other files.

#include <cstdint>

namespace cachette::ops {

struct GatedSpan {
  const float* gate;
  const float* up;
  float* out;  // may be gate or up
  int64_t num_elements;
  bool is_gelu;
};

void GatedSpanRef(const GatedSpan& span);

}  // namespace cachette::ops

namespace cachette {
namespace avx2 {
void Gate(const ops::GatedSpan& span);
}
namespace avx512 {
void Gate(const ops::GatedSpan& span);
}
namespace avx512vnni {
void Gate(const ops::GatedSpan& span);
}
namespace avx512bf16 {
void Gate(const ops::GatedSpan& span);
}
}  // namespace cachette
