#include "ops/attention/decode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <utility>

#include "ops/attention/kv_fixture.h"

namespace cachette::ops {
namespace {

using testing::AttentionBound;
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
  bool has_holes = false;
  int coded_bits = 0;
};

struct Problem {
  Shape shape;
  std::vector<TestRow> rows;
  std::vector<int64_t> first_slots;
  std::vector<float> q;  // [rows][group_size][head_dim]
};

struct Output {
  std::vector<float> out;
  std::vector<SoftmaxState> states;
};

Problem MakeProblem(const Shape& shape, const std::vector<int64_t>& lengths, uint64_t seed = 1) {
  Rng rng(seed);
  Problem p{.shape = shape, .rows = {}, .first_slots = std::vector<int64_t>(lengths.size(), 0), .q = {}};
  for (int64_t length : lengths) {
    p.rows.emplace_back(rng, shape.dtype, shape.head_dim, length);
    // All but 0 to 63 of the newest entries are coded, or in every other row those and 128 more.
    const int64_t num_plain = p.rows.size() % 2 == 0 ? 128 : 0;
    if (shape.coded_bits > 0 && length > num_plain)
      p.rows.back().Encode(shape.coded_bits, (length - num_plain) / kCodedEntries * kCodedEntries);
    if (shape.has_holes) p.rows.back().PunchHoles(rng, length);
  }
  p.q = Normals(rng, lengths.size() * static_cast<size_t>(shape.group_size * shape.head_dim));
  return p;
}

float ScaleOf(const Shape& shape) { return 1.0f / std::sqrt(static_cast<float>(shape.head_dim)); }

Output Attend(const Problem& p, const Backend& backend, int num_threads = 1, bool is_in_place = false) {
  const auto row_floats = static_cast<size_t>(p.shape.group_size * p.shape.head_dim);
  Output o{is_in_place ? p.q : std::vector<float>(p.q.size(), std::numeric_limits<float>::quiet_NaN()),
           std::vector<SoftmaxState>(p.rows.size() * static_cast<size_t>(p.shape.group_size))};
  std::vector<DecodeRow> rows;
  for (size_t r = 0; r < p.rows.size(); ++r)
    rows.push_back({p.rows[r].View(), (is_in_place ? o.out : p.q).data() + r * row_floats,
                    o.out.data() + r * row_floats, o.states.data() + r * static_cast<size_t>(p.shape.group_size),
                    p.first_slots[r]});
  Context cx(backend, num_threads);
  DecodeAttention(cx, {rows, p.shape.group_size, p.shape.head_dim, ScaleOf(p.shape), p.shape.softcap});
  return o;
}

int64_t LongestRow(const Problem& p) {
  int64_t longest = 0;
  for (const TestRow& row : p.rows) longest = std::max(longest, row.View().num_slots);
  return longest;
}

// Products are summed in f32 over head_dim; the exponential adds 1.7e-7, the softcap's tanh 6e-7 of the cap.
double ToleranceOf(const Problem& p) {
  const double weight_error = 2e-7 + 1e-6 * static_cast<double>(p.shape.softcap);
  const double terms = p.shape.coded_bits > 0 ? AttentionBound::kCodedTerms : 1.0;
  return terms * BoundOf(p.q, p.shape.head_dim, ScaleOf(p.shape))
                     .Output((p.shape.head_dim + 4) * kEps, weight_error, LongestRow(p));
}

void ExpectMatchesReference(const Problem& p) {
  const Output expected = Attend(p, *FindBackend("ref"));
  const double tolerance = ToleranceOf(p);
  for (const Backend& backend : FastBackends()) {
    const Output actual = Attend(p, backend, 2);
    for (size_t i = 0; i < expected.out.size(); ++i)
      ASSERT_NEAR(actual.out[i], expected.out[i], tolerance) << backend.name << " element " << i;
    for (size_t i = 0; i < expected.states.size(); ++i) {
      if (expected.states[i].denominator == 0.0f) {
        EXPECT_EQ(actual.states[i].max, -std::numeric_limits<float>::infinity());
        EXPECT_EQ(actual.states[i].denominator, 0.0f);
        continue;
      }
      // An error t of the maximum changes the denominator by a factor e^t.
      ASSERT_NEAR(actual.states[i].max, expected.states[i].max, tolerance);
      ASSERT_NEAR(actual.states[i].denominator / expected.states[i].denominator, 1.0, 2.0 * tolerance) << backend.name;
    }
  }
}

TEST(DecodeAttention, MatchesReferenceAtEveryLength) {
  for (Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16})
    ExpectMatchesReference(
        MakeProblem({.dtype = dtype}, {0, 1, 2, 15, 16, 17, 31, 33, 64, 65, 127, 251, 256, 257, 512, 700, 1021}));
}

TEST(DecodeAttention, MatchesReferenceForEveryGroupSize) {
  for (int group_size = 1; group_size <= 16; ++group_size)
    ExpectMatchesReference(MakeProblem({.group_size = group_size}, {33, 300}));
}

TEST(DecodeAttention, MatchesReferenceForEveryHeadDim) {
  for (Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16})
    for (int head_dim : {8, 16, 24, 64, 72, 80, 96, 128, 256})
      for (int group_size : {1, 4, 5})
        ExpectMatchesReference(
            MakeProblem({.dtype = dtype, .head_dim = head_dim, .group_size = group_size}, {1, 47, 270}));
}

TEST(DecodeAttention, MatchesReferenceWithHolesSoftcapAndFirstSlot) {
  for (float softcap : {0.0f, 3.0f}) {
    Problem p = MakeProblem({.softcap = softcap, .has_holes = true}, {5, 16, 40, 300, 700, 1000});
    ExpectMatchesReference(p);
    p.first_slots = {4, 16, 17, 256, 699, 511};
    ExpectMatchesReference(p);
  }
}

TEST(DecodeAttention, CodedMatchesReferenceAtEveryLength) {
  for (int bits : {8, 4, 2})
    ExpectMatchesReference(
        MakeProblem({.coded_bits = bits}, {0,    63,   64,   65,   127,  128,  192,  193,  255,  256, 257,
                                           1023, 1024, 1025, 1087, 1088, 1153, 2047, 2048, 2200, 3001}));
}

TEST(DecodeAttention, CodedMatchesReferenceForEveryShape) {
  for (int bits : {8, 4, 2}) {
    for (int group_size : {1, 2, 3, 4, 5, 8, 16})
      ExpectMatchesReference(MakeProblem({.group_size = group_size, .coded_bits = bits}, {130, 300}));
    for (Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16})
      for (int head_dim : {8, 16, 24, 72, 80, 96, 128, 256})
        ExpectMatchesReference(
            MakeProblem({.dtype = dtype, .head_dim = head_dim, .group_size = 2, .coded_bits = bits}, {75, 270}));
  }
}

TEST(DecodeAttention, CodedMatchesReferenceWithHolesSoftcapAndFirstSlot) {
  for (int bits : {8, 4, 2})
    for (float softcap : {0.0f, 3.0f}) {
      Problem p = MakeProblem({.softcap = softcap, .has_holes = true, .coded_bits = bits}, {64, 200, 300, 1200, 2300});
      ExpectMatchesReference(p);
      p.first_slots = {63, 1, 17, 1029, 1024};  // in coded blocks
      ExpectMatchesReference(p);
      p.first_slots = {64, 100, 299, 1151, 2299};  // none visible; behind the coded blocks; the last slot
      ExpectMatchesReference(p);
    }
}

TEST(DecodeAttention, DeadSlotsDoNotMatter) {
  Problem holes = MakeProblem({.has_holes = true}, {300});
  for (const Backend& backend : AllBackends()) {
    if (!backend.is_supported) continue;
    const Output before = Attend(holes, backend);
    const KvRow view = holes.rows[0].View();
    const std::vector<float> junk(64, -777.0f);
    for (int64_t slot = 0; slot < view.num_slots; ++slot)
      if (((view.live_masks[slot / 16] >> (slot % 16)) & 1) == 0)
        StoreEntries(view.format, holes.rows[0].blocks(), slot, junk.data(), 64, junk.data(), 64, 1);
    EXPECT_EQ(Attend(holes, backend).out, before.out) << backend.name;
  }
}

TEST(DecodeAttention, SingleEntryReturnsItsValueExactly) {
  const Problem p = MakeProblem({.dtype = Dtype::kF32}, {1});
  std::vector<float> value(64);
  LoadEntry(p.rows[0].format(), p.rows[0].blocks(), 0, nullptr, value.data());
  for (const Backend& backend : AllBackends()) {
    if (!backend.is_supported) continue;
    const Output o = Attend(p, backend);
    for (size_t i = 0; i < o.out.size(); ++i) ASSERT_EQ(o.out[i], value[i % 64]) << backend.name;
  }
}

TEST(DecodeAttention, EmptyRowsGiveZero) {
  const Problem p = MakeProblem({}, {0, 700, 0});
  for (const Backend& backend : AllBackends()) {
    if (!backend.is_supported) continue;
    const Output o = Attend(p, backend, 2);
    for (size_t i = 0; i < 192; ++i) {
      EXPECT_EQ(o.out[i], 0.0f);
      EXPECT_EQ(o.out[384 + i], 0.0f);
      EXPECT_FALSE(std::isnan(o.out[192 + i]));
    }
    EXPECT_EQ(o.states[0].denominator, 0.0f);
    EXPECT_EQ(o.states[8].max, -std::numeric_limits<float>::infinity());
  }
}

TEST(DecodeAttention, SameBitsForAnyThreadCountAndBatch) {
  for (const auto& [head_dim, bits] : {std::pair{64, 0}, {80, 0}, {64, 4}}) {
    const Problem batch =
        MakeProblem({.head_dim = head_dim, .has_holes = true, .coded_bits = bits}, {1021, 0, 2111, 17, 513});
    for (const Backend& backend : FastBackends()) {
      const Output one = Attend(batch, backend, 1);
      for (int num_threads : {2, 3}) EXPECT_EQ(Attend(batch, backend, num_threads).out, one.out) << backend.name;
      EXPECT_EQ(Attend(batch, backend, 2, true).out, one.out) << "out = q";
      const auto row_floats = static_cast<size_t>(3 * head_dim);
      std::vector<float> alone(row_floats);
      const DecodeRow row{batch.rows[2].View(), batch.q.data() + 2 * row_floats, alone.data(), nullptr, 0};
      Context cx(backend, 1);
      DecodeAttention(cx, {{&row, 1}, 3, head_dim, ScaleOf(batch.shape), 0.0f});
      EXPECT_TRUE(std::equal(alone.begin(), alone.end(), one.out.begin() + 2 * static_cast<int64_t>(row_floats)));
    }
  }
}

TEST(DecodeAttention, LargeLogitsStayFinite) {
  Problem p = MakeProblem({.dtype = Dtype::kF32}, {100});
  for (float& x : p.q) x *= 1e4f;
  for (const Backend& backend : FastBackends())
    for (float x : Attend(p, backend).out) ASSERT_TRUE(std::isfinite(x));
}

TEST(DecodeAttention, MixedFormatsInOneCall) {
  Rng rng(3);
  const TestRow f16(rng, Dtype::kF16, 64, 100), f32(rng, Dtype::kF32, 64, 50);
  const std::vector<float> q = Normals(rng, 64);
  for (const Backend& backend : FastBackends()) {
    std::vector<float> out(128), expected(128);
    const auto attend = [&](const Backend& with, std::vector<float>& to) {
      const DecodeRow rows[] = {{f16.View(), q.data(), to.data(), nullptr, 0},
                                {f32.View(), q.data(), to.data() + 64, nullptr, 0}};
      Context cx(with, 1);
      DecodeAttention(cx, {rows, 1, 64, 0.125f, 0.0f});
    };
    attend(backend, out);
    attend(*FindBackend("ref"), expected);
    const double tolerance = BoundOf(q, 64, 0.125f).Output(68 * kEps, 2e-7, 100);
    for (size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], expected[i], tolerance);
  }
}

TEST(MergeSoftmaxState, EmptySideIsNeutral) {
  const SoftmaxState empty{-std::numeric_limits<float>::infinity(), 0.0f};
  SoftmaxState a{1.5f, 2.0f};
  float out_a[] = {3.0f, 4.0f};
  const float zeros[] = {0.0f, 0.0f};
  MergeSoftmaxState(a, out_a, empty, zeros, 2);
  EXPECT_EQ(out_a[1], 4.0f);
  EXPECT_EQ(a.denominator, 2.0f);

  SoftmaxState b = empty;
  float out_b[] = {std::numeric_limits<float>::quiet_NaN(), 0.0f};  // an empty side's output is not read
  MergeSoftmaxState(b, out_b, a, out_a, 2);
  EXPECT_EQ(out_b[0], 3.0f);
  EXPECT_EQ(b.max, 1.5f);
  EXPECT_EQ(b.denominator, 2.0f);

  SoftmaxState c = empty;
  float out_c[] = {0.0f, 0.0f};
  MergeSoftmaxState(c, out_c, empty, zeros, 2);
  EXPECT_EQ(out_c[0], 0.0f);
  EXPECT_EQ(c.denominator, 0.0f);
}

TEST(MergeSoftmaxState, HalvesMergeToTheWhole) {
  const Problem whole = MakeProblem({.dtype = Dtype::kF32}, {700});
  const KvRow view = whole.rows[0].View();
  for (const Backend& backend : AllBackends()) {
    if (!backend.is_supported) continue;
    const Output expected = Attend(whole, backend);
    Output first = expected, second = expected;
    KvRow head = view, tail = view;
    head.num_slots = 304;
    tail.blocks += 19;
    tail.num_slots -= 304;
    const DecodeRow rows[] = {{head, whole.q.data(), first.out.data(), first.states.data(), 0},
                              {tail, whole.q.data(), second.out.data(), second.states.data(), 0}};
    Context cx(backend, 2);
    DecodeAttention(cx, {rows, 3, 64, 0.125f, 0.0f});
    for (size_t g = 0; g < 3; ++g) {
      MergeSoftmaxState(first.states[g], &first.out[g * 64], second.states[g], &second.out[g * 64], 64);
      EXPECT_NEAR(first.states[g].max, expected.states[g].max, ToleranceOf(whole));
    }
    for (size_t i = 0; i < 192; ++i) ASSERT_NEAR(first.out[i], expected.out[i], ToleranceOf(whole)) << backend.name;
  }
}

}  // namespace
}  // namespace cachette::ops
