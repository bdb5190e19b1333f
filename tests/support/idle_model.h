#pragma once
// A model whose layers add nothing to the residual stream, of any of four families.

#include <string>

namespace cachette::test {

inline constexpr int kIdleLayers = 4, kIdleKvHeads = 2, kIdleVocab = 64;

// Writes it to folder, which is made, and returns folder. family: a model_type of config.json (llama, qwen2, qwen3,
// gemma3_text). Random weights, but output and down projections of zero. Layers 1 and 3 of Gemma have a window of 40
// and RoPE of their own.
std::string WriteIdleModel(const std::string& folder, const std::string& family);

}  // namespace cachette::test
