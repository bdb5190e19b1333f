#include "text/jinja/lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "text/utf8.h"

namespace cachette::jinja {
namespace {

bool IsNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsBlank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// text without the white space at its end, as Python's str.rstrip removes it.
std::string_view WithoutSpaceBehind(std::string_view text) {
  size_t kept = 0;
  for (size_t pos = 0; pos < text.size();) {
    if (!IsPythonSpace(NextCodePoint(text, pos))) kept = pos;
  }
  return text.substr(0, kept);
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  Result<std::vector<Token>> Run() {
    while (pos_ < source_.size()) {
      const size_t tag = FindTag();
      CACHETTE_TRY(TakeText(tag));
      if (tag == std::string::npos) break;
      pos_ = tag + 2;
      const char kind = source_[tag + 1];
      if (Peek() == '-' || Peek() == '+') ++pos_;
      if (kind == '#') {
        CACHETTE_TRY(TakeComment());
      } else if (kind == '%' && TakeRawBlock()) {
        CACHETTE_TRY(TakeRawText());
      } else {
        Add(kind == '%' ? Token::Kind::kBlockBegin : Token::Kind::kPrintBegin, "");
        CACHETTE_TRY(TakeTag(kind));
      }
    }
    Add(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  char Peek(size_t ahead = 0) const { return pos_ + ahead < source_.size() ? source_[pos_ + ahead] : '\0'; }
  std::string_view Rest() const { return std::string_view(source_).substr(pos_); }

  // Line of pos_: newlines are counted from the last place asked for, positions only grow.
  int Line() {
    line_ +=
        static_cast<int>(std::count(source_.begin() + static_cast<ptrdiff_t>(line_pos_),
                                    source_.begin() + static_cast<ptrdiff_t>(std::min(pos_, source_.size())), '\n'));
    line_pos_ = std::min(pos_, source_.size());
    return line_;
  }
  void Add(Token::Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), Line()}); }
  Failure Bad(std::string_view what) {
    return Fail(Error::kInvalidArgument, fmt::format("chat template line {}: {}", Line(), what));
  }

  size_t FindTag() const {
    for (size_t at = pos_; (at = source_.find('{', at)) != std::string::npos; ++at) {
      const char next = at + 1 < source_.size() ? source_[at + 1] : '\0';
      if (next == '%' || next == '{' || next == '#') return at;
    }
    return std::string::npos;
  }

  // Literal text up to the tag, minus what the tag's opening strips from it.
  Result<void> TakeText(size_t tag) {
    std::string_view text = Rest().substr(0, tag == std::string::npos ? tag : tag - pos_);
    if (tag != std::string::npos) {
      const char kind = source_[tag + 1];
      const char control = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
      if (control == '-') {
        text = WithoutSpaceBehind(text);
      } else if (control != '+' && kind != '{') {  // lstrip_blocks: blanks between the start of the line and the tag
        const size_t line_start = text.rfind('\n') == std::string_view::npos ? 0 : text.rfind('\n') + 1;
        const bool starts_line = line_start > 0 || pos_ == 0 || source_[pos_ - 1] == '\n';
        const std::string_view indent = text.substr(line_start);
        if (starts_line && WithoutSpaceBehind(indent).empty()) text = text.substr(0, line_start);
      }
    }
    if (!text.empty()) Add(Token::Kind::kText, std::string(text));
    return Ok();
  }

  // Behind a closing tag: -%} strips all white space, %} one newline (trim_blocks), }} nothing.
  void StripBehind(char control, bool is_print) {
    if (control == '-') {
      size_t pos = pos_;
      while (pos < source_.size() && IsPythonSpace(NextCodePoint(source_, pos))) pos_ = pos;
    } else if (!is_print && control != '+' && Peek() == '\n') {
      ++pos_;
    }
  }

  Result<void> TakeComment() {
    const size_t end = source_.find("#}", pos_);
    if (end == std::string::npos) return Bad("a comment is not closed with #}");
    const char control = end > pos_ ? source_[end - 1] : '\0';
    pos_ = end + 2;
    StripBehind(control, /*is_print=*/false);
    return Ok();
  }

  // At "raw %}" (the opening "{%" is consumed): consumes it.
  bool TakeRawBlock() {
    size_t pos = pos_;
    const auto skip_blanks = [&] {
      while (pos < source_.size() && IsBlank(source_[pos])) ++pos;
    };
    skip_blanks();
    if (source_.compare(pos, 3, "raw") != 0) return false;
    pos += 3;
    skip_blanks();
    const char control = pos < source_.size() && (source_[pos] == '-' || source_[pos] == '+') ? source_[pos++] : '\0';
    if (source_.compare(pos, 2, "%}") != 0) return false;
    pos_ = pos + 2;
    StripBehind(control, /*is_print=*/false);
    return true;
  }

  Result<void> TakeRawText() {
    for (size_t at = pos_; (at = source_.find("{%", at)) != std::string::npos; ++at) {
      size_t pos = at + 2;
      if (pos < source_.size() && (source_[pos] == '-' || source_[pos] == '+')) ++pos;
      while (pos < source_.size() && IsBlank(source_[pos])) ++pos;
      if (source_.compare(pos, 6, "endraw") != 0) continue;
      pos += 6;
      while (pos < source_.size() && IsBlank(source_[pos])) ++pos;
      const char control = pos < source_.size() && (source_[pos] == '-' || source_[pos] == '+') ? source_[pos++] : '\0';
      if (source_.compare(pos, 2, "%}") != 0) continue;
      CACHETTE_TRY(TakeText(at));
      pos_ = pos + 2;
      StripBehind(control, /*is_print=*/false);
      return Ok();
    }
    return Bad("a raw block is not closed with endraw");
  }

  // The inside of {% %} or {{ }}, up to and with its end.
  Result<void> TakeTag(char kind) {
    const bool is_print = kind == '{';
    const std::string_view close = is_print ? "}}" : "%}";
    int open_brackets = 0;  // "}}" inside a dict is not the end
    for (;;) {
      while (IsBlank(Peek()) && pos_ < source_.size()) ++pos_;
      if (pos_ >= source_.size()) return Bad(fmt::format("a tag is not closed with {}", close));
      const bool has_control = (Peek() == '-' || Peek() == '+') && Rest().substr(1, 2) == close;
      if (open_brackets == 0 && (has_control || Rest().substr(0, 2) == close)) {
        const char control = has_control ? Peek() : '\0';
        Add(is_print ? Token::Kind::kPrintEnd : Token::Kind::kBlockEnd, "");
        pos_ += has_control ? 3 : 2;
        StripBehind(control, is_print);
        return Ok();
      }
      CACHETTE_TRY(TakeToken(open_brackets));
    }
  }

  Result<void> TakeToken(int& open_brackets) {
    const char c = Peek();
    if (IsNameStart(c)) {
      size_t end = pos_;
      while (end < source_.size() && (IsNameStart(source_[end]) || IsDigit(source_[end]))) ++end;
      Add(Token::Kind::kName, source_.substr(pos_, end - pos_));
      pos_ = end;
      return Ok();
    }
    if (IsDigit(c)) return TakeNumber();
    if (c == '"' || c == '\'') return TakeString();
    static constexpr std::array<std::string_view, 6> kLong = {"==", "!=", "<=", ">=", "//", "**"};
    for (const std::string_view op : kLong) {
      if (Rest().substr(0, 2) == op) {
        Add(Token::Kind::kOperator, std::string(op));
        pos_ += 2;
        return Ok();
      }
    }
    if (std::string_view("+-*/%~<>=()[]{}.,:|").find(c) == std::string_view::npos) {
      return Bad(fmt::format("unexpected character {}", c >= ' ' && c < 0x7f
                                                            ? std::string(1, c)
                                                            : fmt::format("0x{:02x}", static_cast<uint8_t>(c))));
    }
    if (c == '(' || c == '[' || c == '{') ++open_brackets;
    if (c == ')' || c == ']' || c == '}') --open_brackets;
    if (open_brackets < 0) return Bad(fmt::format("\"{}\" closes nothing", c));
    Add(Token::Kind::kOperator, std::string(1, c));
    ++pos_;
    return Ok();
  }

  Result<void> TakeNumber() {
    size_t end = pos_;
    bool is_float = false;
    while (end < source_.size() && (IsDigit(source_[end]) || source_[end] == '_')) ++end;
    if (end + 1 < source_.size() && source_[end] == '.' && IsDigit(source_[end + 1])) {
      is_float = true;
      ++end;
      while (end < source_.size() && IsDigit(source_[end])) ++end;
    }
    if (end < source_.size() && (IsNameStart(source_[end]))) {
      return Bad("a number in hexadecimal, octal, binary or exponent form is not supported; write it in decimal");
    }
    std::string digits = source_.substr(pos_, end - pos_);
    std::erase(digits, '_');
    Add(is_float ? Token::Kind::kFloat : Token::Kind::kInteger, std::move(digits));
    pos_ = end;
    return Ok();
  }

  Result<void> TakeString() {
    const char quote = Peek();
    std::string value;
    for (size_t at = pos_ + 1; at < source_.size(); ++at) {
      if (source_[at] == quote) {
        Add(Token::Kind::kString, std::move(value));
        pos_ = at + 1;
        return Ok();
      }
      if (source_[at] != '\\') {
        value += source_[at];
        continue;
      }
      if (++at == source_.size()) break;
      CACHETTE_TRY(TakeEscape(at, value));
    }
    return Bad("a string is not closed");
  }

  // The escape whose letter is at source_[at]; leaves at on its last character. Python's rules.
  Result<void> TakeEscape(size_t& at, std::string& value) {
    static constexpr std::string_view kLetters = "nrtbfav\\'\"";
    static constexpr std::string_view kMeanings = "\n\r\t\b\f\a\v\\'\"";
    const char letter = source_[at];
    if (letter == '\n') return Ok();  // a line continued
    if (const size_t i = kLetters.find(letter); i != std::string_view::npos) {
      value += kMeanings[i];
      return Ok();
    }
    const size_t num_digits = letter == 'x' ? 2 : letter == 'u' ? 4 : letter == 'U' ? 8 : 0;
    if (num_digits == 0) {
      if (letter >= '0' && letter <= '7') return Bad("an octal escape in a string is not supported; write it as \\x");
      if (letter == 'N') return Bad("a \\N escape in a string is not supported; write it as \\u");
      value += '\\';  // Python keeps the backslash of an unknown escape
      value += letter;
      return Ok();
    }
    uint32_t code_point = 0;
    for (size_t i = 1; i <= num_digits; ++i) {
      const char d = at + i < source_.size() ? source_[at + i] : '\0';
      const int digit = IsDigit(d)             ? d - '0'
                        : d >= 'a' && d <= 'f' ? d - 'a' + 10
                        : d >= 'A' && d <= 'F' ? d - 'A' + 10
                                               : -1;
      if (digit < 0) return Bad(fmt::format("the escape \\{} needs {} hexadecimal digits", letter, num_digits));
      code_point = code_point << 4 | static_cast<uint32_t>(digit);
    }
    if (code_point > 0x10ffff || (code_point >= 0xd800 && code_point <= 0xdfff)) {
      return Bad(fmt::format("the escape \\{} names no character", letter));
    }
    AppendUtf8(code_point, value);
    at += num_digits;
    return Ok();
  }

  std::string source_;
  size_t pos_ = 0;
  size_t line_pos_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

Result<std::vector<Token>> Tokenize(std::string_view source) {
  if (const size_t bad = FindInvalidUtf8(source); bad != std::string_view::npos) {
    return Fail(Error::kInvalidArgument, fmt::format("the chat template is not valid UTF-8 at byte {}", bad));
  }
  std::string text;  // newlines as Jinja normalises them
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      text += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      text += source[i];
    }
  }
  if (text.ends_with('\n')) text.pop_back();
  return Lexer(std::move(text)).Run();
}

}  // namespace cachette::jinja
