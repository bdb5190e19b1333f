#pragma once
// Keys and values as lines of text, in the three styles that the families kv and niah share.

#include <string>
#include <vector>

#include "eval/tasks/task.h"
#include "eval/tasks/words.h"

namespace cachette {

inline constexpr const char* kKvHeading =
    "Some special magic numbers are hidden within the following text. Memorize them.\n";
inline constexpr const char* kKvQuestions = "Questions:\n";

struct KvLines {
  std::vector<std::string> lines;   // [num_lines], without newline
  std::vector<Question> questions;  // about distinct lines
};

// num_lines keys with distinct values, all in one style and of one number of digits, both drawn.
KvLines DrawKvLines(WordSource& words, int64_t num_lines, int64_t num_questions);

}  // namespace cachette
