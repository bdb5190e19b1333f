#include "ops/attention/key_cosines.h"

#include <algorithm>
#include <cmath>
#include <oneapi/dnnl/dnnl.hpp>

#include "base/result.h"
#include "ops/attention/kv_store.h"

namespace cachette::ops {

void KeyCosines(Context& cx, const KvRow& kv, std::span<const int64_t> slots,
                const std::function<void(int64_t row, std::span<float> cosines)>& visit) {
  constexpr int64_t kTileRows = 128;
  const auto count = static_cast<int64_t>(slots.size());
  const int64_t head_dim = kv.format.head_dim;
  if (count == 0) return;
  const ScratchScope scope(cx.scratch());
  const std::span<float> keys = cx.scratch().Array<float>(static_cast<size_t>(count * head_dim));
  for (int64_t i = 0; i < count; ++i) {
    float* key = keys.data() + i * head_dim;
    LoadEntry(kv.format, kv.blocks, slots[static_cast<size_t>(i)], key, nullptr);
    float squares = 0.0f;
    for (int64_t d = 0; d < head_dim; ++d) squares += key[d] * key[d];
    const float inverse = squares > 0.0f ? 1.0f / std::sqrt(squares) : 0.0f;
    for (int64_t d = 0; d < head_dim; ++d) key[d] *= inverse;
  }
  const std::span<float> tile = cx.scratch().Array<float>(static_cast<size_t>(std::min(kTileRows, count) * count));
  for (int64_t first = 0; first < count; first += kTileRows) {
    const int64_t rows = std::min(kTileRows, count - first);
    const dnnl::status status = dnnl::sgemm('N', 'T', rows, count, head_dim, 1.0f, keys.data() + first * head_dim,
                                            head_dim, keys.data(), head_dim, 0.0f, tile.data(), count);
    CACHETTE_CHECK(status == dnnl::status::success);
    for (int64_t r = 0; r < rows; ++r)
      visit(first + r, tile.subspan(static_cast<size_t>(r * count), static_cast<size_t>(count)));
  }
}

}  // namespace cachette::ops
