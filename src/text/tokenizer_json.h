#pragma once

#include <string_view>

#include "base/result.h"
#include "text/tokenizer_spec.h"

namespace cachette {

// The spec of a Hugging Face tokenizer: the texts of tokenizer.json and of tokenizer_config.json ("" when there is
// none). The spec owns what its views point to. BPE models only: byte-level (GPT-2, Llama 3, Qwen, SmolLM2) and
// SentencePiece-style (Llama 2, Mistral, Gemma).
// Errors: kCorrupt (not JSON, fields of the wrong type), kUnsupported (a component of the tokenizer that is not
// implemented, named in the message).
Result<TokenizerSpec> SpecFromTokenizerJson(std::string_view tokenizer_json, std::string_view tokenizer_config_json);

}  // namespace cachette
