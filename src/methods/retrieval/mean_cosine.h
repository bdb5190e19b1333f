#pragma once

#include <cmath>

namespace cachette {

// Mean over query heads of the cosine between two queries, a and b [num_heads][head_dim]; 1 for a head that is zero in
// one of them.
inline float MeanCosine(const float* a, const float* b, int num_heads, int head_dim) {
  float sum = 0;
  for (int h = 0; h < num_heads; ++h, a += head_dim, b += head_dim) {
    float dot = 0, aa = 0, bb = 0;
    for (int d = 0; d < head_dim; ++d) {
      dot += a[d] * b[d];
      aa += a[d] * a[d];
      bb += b[d] * b[d];
    }
    sum += aa > 0 && bb > 0 ? dot / std::sqrt(aa * bb) : 1.0f;
  }
  return sum / static_cast<float>(num_heads);
}

}  // namespace cachette
