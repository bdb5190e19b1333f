#include "text/added_tokens.h"

#include <algorithm>

namespace cachette {

AddedTokenMatcher::AddedTokenMatcher(std::vector<Entry> entries) : entries_(std::move(entries)) {
  std::ranges::stable_sort(entries_, {}, &Entry::text);
  for (const Entry& entry : entries_) starts_[static_cast<uint8_t>(entry.text[0])] |= entry.is_control ? 2 : 1;
}

const AddedTokenMatcher::Entry* AddedTokenMatcher::LongestAt(std::string_view text, size_t max_control_bytes) const {
  const Entry* longest = nullptr;
  auto low = entries_.begin(), high = entries_.end();  // entries that start with text[0, depth)
  for (size_t depth = 0; depth < text.size() && low != high; ++depth) {
    const auto byte_at = [depth](const Entry& entry) { return static_cast<uint8_t>(entry.text[depth]); };
    const auto byte = static_cast<uint8_t>(text[depth]);
    while (low != high && low->text.size() == depth) ++low;  // shorter texts sort first
    low = std::ranges::lower_bound(low, high, byte, {}, byte_at);
    high = std::ranges::upper_bound(low, high, byte, {}, byte_at);
    for (auto entry = low; entry != high && entry->text.size() == depth + 1; ++entry) {
      if (!entry->is_control || depth < max_control_bytes) longest = &*entry;
    }
  }
  return longest;
}

const AddedTokenMatcher::Entry* AddedTokenMatcher::Find(std::string_view text, size_t from, bool with_control,
                                                        std::span<const TextRange> literal, size_t& at) const {
  const uint8_t wanted = with_control ? 3 : 1;
  auto next = std::ranges::upper_bound(literal, from, {}, &TextRange::end);  // the first that ends behind pos
  for (size_t pos = from; pos < text.size(); ++pos) {
    if ((starts_[static_cast<uint8_t>(text[pos])] & wanted) == 0) continue;
    while (next != literal.end() && next->end <= pos) ++next;
    const size_t plain_end = next == literal.end() ? text.size() : std::max(next->begin, pos);
    if (const Entry* entry = LongestAt(text.substr(pos), with_control ? plain_end - pos : 0)) {
      at = pos;
      return entry;
    }
  }
  return nullptr;
}

}  // namespace cachette
