#pragma once

#include <string>
#include <string_view>

namespace cachette {

// Text from a file in quotes, safe to print on a terminal: bytes outside printable ASCII as \xNN, cut after 80 bytes.
std::string Quoted(std::string_view text);

}  // namespace cachette
