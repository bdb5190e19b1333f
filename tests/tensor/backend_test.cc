#include "tensor/backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

namespace cachette {
namespace {

using ::testing::HasSubstr;

TEST(Backend, TableIsIndexedByIsaAndLevelsNest) {
  const auto all = AllBackends();
  ASSERT_EQ(all.size(), static_cast<size_t>(kNumIsas));
  std::set<std::string> names;
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(static_cast<size_t>(all[i].isa), i);
    EXPECT_TRUE(i == 0 || !all[i].is_supported || all[i - 1].is_supported) << all[i].name;
    names.insert(all[i].name);
  }
  EXPECT_EQ(names.size(), all.size());
  EXPECT_EQ(all[0].name, std::string("ref"));
  EXPECT_TRUE(all[0].is_supported);
}

TEST(Backend, EveryNameIsFoundOrUnavailable) {
  for (const Backend& backend : AllBackends()) {
    const auto found = FindBackend(backend.name);
    ASSERT_EQ(found.ok(), backend.is_supported) << backend.name;
    if (found.ok()) {
      EXPECT_EQ(found->isa, backend.isa);
    } else {
      EXPECT_EQ(found.failure().error, Error::kUnavailable);
      EXPECT_THAT(found.failure().message, HasSubstr(backend.name));
      EXPECT_THAT(found.failure().message, HasSubstr("--backend=auto"));
    }
  }
}

TEST(Backend, AutoIsTheHighestSupported) {
  const auto best = FindBackend("auto");
  ASSERT_TRUE(best.ok());
  for (const Backend& backend : AllBackends()) EXPECT_EQ(backend.is_supported, backend.isa <= best->isa);
  EXPECT_TRUE(best->is_supported);
}

TEST(Backend, UnknownNamesGetTheNearestAndTheList) {
  const auto typo = FindBackend("avx51");
  ASSERT_FALSE(typo.ok());
  EXPECT_EQ(typo.failure().error, Error::kInvalidArgument);
  EXPECT_THAT(typo.failure().message, HasSubstr("unknown backend 'avx51'; did you mean 'avx512'?"));
  EXPECT_THAT(typo.failure().message, HasSubstr("auto, ref, avx2, avx512, avx512vnni, avx512bf16"));
  const auto far = FindBackend("quantum-gpu");
  ASSERT_FALSE(far.ok());
  EXPECT_THAT(far.failure().message, ::testing::Not(HasSubstr("did you mean")));
  EXPECT_FALSE(FindBackend("").ok());
}

}  // namespace
}  // namespace cachette
