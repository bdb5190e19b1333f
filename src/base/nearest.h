#pragma once

#include <span>
#include <string>
#include <string_view>

namespace cachette {

// The candidate with the smallest edit distance to name, or "" when none is within half of name's length (at least 2).
std::string NearestName(std::string_view name, std::span<const std::string> candidates);

}  // namespace cachette
