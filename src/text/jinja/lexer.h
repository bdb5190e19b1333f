#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace cachette::jinja {

struct Token {
  enum class Kind : uint8_t {
    kText,        // literal output, white space control applied
    kBlockBegin,  // {%
    kBlockEnd,    // %}
    kPrintBegin,  // {{
    kPrintEnd,    // }}
    kName,
    kString,   // text holds the value, escapes resolved
    kInteger,  // text holds the digits
    kFloat,
    kOperator,  // text holds it: "==", "(", "|", ...
    kEnd,
  };
  Kind kind = Kind::kEnd;
  std::string text;
  int line = 0;  // 1 for the first
};

// Tokens of a template, ending with kEnd. White space is handled as Hugging Face sets Jinja up: trim_blocks and
// lstrip_blocks on, one newline at the end of the source dropped, and -, + at the tags.
// Errors: kInvalidArgument (unclosed tag, string or comment; unexpected character; invalid UTF-8), with the line.
Result<std::vector<Token>> Tokenize(std::string_view source);

}  // namespace cachette::jinja
