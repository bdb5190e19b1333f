#include "base/nearest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/rng.h"

namespace cachette {
namespace {

using Names = std::vector<std::string>;

TEST(NearestName, FindsTyposTransposedMissingAndExtraLetters) {
  const Names names = {"full", "streaming", "heads", "snapkv"};
  EXPECT_EQ(NearestName("streming", names), "streaming");
  EXPECT_EQ(NearestName("steraming", names), "streaming");
  EXPECT_EQ(NearestName("sstreaming", names), "streaming");
  EXPECT_EQ(NearestName("fulll", names), "full");
  EXPECT_EQ(NearestName("head", names), "heads");
  EXPECT_EQ(NearestName("full", names), "full");
}

TEST(NearestName, SaysNothingWhenAllAreFar) {
  const Names names = {"full", "streaming"};
  EXPECT_EQ(NearestName("xyzzyplugh", names), "");
  EXPECT_EQ(NearestName("", names), "");
  EXPECT_EQ(NearestName("full", Names{}), "");
}

TEST(NearestName, AllowsHalfOfTheNameButAtLeastTwoEdits) {
  EXPECT_EQ(NearestName("ab", Names{"cd"}), "cd");              // 2 edits of 2 letters: the floor
  EXPECT_EQ(NearestName("a", Names{"abc"}), "abc");             // 2
  EXPECT_EQ(NearestName("a", Names{"abcd"}), "");               // 3 > 2
  EXPECT_EQ(NearestName("abcdef", Names{"abcxyz"}), "abcxyz");  // 3 of 6
  EXPECT_EQ(NearestName("abcdef", Names{"abwxyz"}), "");        // 4 of 6
}

TEST(NearestName, TiesGoToTheFirstCandidate) {
  EXPECT_EQ(NearestName("bat", Names{"cat", "rat"}), "cat");
  EXPECT_EQ(NearestName("bat", Names{"rat", "cat"}), "rat");
}

// The definition, without memory.
size_t SlowDistance(std::string_view a, std::string_view b) {
  if (a.empty() || b.empty()) return a.size() + b.size();
  const size_t substituted = SlowDistance(a.substr(1), b.substr(1)) + (a[0] == b[0] ? 0 : 1);
  return std::min({SlowDistance(a.substr(1), b) + 1, SlowDistance(a, b.substr(1)) + 1, substituted});
}

TEST(NearestName, AgreesWithTheDefinitionOfEditDistance) {
  Rng rng(5);
  const auto random_name = [&] {
    std::string name(rng.Below(6), 'a');
    for (char& c : name) c = static_cast<char>('a' + rng.Below(3));
    return name;
  };
  for (int i = 0; i < 2000; ++i) {
    const std::string name = random_name(), candidate = random_name();
    if (candidate.empty()) continue;
    const bool is_near = SlowDistance(name, candidate) <= std::max<size_t>(2, name.size() / 2);
    EXPECT_EQ(NearestName(name, Names{candidate}), is_near ? candidate : "") << name << " " << candidate;
  }
}

}  // namespace
}  // namespace cachette
