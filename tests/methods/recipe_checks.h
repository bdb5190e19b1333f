#pragma once
// What tests of recipes share.

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "methods/recipe.h"

namespace cachette {

inline CacheShape Shape(int num_layers, int num_kv_heads) {
  return {.num_layers = num_layers, .num_kv_heads = num_kv_heads, .format = {Dtype::kF16, 8}};
}

// Why the recipe cannot be made, or cannot work on a model of 3 layers of 2 KV heads.
inline std::string Refusal(const char* name, const std::map<std::string, std::string>& options) {
  auto recipe = Recipe::Create(name, options);
  const auto prepared = recipe.ok() ? recipe->Prepare(Shape(3, 2)) : Result<void>(recipe.failure());
  EXPECT_FALSE(prepared.ok()) << name;
  if (prepared.ok()) return "";
  EXPECT_EQ(prepared.failure().error, Error::kInvalidArgument);
  return prepared.failure().message;
}

}  // namespace cachette
