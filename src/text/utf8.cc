#include "text/utf8.h"

#include <cstring>

namespace cachette {
namespace {

// Length of the well-formed sequence at text[0], 0 when none starts there, -1 when the text ends inside one.
// Source: Unicode 15, table 3-7.
int SequenceBytes(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return 0;
  const int bytes = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  uint8_t low = 0x80, high = 0xbf;  // the second byte's range is narrower after some leads
  if (lead == 0xe0) low = 0xa0;
  if (lead == 0xed) high = 0x9f;
  if (lead == 0xf0) low = 0x90;
  if (lead == 0xf4) high = 0x8f;
  for (int i = 1; i < bytes; ++i, low = 0x80, high = 0xbf) {
    if (static_cast<size_t>(i) == text.size()) return -1;
    if (byte(i) < low || byte(i) > high) return 0;
  }
  return bytes;
}

}  // namespace

size_t FindInvalidUtf8(std::string_view text) {
  size_t pos = 0;
  while (pos < text.size()) {
    if (uint64_t word; pos + sizeof(word) <= text.size()) {  // 8 ASCII bytes at a time: most text is ASCII
      std::memcpy(&word, text.data() + pos, sizeof(word));
      if ((word & 0x8080808080808080ull) == 0) {
        pos += sizeof(word);
        continue;
      }
    }
    const int bytes = SequenceBytes(text.substr(pos));
    if (bytes <= 0) return pos;
    pos += static_cast<size_t>(bytes);
  }
  return std::string_view::npos;
}

uint32_t NextCodePoint(std::string_view text, size_t& pos) {
  const uint8_t lead = static_cast<uint8_t>(text[pos++]);
  if (lead < 0x80) return lead;
  const int more = lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
  uint32_t code_point = lead & (0x3fu >> more);
  for (int i = 0; i < more; ++i) code_point = code_point << 6 | (static_cast<uint8_t>(text[pos++]) & 0x3fu);
  return code_point;
}

void AppendUtf8(uint32_t code_point, std::string& out) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | (code_point >> shift & 0x3f)); };
  if (code_point < 0x80) {
    out += static_cast<char>(code_point);
  } else if (code_point < 0x800) {
    out += static_cast<char>(0xc0 | code_point >> 6);
    tail(0);
  } else if (code_point < 0x10000) {
    out += static_cast<char>(0xe0 | code_point >> 12);
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xf0 | code_point >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

void TakeCompleteUtf8(std::string& pending, std::string& out) {
  size_t pos = 0;
  while (pos < pending.size()) {
    const int bytes = SequenceBytes(std::string_view(pending).substr(pos));
    if (bytes < 0) break;
    if (bytes == 0) {
      out += "\xef\xbf\xbd";
      ++pos;
    } else {
      out.append(pending, pos, static_cast<size_t>(bytes));
      pos += static_cast<size_t>(bytes);
    }
  }
  pending.erase(0, pos);
}

bool IsUnicodeSpace(uint32_t c) {
  return (c >= 0x9 && c <= 0xd) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
         c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool IsPythonSpace(uint32_t c) { return IsUnicodeSpace(c) || (c >= 0x1c && c <= 0x1f); }

}  // namespace cachette
