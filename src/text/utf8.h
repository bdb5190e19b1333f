#pragma once
// UTF-8 and the few Unicode facts that tokenizers and templates need.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace cachette {

// Byte offset where text stops being valid UTF-8 (overlong forms, surrogates and values above U+10FFFF are invalid), or
// std::string_view::npos. A sequence cut off by the end of text is invalid.
size_t FindInvalidUtf8(std::string_view text);

// Code point at text[pos]; moves pos behind it. text must be valid UTF-8 and pos the start of a code point below its
// end.
uint32_t NextCodePoint(std::string_view text, size_t& pos);

// Appends a code point (below 0x110000).
void AppendUtf8(uint32_t code_point, std::string& out);

// Moves the complete part of pending to out: invalid bytes become U+FFFD, a sequence that may still be completed stays.
void TakeCompleteUtf8(std::string& pending, std::string& out);

// White_Space of the Unicode standard, and what Python's str.strip removes (the same and U+001C to U+001F).
bool IsUnicodeSpace(uint32_t code_point);
bool IsPythonSpace(uint32_t code_point);

}  // namespace cachette
