#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "engine/engine.h"

namespace cachette::test {

// One token per byte, 2 layers of 2 KV heads, context 32768. fast_kv_bytes 0: no limit.
inline std::unique_ptr<Engine> TinyEngine(int64_t fast_kv_bytes = 0, int threads = 1) {
  EngineOptions options;
  options.model = "synthetic:tiny";
  options.threads = threads;
  options.fast_kv_bytes = fast_kv_bytes;
  auto engine = Engine::Load(options);
  EXPECT_TRUE(engine.ok()) << (engine.ok() ? "" : engine.failure().message);
  return std::move(*engine);
}

}  // namespace cachette::test
