#pragma once
// A model whose right answer is known exactly: two layers written by formula that continue "... k v ... k" with v.
//
// Layer 0 copies the previous token's identity into the residual stream (a head whose rotary score peaks at distance
// 1). Layer 1 looks for the position whose previous token is the current one and copies that position's token to the
// output. The answer exists only while layer 1's entry of v is in the cache: evict it and the model cannot know; keep
// it and the model must. No training; weights are 0, 1 or a gain. Source: induction heads, Olsson et al. 2022,
// arXiv:2209.11895.

#include <cstdint>
#include <string>
#include <vector>

namespace cachette::test {

inline constexpr int kInductionVocab = 64;
inline constexpr int32_t kInductionBos = 0;  // must start every prompt and never recur
inline constexpr int kInductionLayers = 2;
inline constexpr int kInductionKvHeads = 2;  // head 0 does the work, head 1 is idle: heads can be told apart

// Writes config.json and model.safetensors (f32) into folder (created) and returns the folder.
std::string WriteInductionModel(const std::string& folder);

// A prompt: BOS, pairs (key, value) in order, filler tokens, and last the key of pair asked. Keys are 1..20, values
// 21..40, filler 41..63; num_pairs <= 20.
struct InductionPrompt {
  std::vector<int32_t> tokens;
  int32_t answer = 0;
  int64_t answer_position = 0;  // of the value that must stay in the cache
};
InductionPrompt MakeInductionPrompt(int num_pairs, int asked, int num_filler, uint64_t seed);

}  // namespace cachette::test
