#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace cachette::cli {

// The text of a file, "-" being standard input. Errors: kNotFound, kIo, kInvalidArgument (a folder, invalid UTF-8).
Result<std::string> ReadText(const std::string& path);

// The same for several files, a blank line between them. Errors: as ReadText; "-" twice.
Result<std::string> ReadTexts(const std::vector<std::string>& paths);

// Errors: kInvalidArgument with the byte offset; where names the text in the message.
Result<void> CheckUtf8(const std::string& text, const std::string& where);

}  // namespace cachette::cli
