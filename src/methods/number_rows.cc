#include "methods/number_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <fstream>

namespace cachette {

Result<std::vector<std::vector<double>>> ReadNumberRows(std::string_view what, const std::string& path, double least,
                                                        double most) {
  std::ifstream file(path);
  if (!file) return Fail(Error::kNotFound, fmt::format("{} {} cannot be read", what, path));
  std::vector<std::vector<double>> rows;
  std::string line;
  for (int line_number = 1; std::getline(file, line); ++line_number) {
    for (char& c : line)
      if (c == '\t' || c == ',' || c == '\r') c = ' ';
    const size_t first = line.find_first_not_of(' ');
    if (first == std::string::npos || line[first] == '#') continue;
    std::vector<double>& row = rows.emplace_back();
    const char* p = line.data() + first;
    const char* end = line.data() + line.size();
    while (p < end) {
      double value = 0;
      const auto [next, status] = std::from_chars(p, end, value);
      if (status != std::errc() || !(value >= least && value <= most) || (next < end && *next != ' '))
        return Fail(Error::kCorrupt,
                    fmt::format("{} {} line {}: '{}' is not a number in [{}, {}]", what, path, line_number,
                                std::string_view(p, static_cast<size_t>(end - p)).substr(0, 20), least, most));
      row.push_back(value);
      p = std::find_if(next, end, [](char c) { return c != ' '; });
    }
  }
  return rows;
}

}  // namespace cachette
