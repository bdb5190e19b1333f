#include "ops/attention/kv_codec.h"

#include <gtest/gtest.h>

#include <limits>

#include "base/half.h"
#include "ops/attention/kv_codec_kernels.h"
#include "ops/attention/kv_fixture.h"

namespace cachette::ops {
namespace {

using testing::Normals;
using testing::TestRow;

constexpr int kBits[] = {8, 4, 2};
constexpr int kHeadDims[] = {8, 16, 24, 40, 64, 72, 80, 96, 128, 256};
constexpr uint16_t kAllLive[] = {0xffff, 0xffff, 0xffff, 0xffff};

float F16At(const std::vector<std::byte>& block, int offset, int idx) {
  F16 x;
  std::memcpy(&x, block.data() + offset + idx * 2, 2);
  return static_cast<float>(x);
}

float KeyScale(const CodedLayout& l, const std::vector<std::byte>& block, int entry, int d) {
  return F16At(block, l.key_scales, entry / 32 * l.padded_dim + d);
}
float ValueScale(const CodedLayout& l, const std::vector<std::byte>& block, int entry, int d) {
  return F16At(block, l.value_scales, d / 32 * 64 + entry);
}

std::vector<std::byte> Encoded(const TestRow& row, int bits, const uint16_t* masks = kAllLive, int64_t first_rank = 0) {
  std::vector<std::byte> block(static_cast<size_t>(CodedLayoutOf(bits, row.format().head_dim).block_bytes));
  EncodeBlock(row.format(), row.blocks(), masks, first_rank, bits, block.data());
  return block;
}

// Entry of a block or of a row, key then value.
std::vector<float> Entry(const CodedLayout& l, const std::vector<std::byte>& block, int entry) {
  std::vector<float> both(static_cast<size_t>(2 * l.head_dim));
  LoadCodedEntry(l, block.data(), entry, both.data(), both.data() + l.head_dim);
  return both;
}
std::vector<float> Entry(const TestRow& row, int64_t slot) {
  const int head_dim = row.format().head_dim;
  std::vector<float> both(static_cast<size_t>(2 * head_dim));
  LoadEntry(row.format(), row.blocks(), slot, both.data(), both.data() + head_dim);
  return both;
}

// By arithmetic: codes of padded_dim channels twice, two f16 per channel and 32 entries, two per 32 channels and entry.
TEST(KvCodec, BytesPerEntry) {
  EXPECT_EQ(CodedLayoutOf(8, 64).entry_bytes, 128 + 8 + 8);
  EXPECT_EQ(CodedLayoutOf(4, 64).entry_bytes, 64 + 8 + 8);
  EXPECT_EQ(CodedLayoutOf(2, 64).entry_bytes, 32 + 8 + 8);
  EXPECT_EQ(CodedLayoutOf(4, 128).entry_bytes, 2 * CodedLayoutOf(4, 64).entry_bytes);
  EXPECT_EQ(CodedLayoutOf(2, 72).entry_bytes, 40 + 10 + 12);  // 80 channels, groups of 32, 32 and 8
  for (int bits : kBits)
    for (int head_dim : kHeadDims) {
      const CodedLayout l = CodedLayoutOf(bits, head_dim);
      EXPECT_EQ(l.block_bytes, l.entry_bytes * kCodedEntries);
      for (int offset : {l.key_mins, l.key_codes, l.value_scales, l.value_mins, l.value_codes, l.block_bytes})
        EXPECT_EQ(offset % 64, 0) << bits << " bits, head_dim " << head_dim;
    }
}

TEST(KvCodec, ErrorIsAtMostHalfAScale) {
  for (Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16})
    for (int bits : kBits)
      for (int head_dim : kHeadDims) {
        Rng rng(11);
        TestRow row(rng, dtype, head_dim, 64);
        const CodedLayout l = CodedLayoutOf(bits, head_dim);
        const std::vector<std::byte> block = Encoded(row, bits);
        for (int entry = 0; entry < 64; ++entry) {
          const std::vector<float> exact = Entry(row, entry), decoded = Entry(l, block, entry);
          for (int i = 0; i < 2 * head_dim; ++i) {
            const int d = i % head_dim;
            const float scale = i < head_dim ? KeyScale(l, block, entry, d) : ValueScale(l, block, entry, d);
            // (x - min) / scale is up to 255 and rounded three times; so is the sum on the way back.
            const double bound = static_cast<double>(scale) * (0.5 + 255.0 * 4.0 * 0x1.0p-24) + 8.0 * 0x1.0p-24;
            ASSERT_NEAR(decoded[static_cast<size_t>(i)], exact[static_cast<size_t>(i)], bound)
                << bits << " bits, head_dim " << head_dim << ", entry " << entry << ", element " << i;
          }
        }
      }
}

// The group's range over the codes, up to two roundings of f16: no scale is wider than need be.
TEST(KvCodec, ScalesFitTheGroups) {
  Rng rng(12);
  TestRow row(rng, Dtype::kF16, 64, 64);
  for (int bits : kBits) {
    const CodedLayout l = CodedLayoutOf(bits, 64);
    const std::vector<std::byte> block = Encoded(row, bits);
    for (int d = 0; d < 64; ++d)
      for (int first : {0, 32}) {
        float min = 1e9f, max = -1e9f;
        for (int e = first; e < first + 32; ++e) {
          min = std::min(min, Entry(row, e)[static_cast<size_t>(d)]);
          max = std::max(max, Entry(row, e)[static_cast<size_t>(d)]);
        }
        EXPECT_EQ(F16At(block, l.key_mins, first / 32 * 64 + d), min);  // f16 already
        const float step = (max - min) / static_cast<float>((1 << bits) - 1);
        EXPECT_GE(KeyScale(l, block, first, d), step);
        EXPECT_LE(KeyScale(l, block, first, d), step * (1.0f + 0x1.0p-10f));
      }
  }
}

// One channel of large numbers does not touch the others' keys; in a value it does.
TEST(KvCodec, KeyOutliersStayInTheirChannel) {
  Rng rng(13);
  TestRow row(rng, Dtype::kF16, 64, 64);
  const std::vector<std::byte> before = Encoded(row, 4);
  for (int slot = 0; slot < 64; ++slot) {
    std::vector<float> both = Entry(row, slot);
    both[5] *= 1000.0f;
    both[64 + 5] *= 1000.0f;
    StoreEntries(row.format(), row.blocks(), slot, both.data(), 64, both.data() + 64, 64, 1);
  }
  const std::vector<std::byte> after = Encoded(row, 4);
  const CodedLayout l = CodedLayoutOf(4, 64);
  for (int slot = 0; slot < 64; ++slot)
    for (int d = 0; d < 64; ++d) {
      if (d == 5) continue;
      EXPECT_EQ(KeyScale(l, after, slot, d), KeyScale(l, before, slot, d));
      EXPECT_EQ(Entry(l, after, slot)[static_cast<size_t>(d)], Entry(l, before, slot)[static_cast<size_t>(d)]);
      EXPECT_EQ(ValueScale(l, after, slot, d) == ValueScale(l, before, slot, d), d >= 32);
    }
}

TEST(KvCodec, ConstantGroupsAreExact) {
  Rng rng(14);
  for (float x : {0.0f, -0.0f, 1.0f, -3.140625f, 65504.0f, -65504.0f, 6e-8f}) {
    TestRow row(rng, Dtype::kF16, 24, 64);
    const std::vector<float> same(24 * 64, x);
    StoreEntries(row.format(), row.blocks(), 0, same.data(), 24, same.data(), 24, 64);
    for (int bits : kBits) {
      const std::vector<std::byte> block = Encoded(row, bits);
      for (float decoded : Entry(CodedLayoutOf(bits, 24), block, 63))
        EXPECT_EQ(decoded, static_cast<float>(static_cast<F16>(x)));
    }
  }
}

TEST(KvCodec, NumbersBeyondF16Saturate) {
  Rng rng(15);
  TestRow row(rng, Dtype::kF32, 16, 64);
  std::vector<float> huge = Normals(rng, 16 * 64, 1e30);
  StoreEntries(row.format(), row.blocks(), 0, huge.data(), 16, huge.data(), 16, 64);
  for (int bits : kBits)
    for (int entry = 0; entry < 64; ++entry)
      for (float x : Entry(CodedLayoutOf(bits, 16), Encoded(row, bits), entry)) EXPECT_TRUE(std::isfinite(x));
}

// Live entries of any blocks become entries 0..63 in order.
TEST(KvCodec, TakesLiveEntriesInOrder) {
  for (Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16})
    for (int64_t first_rank : {0, 1, 5, 16, 37}) {
      Rng rng(16);
      TestRow row(rng, dtype, 40, 300);
      row.PunchHoles(rng, 300);
      std::vector<uint16_t> masks(row.View().live_masks, row.View().live_masks + 19);
      masks[2] = 0xffff;
      masks[4] = 0x8000;
      masks[5] = 0x0000;
      std::vector<int64_t> live;
      for (int64_t slot = 0; slot < 300; ++slot)
        if (((masks[static_cast<size_t>(slot / 16)] >> (slot % 16)) & 1) != 0) live.push_back(slot);
      TestRow dense(rng, dtype, 40, 64);
      for (int i = 0; i < 64; ++i)
        CopyEntry(row.format(), row.blocks(), live[static_cast<size_t>(first_rank + i)], dense.blocks(), i);
      for (int bits : kBits) EXPECT_EQ(Encoded(row, bits, masks.data(), first_rank), Encoded(dense, bits));
    }
}

// Every level writes the same bits, whatever the elements.
TEST(KvCodec, AllBackendsEncodeAlike) {
  std::vector<void (*)(const BlockEncode&)> encoders;
  for (const Backend& backend : testing::FastBackends()) {
    if (backend.isa == Isa::kAvx2) encoders.push_back(avx2::EncodeCodedBlock);
    if (backend.isa == Isa::kAvx512) encoders.push_back(avx512::EncodeCodedBlock);
    if (backend.isa == Isa::kAvx512Vnni) encoders.push_back(avx512vnni::EncodeCodedBlock);
    if (backend.isa == Isa::kAvx512Bf16) encoders.push_back(avx512bf16::EncodeCodedBlock);
  }
  const float special[] = {0.0f, -0.0f, 65504.0f, -7e4f, 1e-8f, -5.96e-8f, 1e-40f, 3e38f, -1e30f, 1.0f, 0.5f, 1.5f};
  for (Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16})
    for (int head_dim : kHeadDims)
      for (double spread : {0.0, 1e-6, 1.0, 1e4}) {
        Rng rng(17);
        TestRow row(rng, dtype, head_dim, 64);
        std::vector<float> x = Normals(rng, static_cast<size_t>(64 * head_dim), spread);
        if (spread == 0.0)
          for (float& y : x) y = special[rng.Below(dtype == Dtype::kF16 ? 3 : 12)];
        StoreEntries(row.format(), row.blocks(), 0, x.data(), head_dim, x.data(), head_dim, 64);
        const EncodeSource sources[] = {
            {row.blocks()[0], 0xffff}, {row.blocks()[1], 0xffff}, {row.blocks()[2], 0xffff}, {row.blocks()[3], 0xffff}};
        for (int bits : kBits) {
          const CodedLayout l = CodedLayoutOf(bits, head_dim);
          const auto encode_with = [&](void (*encode)(const BlockEncode&)) {
            std::vector<std::byte> block(static_cast<size_t>(l.block_bytes), std::byte{0xa5});
            encode({l, dtype, sources, 4, block.data()});
            return block;
          };
          const std::vector<std::byte> expected = encode_with(EncodeBlockRef);
          for (auto* encode : encoders)
            ASSERT_EQ(encode_with(encode), expected) << bits << " bits, head_dim " << head_dim << ", " << spread;
        }
      }
}

TEST(KvCodec, LoadEntryReadsBothPartsOfARow) {
  Rng rng(18);
  TestRow row(rng, Dtype::kF16, 72, 150), plain = [] {
    Rng same(18);
    return TestRow(same, Dtype::kF16, 72, 150);
  }();
  row.Encode(4, 128);
  const CodedLayout l = CodedLayoutOf(4, 72);
  const std::vector<uint16_t> all(8, 0xffff);
  std::vector<std::byte> second(static_cast<size_t>(l.block_bytes));
  EncodeBlock(plain.format(), plain.blocks(), all.data(), 64, 4, second.data());
  std::vector<float> both(144);
  LoadEntry(row.View(), 64 + 9, both.data(), both.data() + 72);
  EXPECT_EQ(both, Entry(l, second, 9));
  LoadEntry(row.View(), 130, both.data(), both.data() + 72);
  EXPECT_EQ(both, Entry(plain, 130));
}

}  // namespace
}  // namespace cachette::ops
