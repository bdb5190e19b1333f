#pragma once

#include <cstdint>
#include <string>

#include "text/tokenizer.h"

namespace cachette {

// Turns tokens into text as they are generated: what it returns is always complete, valid UTF-8. Bytes of a character
// that is not finished wait for the next token; bytes that cannot become one turn into U+FFFD.
class StreamDecoder {
 public:
  // tokenizer must outlive this. skip_special leaves out control tokens. starts_text: the first token begins a text of
  // its own (as Decode assumes) instead of continuing one, so a space the encoder would have put there is taken off.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true, bool starts_text = false);

  // Text that is complete now, possibly "".
  std::string Push(int32_t id);
  // What was still waiting, as U+FFFD; the decoder is as new afterwards.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  bool skips_special_;
  bool starts_text_;
  bool at_start_;
  std::string pending_;  // bytes of an unfinished character: at most 3
};

}  // namespace cachette
