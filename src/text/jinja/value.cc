#include "text/jinja/value.h"

#include <fmt/format.h>

#include <cmath>

#include "text/utf8.h"

namespace cachette::jinja {
namespace {

constexpr int kMaxValueDepth = 64;  // of nested containers, when printing or comparing
// Of a printed container: one that holds itself twice would double with each level. Far beyond any real one.
constexpr size_t kMaxPrintedBytes = size_t{128} << 20;

// repr() of a float: the shortest digits that read back, with a point or an exponent.
std::string FloatText(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
  std::string text = fmt::format("{}", d);
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

// repr() of a string.
std::string Quoted(std::string_view text) {
  std::string out;
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  out += quote;
  for (const char c : text) {
    if (c == '\\' || c == quote) {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (static_cast<uint8_t>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\x{:02x}", static_cast<uint8_t>(c));
    } else {
      out += c;
    }
  }
  out += quote;
  return out;
}

// A string as it is written inside a container: with its quotes it is literal if any of it is.
void AppendWritten(const std::string& written, bool is_literal, MarkedText& out) {
  if (is_literal) {
    out.AppendLiteral(written);
  } else {
    out.Append(written);
  }
}
bool HasLiteral(const Value& string) { return !string.Text().literal.empty(); }

void AppendRepr(const Value& value, int depth, MarkedText& out) {
  if (out.text.size() > kMaxPrintedBytes) return;
  if (value.IsString()) {
    AppendWritten(Quoted(value.String()), HasLiteral(value), out);
  } else if (depth >= kMaxValueDepth) {
    out.Append("...");
  } else if (value.IsList()) {
    const List& list = value.Items();
    out.Append(list.is_tuple ? "(" : "[");
    const char* separator = "";
    for (const Value& item : list) {
      out.Append(separator);
      AppendRepr(item, depth + 1, out);
      separator = ", ";
    }
    out.Append(!list.is_tuple ? "]" : list.size() == 1 ? ",)" : ")");
  } else if (value.IsDict()) {
    const Dict& dict = value.Members();
    const char* separator = "{";
    for (const auto& [key, item] : dict.items) {
      out.Append(separator);
      AppendWritten(Quoted(key), dict.has_literal_keys, out);
      out.Append(": ");
      AppendRepr(item, depth + 1, out);
      separator = ", ";
    }
    out.Append(dict.items.empty() ? "{}" : "}");
  } else {
    out.Append(ToText(value));
  }
}

std::string JsonString(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      case '\b': out += "\\b"; break;
      case '\f': out += "\\f"; break;
      default:
        if (static_cast<uint8_t>(c) < 0x20) {
          out += fmt::format("\\u{:04x}", static_cast<uint8_t>(c));
        } else {
          out += c;
        }
    }
  }
  out += '"';
  return out;
}

bool AppendJson(const Value& value, int indent, int depth, MarkedText& out) {
  const auto new_line = [&](int level) {
    if (indent < 0) return;
    out.Append("\n");
    out.text.append(static_cast<size_t>(indent) * static_cast<size_t>(level), ' ');
  };
  if (depth > kMaxValueDepth || out.text.size() > kMaxPrintedBytes) return false;
  if (value.IsNone()) {
    out.Append("null");
  } else if (value.Is<bool>()) {
    out.Append(value.Int() != 0 ? "true" : "false");
  } else if (value.Is<int64_t>()) {
    out.Append(fmt::format("{}", value.Int()));
  } else if (value.Is<double>()) {
    const double d = value.Number();
    out.Append(std::isnan(d) ? "NaN" : std::isinf(d) ? (d < 0 ? "-Infinity" : "Infinity") : FloatText(d));
  } else if (value.IsString()) {
    AppendWritten(JsonString(value.String()), HasLiteral(value), out);
  } else if (value.IsList() || value.IsDict()) {
    const bool is_list = value.IsList();
    const size_t num_items = is_list ? value.Items().size() : value.Members().items.size();
    out.Append(is_list ? "[" : "{");
    for (size_t i = 0; i < num_items; ++i) {
      if (i > 0) out.Append(indent < 0 ? ", " : ",");
      new_line(depth + 1);
      if (!is_list) {
        AppendWritten(JsonString(value.Members().items[i].first), value.Members().has_literal_keys, out);
        out.Append(": ");
      }
      if (!AppendJson(is_list ? value.Items()[i] : value.Members().items[i].second, indent, depth + 1, out))
        return false;
    }
    if (num_items > 0) new_line(depth);
    out.Append(is_list ? "]" : "}");
  } else {
    return false;
  }
  return true;
}

bool EqualAt(const Value& a, const Value& b, int depth) {
  if (depth > kMaxValueDepth) return false;
  if (a.IsNumber() && b.IsNumber())
    return a.IsInteger() && b.IsInteger() ? a.Int() == b.Int() : a.Number() == b.Number();
  if (a.IsString() && b.IsString()) return a.String() == b.String();
  if (a.IsList() && b.IsList()) {
    const List &x = a.Items(), &y = b.Items();
    if (x.size() != y.size() || x.is_tuple != y.is_tuple) return false;
    for (size_t i = 0; i < x.size(); ++i) {
      if (!EqualAt(x[i], y[i], depth + 1)) return false;
    }
    return true;
  }
  if (a.IsDict() && b.IsDict()) {
    const Dict &x = a.Members(), &y = b.Members();
    if (&x == &y) return true;
    if (x.is_namespace || y.is_namespace || x.items.size() != y.items.size()) return false;
    for (const auto& [key, item] : x.items) {
      const Value* other = y.Find(key);
      if (other == nullptr || !EqualAt(item, *other, depth + 1)) return false;
    }
    return true;
  }
  return (a.IsNone() && b.IsNone()) || (a.IsUndefined() && b.IsUndefined());
}

}  // namespace

const Value* Dict::Find(std::string_view key) const {
  for (const auto& [name, value] : items) {
    if (name == key) return &value;
  }
  return nullptr;
}

void Dict::Set(std::string_view key, Value value) {
  for (auto& [name, old] : items) {
    if (name == key) {
      old = std::move(value);
      return;
    }
  }
  items.emplace_back(key, std::move(value));
}

bool Value::IsTrue() const {
  if (IsUndefined() || IsNone()) return false;
  if (Is<double>()) return Number() != 0;
  if (IsInteger()) return Int() != 0;
  if (IsString()) return !String().empty();
  if (IsList()) return !Items().empty();
  if (IsDict()) return Members().is_namespace || !Members().items.empty();
  return true;
}

const char* Value::TypeName() const {
  static constexpr const char* kNames[] = {"undefined", "none", "boolean",  "integer",  "float", "string",
                                           "list",      "dict", "function", "function", "loop"};
  return IsDict() && Members().is_namespace ? "namespace" : kNames[variant_.index()];
}

bool Value::Equals(const Value& other) const { return EqualAt(*this, other, 0); }

MarkedText ToText(const Value& value) {
  if (value.IsString()) return value.Text();
  MarkedText out;
  if (value.IsList() || value.IsDict()) {
    AppendRepr(value, 0, out);
  } else if (value.IsNone()) {
    out.text = "None";
  } else if (value.Is<bool>()) {
    out.text = value.Int() != 0 ? "True" : "False";
  } else if (value.Is<int64_t>()) {
    out.text = fmt::format("{}", value.Int());
  } else if (value.Is<double>()) {
    out.text = FloatText(value.Number());
  } else if (!value.IsUndefined()) {
    out.text = fmt::format("<{}>", value.TypeName());
  }
  return out;
}

bool ToJson(const Value& value, int indent, MarkedText& out) { return AppendJson(value, indent, 0, out); }

Value KeyOf(const Dict& dict, std::string key) {
  return dict.has_literal_keys ? Value::MakeText(MarkedText::Literal(std::move(key)))
                               : Value::MakeString(std::move(key));
}

size_t NumCharacters(std::string_view text) {
  size_t count = 0;
  for (const char c : text) count += (static_cast<uint8_t>(c) & 0xc0) != 0x80;
  return count;
}

std::string_view Characters(std::string_view text, size_t begin, size_t end) {
  const auto byte_of = [&](size_t character, size_t from) {
    size_t pos = from;
    for (; character > 0 && pos < text.size(); --character) NextCodePoint(text, pos);
    return pos;
  };
  if (end <= begin) return {};
  const size_t first = byte_of(begin, 0);
  return text.substr(first, byte_of(end - begin, first) - first);
}

}  // namespace cachette::jinja
