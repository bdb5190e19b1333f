#include "eval/kept_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace cachette {
namespace {

using ::testing::HasSubstr;

// 2 layers of 2 KV heads over num_tokens tokens; head 1 of layer 1 loses slots [begin, end).
class Kept {
 public:
  Kept(int64_t num_tokens, int64_t begin, int64_t end)
      : tier_(TierKind::kHost), cache_(tier_, {.num_layers = 2, .num_kv_heads = 2, .format = {Dtype::kF16, 8}}) {
    Context cx(AllBackends()[0], 1);
    const std::vector<float> rows(static_cast<size_t>(num_tokens) * 16, 1.0f);
    CACHETTE_CHECK(cache_.BeginPass({.num_tokens = num_tokens}).ok());
    for (int layer = 0; layer < 2; ++layer)
      CACHETTE_CHECK(cache_.Append(cx, layer, rows.data(), 16, rows.data(), 16).ok());
    cache_.EndPass();
    const SlotRange range{begin, end};
    if (begin < end) cache_.Evict(1, 1, {&range, 1});
  }
  const SequenceCache& cache() const { return cache_; }

 private:
  Tier tier_;
  SequenceCache cache_;
};

TEST(KeptMap, SharesAreCountedPerColumn) {
  const Kept kept(100, 10, 45);
  const KeptMap map = MapOfKept(kept.cache(), 10);
  ASSERT_EQ(map.num_columns, 10);
  for (int row = 0; row < 3; ++row)
    for (int column = 0; column < 10; ++column) EXPECT_EQ(map.KeptAt(row, column), 1.0f);
  const std::vector<float> expected = {1, 0, 0, 0, 0.5f, 1, 1, 1, 1, 1};
  for (int column = 0; column < 10; ++column)
    EXPECT_FLOAT_EQ(map.KeptAt(3, column), expected[static_cast<size_t>(column)]);
  EXPECT_THAT(map.live_entries, ::testing::ElementsAre(100, 100, 100, 65));
}

// Columns of unequal width (7 tokens in 3 columns) still weigh their own tokens.
TEST(KeptMap, AShortTextHasOneColumnPerToken) {
  EXPECT_EQ(MapOfKept(Kept(7, 0, 0).cache(), 256).num_columns, 7);
  const KeptMap map = MapOfKept(Kept(7, 0, 3).cache(), 3);
  EXPECT_FLOAT_EQ(map.KeptAt(3, 0), 0.0f);
  EXPECT_FLOAT_EQ(map.KeptAt(3, 1), 1.0f);
  EXPECT_FLOAT_EQ(map.KeptAt(3, 2), 1.0f);
}

TEST(KeptMap, NothingYet) {
  Tier tier(TierKind::kHost);
  const SequenceCache cache(tier, {.num_layers = 2, .num_kv_heads = 2, .format = {Dtype::kF16, 8}});
  const KeptMap map = MapOfKept(cache);
  EXPECT_EQ(map.num_columns, 0);
  EXPECT_THAT(KeptMapText(map), HasSubstr("nothing yet"));
  EXPECT_THAT(KeptMapSvg(map, "t"), HasSubstr("</svg>"));
}

TEST(KeptMap, TextAndPictureSayWhatIsKept) {
  const KeptMap map = MapOfKept(Kept(100, 10, 45).cache(), 10);
  const std::string text = KeptMapText(map);
  EXPECT_THAT(text, HasSubstr("365 of 400 entries (91.2 %)"));
  EXPECT_THAT(text, HasSubstr("82.5 % (layer 1) to 100.0 % (layer 0)"));
  const std::string svg = KeptMapSvg(map, "a < b & c");
  EXPECT_THAT(svg, HasSubstr("a &lt; b &amp; c"));
  // Row 3 starts at y 48 + 3 * 16: all of column 0, then the half column 4, then the rest to the right edge.
  EXPECT_THAT(svg, HasSubstr("M64.0 96h102.4v16"));
  EXPECT_THAT(svg, HasSubstr("M473.6 96h102.4v16"));
  EXPECT_THAT(svg, HasSubstr("M576.0 96h512.0v16"));
}

}  // namespace
}  // namespace cachette
