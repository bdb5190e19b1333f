#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/result.h"
#include "text/tokenizer_spec.h"

namespace cachette {

// The tokenizer.ggml.* metadata of a GGUF file, field for field; absent ids are -1, absent flags empty.
struct GgufVocabFields {
  std::string_view model;                    // tokenizer.ggml.model: "gpt2" or "llama"
  std::string_view pre;                      // tokenizer.ggml.pre, "" when absent
  std::span<const std::string_view> tokens;  // [vocab_size]
  std::span<const float> scores;             // [vocab_size] or empty
  std::span<const int32_t> types;            // [vocab_size] or empty: tokenizer.ggml.token_type
  std::span<const std::string_view> merges;  // "left right"
  int32_t bos_id = -1, eos_id = -1, eot_id = -1, eom_id = -1, unk_id = -1, pad_id = -1;
  std::optional<bool> add_bos, add_eos, add_space_prefix, remove_extra_whitespaces;
  std::string_view chat_template;
};

// The spec of a GGUF vocabulary. Its views point where those of fields do.
// Errors: kUnsupported (model or pre-split name not known, with the list of those that are), kCorrupt (a merge without
// a space, a token type that does not exist).
Result<TokenizerSpec> SpecFromGgufFields(const GgufVocabFields& fields);

}  // namespace cachette
