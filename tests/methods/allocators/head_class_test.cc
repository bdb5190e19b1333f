#include "methods/allocators/head_class.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "methods/text_file.h"

namespace cachette {
namespace {

using ::testing::HasSubstr;

CacheShape Shape(int num_layers, int num_kv_heads) {
  return {.num_layers = num_layers, .num_kv_heads = num_kv_heads, .format = {Dtype::kF16, 8}};
}

// One letter per head, S(treaming) or R(etrieval), layer after layer.
std::string Classes(const HeadClass& part, int num_layers, int num_kv_heads) {
  std::string classes;
  for (int layer = 0; layer < num_layers; ++layer) {
    std::vector<int64_t> num_kept(static_cast<size_t>(num_kv_heads));
    part.Share({.layer = layer, .num_layers = num_layers}, num_kept);
    for (const int64_t budget : num_kept) {
      EXPECT_TRUE(budget == 0 || budget == Allocator::kUnlimited);
      classes += budget == 0 ? 'S' : 'R';
    }
  }
  return classes;
}

std::string ClassesOf(const char* text, int num_layers, int num_kv_heads, double head_sparsity = -1.0) {
  const TextFile file(text);
  HeadClass part;
  part.mask_file = file.path();
  part.head_sparsity = head_sparsity;
  const auto prepared = part.Prepare(Shape(num_layers, num_kv_heads));
  EXPECT_TRUE(prepared.ok()) << (prepared.ok() ? "" : prepared.failure().message);
  return prepared.ok() ? Classes(part, num_layers, num_kv_heads) : "";
}

struct Refusal {
  Error error;
  std::string message;
};

Refusal RefusalOf(const char* text, double head_sparsity = -1.0) {
  const TextFile file(text);
  HeadClass part;
  part.mask_file = file.path();
  part.head_sparsity = head_sparsity;
  const auto prepared = part.Prepare(Shape(2, 3));
  EXPECT_FALSE(prepared.ok()) << text;
  if (prepared.ok()) return {};
  // Every sentence names the file or the option.
  EXPECT_THAT(prepared.failure().message, ::testing::AnyOf(HasSubstr(file.path()), HasSubstr("head_sparsity")));
  return {prepared.failure().error, prepared.failure().message};
}

TEST(HeadClass, ReadsEverySeparatorAndNumberForm) {
  EXPECT_EQ(ClassesOf("0 1 0\n1 0 1\n", 2, 3), "SRSRSR");
  EXPECT_EQ(ClassesOf("0\t1\t0\n1\t0\t1", 2, 3), "SRSRSR");
  EXPECT_EQ(ClassesOf("0,1,0\r\n1, 0 ,1,\r\n", 2, 3), "SRSRSR");
  EXPECT_EQ(ClassesOf("# layers\n\n  0.49 0.5 4.9e-1  \n  # more\n1.0e+00 0.0 5e-1\n\n", 2, 3), "SRSRSR");
  EXPECT_EQ(ClassesOf("0.2", 1, 1), "S");
}

TEST(HeadClass, SparsityTakesTheSmallestAndTiesByPlace) {
  EXPECT_EQ(ClassesOf("0.9 0.1 0.5\n0.3 0.5 0.7\n", 2, 3, 0.0), "RRRRRR");
  EXPECT_EQ(ClassesOf("0.9 0.1 0.5\n0.3 0.5 0.7\n", 2, 3, 1.0 / 6), "RSRRRR");
  EXPECT_EQ(ClassesOf("0.9 0.1 0.5\n0.3 0.5 0.7\n", 2, 3, 0.5), "RSSSRR");  // of the two 0.5 the lower layer
  EXPECT_EQ(ClassesOf("1 1 1\n1 1 1\n", 2, 3, 0.34), "SSRRRR");             // 2.04 heads
  EXPECT_EQ(ClassesOf("1 1 1\n1 1 1\n", 2, 3, 0.25), "SSRRRR");             // 1.5 -> 2, ties to even
  EXPECT_EQ(ClassesOf("0 0 0\n0 0 0\n", 2, 3, 1.0), "SSSSSS");
}

TEST(HeadClass, RefusesWrongShapes) {
  for (const char* text : {"", "# nothing\n", "1 1 1\n", "1 1 1\n1 1 1\n1 1 1\n"}) {
    const Refusal refusal = RefusalOf(text);
    EXPECT_EQ(refusal.error, Error::kInvalidArgument) << text;
    EXPECT_THAT(refusal.message, HasSubstr("lines; this model has 2 layers")) << text;
  }
  for (const char* text : {"1 1\n1 1\n", "1 1 1\n1 1\n", "1 1 1 1\n1 1 1\n"}) {
    const Refusal refusal = RefusalOf(text);
    EXPECT_EQ(refusal.error, Error::kInvalidArgument) << text;
    EXPECT_THAT(refusal.message, HasSubstr("this model has 3 KV heads per layer")) << text;
  }
}

TEST(HeadClass, RefusesWhatIsNotANumberFromZeroToOneAndNamesTheLine) {
  for (const char* bad : {"x", "1.5", "-0.1", "nan", "inf", "0x1", "1;0", "1e999", "+1", "0.5f"}) {
    const std::string text = "# comment\n1 1 1\n1 " + std::string(bad) + " 1\n";
    const Refusal refusal = RefusalOf(text.c_str());
    EXPECT_EQ(refusal.error, Error::kCorrupt) << bad;
    EXPECT_THAT(refusal.message, HasSubstr("line 3: '" + std::string(bad))) << bad;
    EXPECT_THAT(refusal.message, HasSubstr("is not a number in [0, 1]")) << bad;
  }
  EXPECT_EQ(RefusalOf(std::string(5000, 'z').c_str()).message.find(std::string(21, 'z')), std::string::npos);
}

TEST(HeadClass, RefusesMissingFilesAndWrongSparsity) {
  HeadClass part;
  const auto unnamed = part.Prepare(Shape(2, 3));
  ASSERT_FALSE(unnamed.ok());
  EXPECT_EQ(unnamed.failure().error, Error::kInvalidArgument);
  EXPECT_THAT(unnamed.failure().message, HasSubstr("--allocator.mask-file"));
  part.mask_file = "/nonexistent/mask.txt";
  const auto missing = part.Prepare(Shape(2, 3));
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.failure().error, Error::kNotFound);
  EXPECT_THAT(missing.failure().message, HasSubstr("/nonexistent/mask.txt"));
  EXPECT_THAT(RefusalOf("1 1 1\n1 1 1\n", 1.01).message, HasSubstr("head_sparsity 1.01 must be at most 1"));
}

}  // namespace
}  // namespace cachette
