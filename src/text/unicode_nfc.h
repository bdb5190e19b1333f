#pragma once

#include <string>
#include <string_view>

namespace cachette {

// False when text (valid UTF-8) may change under NFC: true is certain, false asks for ToNfc. Cheap: one pass.
bool IsCertainlyNfc(std::string_view text);

// text (valid UTF-8) in Unicode Normalization Form C, tables of Unicode 14. Source: Unicode Standard Annex #15.
std::string ToNfc(std::string_view text);

}  // namespace cachette
