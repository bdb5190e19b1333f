#include "ops/attention/prefill.h"

#include <gtest/gtest.h>

#include <limits>

#include "ops/attention/decode.h"
#include "ops/attention/kv_fixture.h"
#include "ops/attention/tile_gemm.h"

namespace cachette::ops {
namespace {

using testing::BoundOf;
using testing::FastBackends;
using testing::kEps;
using testing::Normals;
using testing::TestRow;

struct Shape {
  Dtype dtype = Dtype::kF16;
  int head_dim = 64;
  int group_size = 3;
  float softcap = 0.0f;
  int32_t attention_window = 0;
  bool has_holes = false;
  GemmDtype gemm = GemmDtype::kF32;
  int coded_bits = 0;
};

struct Problem {
  Shape shape;
  int64_t num_queries;
  std::vector<TestRow> rows;
  std::vector<float> q;  // [num_queries][rows][group_size][head_dim]
  int64_t stride() const { return static_cast<int64_t>(rows.size()) * shape.group_size * shape.head_dim; }
};

float ScaleOf(const Shape& shape) { return 1.0f / std::sqrt(static_cast<float>(shape.head_dim)); }

// One row per entry of slots_before: so many entries lie before the chunk.
Problem MakeProblem(const Shape& shape, const std::vector<int64_t>& slots_before, int64_t num_queries) {
  Rng rng(7);
  Problem p{shape, num_queries, {}, {}};
  for (int64_t before : slots_before) {
    p.rows.emplace_back(rng, shape.dtype, shape.head_dim, before + num_queries);
    if (shape.coded_bits > 0) p.rows.back().Encode(shape.coded_bits, before / kCodedEntries * kCodedEntries);
    if (shape.has_holes) p.rows.back().PunchHoles(rng, before);
  }
  p.q = Normals(rng, static_cast<size_t>(num_queries * p.stride()));
  return p;
}

// Queries [begin, end) of the chunk as a chunk of their own.
void AttendChunk(const Problem& p, const Backend& backend, int num_threads, int64_t begin, int64_t end,
                 std::vector<float>& out) {
  std::vector<PrefillRow> rows;
  for (size_t r = 0; r < p.rows.size(); ++r) {
    const int64_t at = begin * p.stride() + static_cast<int64_t>(r) * p.shape.group_size * p.shape.head_dim;
    rows.push_back(
        {p.rows[r].ViewOf(p.rows[r].View().num_slots - p.num_queries + end), p.q.data() + at, out.data() + at});
  }
  Context cx(backend, num_threads);
  PrefillAttention(cx, {rows, end - begin, p.stride(), p.stride(), p.shape.group_size, p.shape.head_dim,
                        ScaleOf(p.shape), p.shape.softcap, p.shape.attention_window, p.shape.gemm});
}

std::vector<float> Attend(const Problem& p, const Backend& backend, int num_threads = 2) {
  std::vector<float> out(p.q.size(), std::numeric_limits<float>::quiet_NaN());
  AttendChunk(p, backend, num_threads, 0, p.num_queries, out);
  return out;
}

// f32: sums over head_dim. bf16: queries and keys are rounded to 8 bits (2^-9 each), weights too, values too, and the
// weights come from the coarse exponential (9e-5).
double ToleranceOf(const Problem& p) {
  int64_t longest = 0;
  for (const TestRow& row : p.rows) longest = std::max(longest, row.View().num_slots);
  const bool is_bf16 = p.shape.gemm == GemmDtype::kBF16;
  const double product = (p.shape.head_dim + 4) * kEps + (is_bf16 ? 2.0 * 0x1.0p-9 : 0.0);
  const double weight = 2e-7 + 1e-6 * static_cast<double>(p.shape.softcap) + (is_bf16 ? 9e-5 + 2.0 * 0x1.0p-9 : 0.0);
  // Coded keys and values are read within one rounding: no further terms (see kCodedTerms for where there are).
  return BoundOf(p.q, p.shape.head_dim, ScaleOf(p.shape)).Output(product, weight, longest);
}

// Rounding errors of a sum are independent; the worst case above cannot see a small systematic error, the root mean
// square can. Random logits of size ~1 with relative errors 2^-9 / sqrt(3) leave about 2^-9 of the output's size.
double RootMeanSquareTolerance(const Problem& p) { return p.shape.gemm == GemmDtype::kBF16 ? 0x1.0p-8 : 1e-6; }

void ExpectNear(const Problem& p, const std::vector<float>& actual, const std::vector<float>& expected,
                const char* what) {
  const double tolerance = ToleranceOf(p);
  double sum = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], tolerance) << what << " element " << i;
    const double error = static_cast<double>(actual[i]) - static_cast<double>(expected[i]);
    sum += error * error;
  }
  EXPECT_LE(std::sqrt(sum / static_cast<double>(expected.size())), RootMeanSquareTolerance(p)) << what;
}

void ExpectMatchesReference(const Problem& p) {
  const std::vector<float> expected = Attend(p, *FindBackend("ref"));
  for (const Backend& backend : FastBackends()) ExpectNear(p, Attend(p, backend), expected, backend.name);
}

class PrefillAttentionTest : public ::testing::TestWithParam<GemmDtype> {};

TEST_P(PrefillAttentionTest, MatchesReferenceForChunkSizes) {
  for (int64_t num_queries : {1, 2, 16, 17, 67, 130})
    for (int64_t before : {0, 1, 16, 515})
      ExpectMatchesReference(MakeProblem({.gemm = GetParam()}, {before}, num_queries));
}

TEST_P(PrefillAttentionTest, MatchesReferenceForHeadDims) {
  for (Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16})
    for (int head_dim : {8, 16, 64, 72, 80, 96, 128, 256})
      ExpectMatchesReference(MakeProblem({.dtype = dtype, .head_dim = head_dim, .gemm = GetParam()}, {33}, 20));
}

TEST_P(PrefillAttentionTest, MatchesReferenceForGroupSizes) {
  for (int group_size = 1; group_size <= 9; ++group_size)
    ExpectMatchesReference(MakeProblem({.group_size = group_size, .gemm = GetParam()}, {40}, 37));
}

TEST_P(PrefillAttentionTest, RaggedRowsWithHolesWindowAndSoftcap) {
  for (int32_t window : {0, 1, 7, 300})
    for (float softcap : {0.0f, 3.0f})
      ExpectMatchesReference(MakeProblem(
          {.softcap = softcap, .attention_window = window, .has_holes = true, .gemm = GetParam()}, {0, 700, 17}, 70));
}

TEST_P(PrefillAttentionTest, CodedEntries) {
  for (int bits : {8, 4, 2}) {
    for (int64_t before : {63, 64, 100, 515})
      ExpectMatchesReference(MakeProblem({.group_size = 1, .gemm = GetParam(), .coded_bits = bits}, {before, 64}, 17));
    for (int head_dim : {8, 16, 72, 80, 96, 128, 256})
      ExpectMatchesReference(
          MakeProblem({.head_dim = head_dim, .group_size = 1, .gemm = GetParam(), .coded_bits = bits}, {150}, 5));
    for (Dtype dtype : {Dtype::kF32, Dtype::kBF16})
      ExpectMatchesReference(MakeProblem({.dtype = dtype,
                                          .group_size = 2,
                                          .softcap = 3.0f,
                                          .attention_window = 170,
                                          .has_holes = true,
                                          .gemm = GetParam(),
                                          .coded_bits = bits},
                                         {0, 200, 700}, 20));
  }
}

TEST_P(PrefillAttentionTest, LongRowsGoInSeveralRounds) {
  ExpectMatchesReference(MakeProblem({.head_dim = 16, .group_size = 1, .gemm = GetParam()}, {8180, 3}, 30));
  ExpectMatchesReference(
      MakeProblem({.head_dim = 8, .group_size = 1, .attention_window = 50, .gemm = GetParam()}, {8180}, 30));
}

TEST_P(PrefillAttentionTest, SameBitsForAnyThreadCount) {
  const Problem p = MakeProblem({.gemm = GetParam()}, {0, 300, 77}, 150);
  for (const Backend& backend : FastBackends()) {
    const std::vector<float> one = Attend(p, backend, 1);
    for (int num_threads : {2, 3}) EXPECT_EQ(Attend(p, backend, num_threads), one) << backend.name;
  }
}

TEST_P(PrefillAttentionTest, ChunkedEqualsWhole) {
  const Problem p = MakeProblem({.attention_window = 90, .gemm = GetParam()}, {60, 0}, 140);
  for (const Backend& backend : FastBackends()) {
    const std::vector<float> whole = Attend(p, backend);
    for (int64_t chunk : {1, 7, 64}) {
      std::vector<float> out(p.q.size());
      for (int64_t begin = 0; begin < p.num_queries; begin += chunk)
        AttendChunk(p, backend, 2, begin, std::min(begin + chunk, p.num_queries), out);
      ExpectNear(p, out, whole, backend.name);
    }
  }
}

TEST_P(PrefillAttentionTest, EqualsDecodeQueryByQuery) {
  for (float softcap : {0.0f, 5.0f}) {
    const Problem p = MakeProblem({.softcap = softcap, .has_holes = true, .gemm = GetParam()}, {600}, 40);
    for (const Backend& backend : FastBackends()) {
      std::vector<float> out(p.q.size());
      Context cx(backend, 1);
      for (int64_t i = 0; i < p.num_queries; ++i) {
        const DecodeRow row{p.rows[0].ViewOf(600 + i + 1), p.q.data() + i * p.stride(), out.data() + i * p.stride(),
                            nullptr, 0};
        DecodeAttention(cx, {{&row, 1}, p.shape.group_size, p.shape.head_dim, ScaleOf(p.shape), softcap});
      }
      ExpectNear(p, Attend(p, backend), out, backend.name);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(BothProducts, PrefillAttentionTest, ::testing::Values(GemmDtype::kF32, GemmDtype::kBF16),
                         [](const auto& test) { return test.param == GemmDtype::kF32 ? "f32" : "bf16"; });

TEST(PrefillAttention, NothingToDo) {
  Context cx(*FindBackend("auto"), 1);
  PrefillAttention(cx, {.rows = {}, .num_queries = 5, .group_size = 1, .head_dim = 8});
  EXPECT_EQ(cx.scratch().capacity_bytes(), 0u);
}

// Scratch must not grow with the number of (query, entry) pairs.
TEST(PrefillAttention, ScratchStaysBounded) {
  const Problem p = MakeProblem({.head_dim = 8, .group_size = 1}, {20000}, 64);
  std::vector<float> out(p.q.size());
  const PrefillRow row{p.rows[0].View(), p.q.data(), out.data()};
  Context cx(*FindBackend("auto"), 2);
  PrefillAttention(cx, {.rows = {&row, 1},
                        .num_queries = 64,
                        .q_stride = p.stride(),
                        .out_stride = p.stride(),
                        .group_size = 1,
                        .head_dim = 8});
  EXPECT_LT(cx.scratch().capacity_bytes(), 16u << 20);
}

TEST(TileGemm, MultipliesPanels) {
  Rng rng(5);
  for (bool is_bf16 : {false, true}) {
    if (is_bf16 && !HasBf16Panels()) continue;
    for (int rows : {16, 64, 192})
      for (int columns : {64, 192}) {
        constexpr int kDepth = 96;
        const TileGemmShape shape{is_bf16, true, rows, columns, kDepth};
        const TileGemm gemm(shape, 1);
        std::vector<float> a(static_cast<size_t>(rows * kDepth)), b(static_cast<size_t>(kDepth * columns));
        // Small integers: exact in bf16 and in every sum.
        for (float& x : a) x = static_cast<float>(rng.Below(9)) - 4.0f;
        for (float& x : b) x = static_cast<float>(rng.Below(9)) - 4.0f;
        std::vector<float> c(static_cast<size_t>(rows * columns), 1.0f);
        const size_t e = is_bf16 ? 2 : 4;
        std::vector<std::byte> packed_a(a.size() * e), panel(b.size() * e), scratch(gemm.scratch_bytes() + 64);
        const auto put = [&](std::vector<std::byte>& to, int64_t idx, float x) {
          const BF16 half(x);
          std::memcpy(to.data() + static_cast<size_t>(idx) * e, is_bf16 ? static_cast<const void*>(&half) : &x, e);
        };
        for (size_t i = 0; i < a.size(); ++i) put(packed_a, static_cast<int64_t>(i), a[i]);
        for (int k = 0; k < kDepth; ++k)
          for (int n = 0; n < columns; ++n) {
            const int64_t slab = n / 64 * 64 * kDepth, column = n % 64;
            const int64_t at = is_bf16 ? slab + k / 2 * 128 + column * 2 + k % 2 : slab + k * 64 + column;
            put(panel, at, b[static_cast<size_t>(k * columns + n)]);
          }
        auto* aligned = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(scratch.data()) + 63) / 64 * 64);
        gemm.Run(0, packed_a.data(), panel.data(), c.data(), aligned);
        for (int r = 0; r < rows; ++r)
          for (int n = 0; n < columns; ++n) {
            float sum = 1.0f;
            for (int k = 0; k < kDepth; ++k)
              sum += a[static_cast<size_t>(r * kDepth + k)] * b[static_cast<size_t>(k * columns + n)];
            ASSERT_EQ(c[static_cast<size_t>(r * columns + n)], sum) << is_bf16 << " " << rows << "x" << columns;
          }
      }
  }
}

}  // namespace
}  // namespace cachette::ops
