#pragma once
// The pre-split of byte-level BPE: regular expressions that cut text into pieces no merge may cross.

#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "text/tokenizer_spec.h"

namespace cachette {

// A published pre-split and what its model family does around it.
struct PreSplitFamily {
  std::vector<std::string_view> names;  // as GGUF's tokenizer.ggml.pre spells them
  std::vector<SplitRule> rules;
  bool ignore_merges = false;
  bool normalizes_nfc = false;
  bool adds_bos = false;  // when the file does not say
};

// The families known by name. The table is the documentation: gguf_vocab.cc lists it in its error message.
const std::vector<PreSplitFamily>& PreSplitFamilies();

// GPT-2's rule, which tokenizer.json means by {"type": "ByteLevel", "use_regex": true}.
const char* Gpt2SplitPattern();

// Compiled rules. Immutable after Create; any number of threads may split at once.
class PreSplitter {
 public:
  // Errors: kUnsupported (a pattern PCRE2 rejects or reads differently from the file's own regex engine).
  static Result<PreSplitter> Create(const std::vector<SplitRule>& rules);
  PreSplitter(PreSplitter&&) noexcept;
  PreSplitter& operator=(PreSplitter&&) noexcept;
  ~PreSplitter();

  // Appends the pieces of text (valid UTF-8) to pieces; together they are text, unless a rule drops gaps.
  // Errors: kUnsupported (a pattern of the file backtracks without end on this text). The families above are linear.
  Result<void> Split(std::string_view text, std::vector<std::string_view>& pieces) const;

 private:
  struct Impl;
  explicit PreSplitter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace cachette
