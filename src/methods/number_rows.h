#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace cachette {

// Rows of numbers from a text file, for parts that need one per layer or per head. Numbers are apart by spaces, tabs or
// commas; blank lines and lines starting with '#' do not count. what: the file's purpose, for messages.
// Errors: kNotFound, kCorrupt (no number, or outside [least, most]).
Result<std::vector<std::vector<double>>> ReadNumberRows(std::string_view what, const std::string& path, double least,
                                                        double most);

}  // namespace cachette
