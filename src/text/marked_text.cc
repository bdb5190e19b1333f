#include "text/marked_text.h"

#include <algorithm>

namespace cachette {

MarkedText MarkedText::Literal(std::string text) {
  MarkedText marked;
  if (!text.empty()) marked.literal.push_back({0, text.size()});
  marked.text = std::move(text);
  return marked;
}

void MarkedText::AppendRange(TextRange range) {
  if (range.begin == range.end) return;
  if (!literal.empty() && literal.back().end == range.begin) {
    literal.back().end = range.end;
  } else {
    literal.push_back(range);
  }
}

void MarkedText::Append(const MarkedText& other) {
  const size_t shift = text.size();
  text += other.text;
  for (const TextRange& range : other.literal) AppendRange({range.begin + shift, range.end + shift});
}

void MarkedText::AppendLiteral(std::string_view outside) {
  AppendRange({text.size(), text.size() + outside.size()});
  text += outside;
}

MarkedText MarkedText::Part(size_t begin, size_t num_bytes) const {
  MarkedText part;
  part.text = text.substr(begin, num_bytes);
  const size_t end = begin + num_bytes;
  auto range = std::ranges::upper_bound(literal, begin, {}, &TextRange::end);
  for (; range != literal.end() && range->begin < end; ++range)
    part.AppendRange({std::max(range->begin, begin) - begin, std::min(range->end, end) - begin});
  return part;
}

}  // namespace cachette
