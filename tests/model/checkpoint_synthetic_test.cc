#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "model/checkpoint.h"

namespace cachette {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<Checkpoint> Open(const std::string& spec) {
  auto checkpoint = Checkpoint::Open(spec);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.failure().message;
  return std::move(*checkpoint);
}

std::vector<std::byte> WeightsOf(const Checkpoint& checkpoint, std::string_view name) {
  const TensorInfo& tensor = **checkpoint.Get(name);
  return {tensor.bytes.begin(), tensor.bytes.end()};
}

// 75 GB if they were made: describing the largest shape must fit any machine.
TEST(SyntheticCheckpoint, DescribesShapesWithoutMakingWeights) {
  const auto checkpoint = Open("synthetic:llama-3.1-70b");
  for (const TensorInfo* tensor : checkpoint->Tensors()) {
    EXPECT_TRUE(tensor->bytes.empty()) << tensor->name;
    EXPECT_GT(tensor->num_bytes(), 0) << tensor->name;
  }
  EXPECT_EQ(checkpoint->Tensors().size(), 2u + 80 * 9);
  EXPECT_GT(checkpoint->total_bytes(), 70'000'000'000);
  EXPECT_LT(checkpoint->total_bytes(), 80'000'000'000);
  EXPECT_EQ(checkpoint->Find("output.weight"), nullptr);
}

TEST(SyntheticCheckpoint, WeightsDoNotDependOnWhatWasLookedUpBefore) {
  const auto forward = Open("synthetic:tiny"), backward = Open("synthetic:tiny"), other = Open("synthetic:tiny,seed=2");
  std::vector<std::string> names;
  for (const TensorInfo* tensor : forward->Tensors()) names.push_back(tensor->name);
  std::map<std::string, std::vector<std::byte>> weights;
  for (const std::string& name : names) weights[name] = WeightsOf(*forward, name);
  std::ranges::reverse(names);
  for (const std::string& name : names) {
    EXPECT_EQ(WeightsOf(*backward, name), weights[name]) << name;
    EXPECT_EQ(static_cast<int64_t>(weights[name].size()), (*backward->Get(name))->num_bytes());
    const bool is_norm = name.find("norm") != std::string::npos;
    EXPECT_EQ(WeightsOf(*other, name) == weights[name], is_norm) << name;
  }
  EXPECT_NE(weights["blk.0.attn_k.weight"], weights["blk.1.attn_k.weight"]);
}

TEST(SyntheticCheckpoint, DroppedWeightsComeBackTheSame) {
  const auto checkpoint = Open("synthetic:tiny,dtype=f16");
  const std::vector<std::byte> before = WeightsOf(*checkpoint, "blk.0.ffn_up.weight");
  const TensorInfo* tensor = checkpoint->Find("blk.0.ffn_up.weight");
  checkpoint->Drop(*tensor);
  EXPECT_TRUE(tensor->bytes.empty());
  EXPECT_EQ(WeightsOf(*checkpoint, "blk.0.ffn_up.weight"), before);
}

TEST(SyntheticCheckpoint, RefusesWhatItDoesNotKnow) {
  const auto message = [](const std::string& spec) { return Checkpoint::Open(spec).failure().message; };
  EXPECT_THAT(message("synthetic:llama-3.1-70c"), HasSubstr("did you mean 'llama-3.1-70b'?"));
  EXPECT_THAT(message("synthetic:tiny,layers=0"), HasSubstr("layers=0 must be 1 to 1000"));
  EXPECT_THAT(message("synthetic:tiny,layers=x"), HasSubstr("layers=x is not a whole number"));
  EXPECT_THAT(message("synthetic:tiny,dtype=q4_k"), HasSubstr("dtype=q4_k is none of"));
  EXPECT_THAT(message("synthetic:tiny,color=red"), HasSubstr("unknown field 'color=red'"));
}

}  // namespace
}  // namespace cachette
