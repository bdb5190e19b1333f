#pragma once
// Texts to hide needles in. They are part of the program, and frozen: a sample stays what it is from version to
// version.

#include <cstdint>
#include <string>
#include <vector>

#include "base/rng.h"

namespace cachette {

enum class HaystackText : uint8_t { kProse, kCode };

// num_lines lines, without newlines, from a drawn place on; the text starts anew where it ends.
std::vector<std::string> HaystackLines(HaystackText text, int64_t num_lines, Rng& rng);

// The first num_sentences sentences of the prose from a drawn sentence on; it starts anew where it ends.
std::vector<std::string> HaystackSentences(int64_t num_sentences, Rng& rng);

// Puts needles between the lines, at drawn places (several may meet in one) and in drawn order.
void HideLines(std::vector<std::string> needles, std::vector<std::string>& lines, Rng& rng);

}  // namespace cachette
