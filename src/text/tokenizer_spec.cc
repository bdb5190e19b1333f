#include "text/tokenizer_spec.h"

#include <algorithm>
#include <array>

namespace cachette {

void AddWellKnownEndTokens(TokenizerSpec& spec) {
  static constexpr std::array<std::string_view, 10> kNames = {
      "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>",      "<|end_of_text|>",
      "<end_of_turn>", "<|eot|>",    "<|end|>",    "<|end_of_turn|>", "<|return|>"};
  for (size_t id = 0; id < spec.tokens.size() && !spec.types.empty(); ++id) {
    if (spec.types[id] != TokenType::kControl && spec.types[id] != TokenType::kUserDefined) continue;
    if (std::find(kNames.begin(), kNames.end(), spec.tokens[id]) == kNames.end()) continue;
    const auto end_id = static_cast<int32_t>(id);
    if (end_id == spec.eos_id || std::ranges::count(spec.extra_end_ids, end_id) != 0) continue;
    spec.extra_end_ids.push_back(end_id);
  }
}

}  // namespace cachette
