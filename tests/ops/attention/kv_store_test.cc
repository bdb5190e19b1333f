#include "ops/attention/kv_store.h"

#include <gtest/gtest.h>

#include <limits>

#include "base/half.h"
#include "ops/attention/kv_fixture.h"
#include "ops/attention/kv_store_kernels.h"
#include "ops/simd.h"

namespace cachette::ops {
namespace {

using testing::Normals;
using testing::TestRow;

float Rounded(Dtype dtype, float x) {
  if (dtype == Dtype::kF16) return static_cast<float>(static_cast<F16>(x));
  if (dtype == Dtype::kBF16) return static_cast<float>(BF16(x));
  return x;
}

TEST(KvStore, LoadsWhatWasStored) {
  for (Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16})
    for (int head_dim : {8, 16, 64, 72, 256})
      for (int64_t first : {0, 1, 15, 16, 20})
        for (int64_t count : {0, 1, 15, 16, 17, 33, 50}) {
          Rng rng(1);
          TestRow row(rng, dtype, head_dim, 80);
          const int64_t stride = head_dim + 3;
          const std::vector<float> keys = Normals(rng, static_cast<size_t>(stride * 50), 3.0);
          const std::vector<float> values = Normals(rng, static_cast<size_t>(stride * 50), 3.0);
          std::vector<float> before(static_cast<size_t>(head_dim)), after = before, key = before, value = before;
          LoadEntry(row.format(), row.blocks(), first + count, before.data(), nullptr);
          StoreEntries(row.format(), row.blocks(), first, keys.data(), stride, values.data(), stride, count);
          LoadEntry(row.format(), row.blocks(), first + count, after.data(), nullptr);
          EXPECT_EQ(before, after) << "the slot behind was touched";
          for (int64_t t = 0; t < count; ++t) {
            LoadEntry(row.format(), row.blocks(), first + t, key.data(), value.data());
            for (int d = 0; d < head_dim; ++d) {
              ASSERT_EQ(key[static_cast<size_t>(d)], Rounded(dtype, keys[static_cast<size_t>(t * stride + d)]));
              ASSERT_EQ(value[static_cast<size_t>(d)], Rounded(dtype, values[static_cast<size_t>(t * stride + d)]));
            }
          }
        }
}

// Every level writes the same bits, ties, denormals, overflow and infinity included.
TEST(KvStore, AllBackendsRoundAlike) {
  constexpr int kHeadDim = 72;
  const float special[] = {0.0f,       -0.0f,       65504.0f,    65519.9f,
                           65520.0f,   1e-8f,       5.96e-8f,    -3e-6f,
                           1.0009766f, 1.0004883f,  1e-40f,      3.4e38f,
                           -1e30f,     1.00390625f, 1.01171875f, std::numeric_limits<float>::infinity()};
  std::vector<KvStoreKernels> levels;
  for (const Backend& backend : testing::FastBackends())
    levels.push_back(ForIsa(backend.isa, []<Isa kIsa>() { return KvStoreKernelsOf<kIsa>(); }));
  const KvStoreKernels reference = KvStoreKernelsOf<Isa::kRef>();
  Rng rng(2);
  std::vector<float> keys = Normals(rng, 16 * kHeadDim), values = Normals(rng, 16 * kHeadDim, 1e4);
  for (size_t i = 0; i < keys.size(); i += 3) keys[i] = special[i / 3 % 16];
  for (Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16}) {
    const KvFormat format{dtype, kHeadDim};
    for (int first : {0, 5})
      for (int count : {16, 11, 1}) {
        if (first + count > 16) continue;
        const auto store_with = [&](void (*store)(const BlockStore&)) {
          std::vector<std::byte> block(format.block_bytes());
          store({dtype, kHeadDim, block.data(), block.data() + format.values_offset_bytes(), first, count, keys.data(),
                 kHeadDim, values.data(), kHeadDim});
          return block;
        };
        const std::vector<std::byte> expected = store_with(reference.store_block);
        const auto load_with = [&](void (*load)(const BlockKeys&)) {
          std::vector<float> rows(16 * kHeadDim);
          load({dtype, kHeadDim, expected.data(), rows.data()});
          return rows;
        };
        const std::vector<float> loaded = load_with(reference.load_keys);
        for (int t = 0; t < count; ++t)
          for (int d = 0; d < kHeadDim; ++d)
            ASSERT_EQ(loaded[static_cast<size_t>((first + t) * kHeadDim + d)],
                      Rounded(dtype, keys[static_cast<size_t>(t * kHeadDim + d)]));
        const auto store_keys_with = [&](void (*store)(const KeyRows&)) {
          std::vector<std::byte> block(format.values_offset_bytes());
          KeyRows rows{dtype, kHeadDim, {}, block.data()};
          for (size_t t = 0; t < 16; ++t) rows.rows[t] = keys.data() + (t + 5) % 16 * kHeadDim;
          store(rows);
          return block;
        };
        for (const KvStoreKernels& level : levels) {
          EXPECT_EQ(store_with(level.store_block), expected);
          EXPECT_EQ(load_with(level.load_keys), loaded);
          EXPECT_EQ(store_keys_with(level.store_keys), store_keys_with(reference.store_keys));
        }
      }
  }
}

TEST(KvStore, CopyIsBitExact) {
  for (Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16}) {
    Rng rng(4);
    TestRow from(rng, dtype, 72, 40), to(rng, dtype, 72, 40);
    CopyEntry(from.format(), from.blocks(), 37, to.blocks(), 4);
    CopyEntry(from.format(), from.blocks(), 3, from.blocks(), 3);  // onto itself
    std::vector<float> a(72), b(72), c(72), d(72);
    LoadEntry(from.format(), from.blocks(), 37, a.data(), b.data());
    LoadEntry(to.format(), to.blocks(), 4, c.data(), d.data());
    EXPECT_EQ(a, c);
    EXPECT_EQ(b, d);
  }
}

// As entry by entry, and zero behind them.
TEST(KvStore, GatheredEntriesAreBitExact) {
  for (Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16})
    for (int head_dim : {8, 64, 72, 256}) {
      Rng rng(5);
      TestRow from(rng, dtype, head_dim, 80);
      const KvFormat format = from.format();
      const std::span<const std::byte* const> blocks(from.blocks(), 5);
      std::vector<float> keys(static_cast<size_t>(80 * head_dim));
      LoadKeys(format, blocks, keys.data());
      for (const size_t count : {0u, 1u, 15u, 16u}) {
        std::vector<int32_t> slots;
        std::vector<std::byte> expected(format.block_bytes()), gathered(format.block_bytes(), std::byte{7});
        for (size_t i = 0; i < count; ++i) {
          slots.push_back(static_cast<int32_t>(rng.Below(80)));
          std::byte* const to = expected.data();
          CopyEntry(format, from.blocks(), slots.back(), &to, static_cast<int64_t>(i));
        }
        GatherEntries(format, from.blocks(), keys.data(), slots, gathered.data());
        EXPECT_EQ(gathered, expected) << head_dim << " " << count;
      }
    }
}

}  // namespace
}  // namespace cachette::ops
