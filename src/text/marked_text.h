#pragma once
// Text that knows which of its bytes came from outside, however a template cut and joined them.

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cachette {

// Bytes [begin, end) of a text.
struct TextRange {
  size_t begin = 0, end = 0;
  bool operator==(const TextRange&) const = default;
};

struct MarkedText {
  std::string text = {};
  // What came from outside: messages, documents. Control tokens spelled there are not control tokens. Ascending, not
  // empty, not touching.
  std::vector<TextRange> literal = {};

  static MarkedText Literal(std::string text);

  void Append(std::string_view plain) { text += plain; }
  void Append(const MarkedText& other);
  void AppendLiteral(std::string_view outside);
  // Bytes [begin, begin + num_bytes), which must exist. O(log of the number of ranges + size of the part).
  MarkedText Part(size_t begin, size_t num_bytes) const;
  // The same for a view into text.
  MarkedText Part(std::string_view inside) const {
    return Part(inside.empty() ? 0 : static_cast<size_t>(inside.data() - text.data()), inside.size());
  }

 private:
  void AppendRange(TextRange range);
};

}  // namespace cachette
