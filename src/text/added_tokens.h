#pragma once
// Finds the tokens that are matched in raw text, before any splitting and merging: special tokens and user-defined
// ones.

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "text/marked_text.h"

namespace cachette {

class AddedTokenMatcher {
 public:
  struct Entry {
    std::string_view text;  // not empty; must outlive the matcher
    int32_t id = -1;
    bool is_control = false;  // matched only when the caller asks for control tokens
    bool strips_left = false;
    bool strips_right = false;
  };

  AddedTokenMatcher() = default;
  explicit AddedTokenMatcher(std::vector<Entry> entries);

  // The leftmost match at or behind from, the longest one there; nullptr when there is none. Sets at to its place.
  // Control tokens match only with_control and only where they do not reach into a literal range (ascending, not
  // empty). Cost: one table look-up per byte, and per byte of a candidate one binary search.
  const Entry* Find(std::string_view text, size_t from, bool with_control, std::span<const TextRange> literal,
                    size_t& at) const;

 private:
  const Entry* LongestAt(std::string_view text, size_t max_control_bytes) const;

  std::vector<Entry> entries_;         // sorted by text
  std::array<uint8_t, 256> starts_{};  // per first byte: 1 a user-defined token starts so, 2 a control token does
};

}  // namespace cachette
