#include "io/quoted.h"

#include <fmt/format.h>

namespace cachette {

std::string Quoted(std::string_view text) {
  constexpr size_t kMostBytes = 80;
  std::string out = "'";
  for (const char c : text.substr(0, kMostBytes)) {
    if (c >= 0x20 && c < 0x7f)
      out += c;
    else
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
  return out + (text.size() > kMostBytes ? "...'" : "'");
}

}  // namespace cachette
