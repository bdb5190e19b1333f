#pragma once

#include "base/result.h"
#include "model/checkpoint.h"
#include "text/tokenizer.h"

namespace cachette {

// The tokenizer a checkpoint brings: GGUF metadata, or tokenizer.json (and tokenizer_config.json) in its folder. A
// synthetic model gets one token per byte. Errors: kNotFound (no tokenizer), and those of the tokenizer formats.
Result<Tokenizer> LoadTokenizer(const Checkpoint& checkpoint);

}  // namespace cachette
