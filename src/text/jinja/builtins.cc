#include "text/jinja/builtins.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "text/utf8.h"

namespace cachette::jinja {
namespace {

constexpr std::string_view kFilters[] = {
    "abs",    "capitalize", "count",      "d",       "default", "dictsort", "first",  "float",      "indent",
    "int",    "items",      "join",       "last",    "length",  "list",     "lower",  "map",        "max",
    "min",    "reject",     "rejectattr", "replace", "reverse", "safe",     "select", "selectattr", "sort",
    "string", "title",      "tojson",     "trim",    "unique",  "upper"};
constexpr std::string_view kTests[] = {"boolean",  "callable", "defined", "divisibleby", "eq",   "equalto", "even",
                                       "false",    "float",    "ge",      "gt",          "in",   "integer", "iterable",
                                       "le",       "lt",       "mapping", "ne",          "none", "number",  "odd",
                                       "sequence", "string",   "true",    "undefined"};
constexpr std::string_view kMethods[] = {"capitalize",   "count",   "endswith", "find",   "format", "get",
                                         "items",        "join",    "keys",     "lower",  "lstrip", "removeprefix",
                                         "removesuffix", "replace", "rsplit",   "rstrip", "split",  "splitlines",
                                         "startswith",   "strip",   "title",    "upper",  "values"};
constexpr std::string_view kFunctions[] = {"dict", "namespace", "raise_exception", "range", "strftime_now"};

Failure WrongType(std::string_view what, const Value& value) {
  if (value.IsUndefined()) {
    return Fail(Error::kInvalidArgument,
                fmt::format("{} needs a value, but \"{}\" is undefined", what, value.As<Undefined>().name));
  }
  return Fail(Error::kInvalidArgument, fmt::format("{} does not take a value of type {}", what, value.TypeName()));
}

Failure Missing(std::string_view what, std::string_view argument) {
  return Fail(Error::kInvalidArgument, fmt::format("{} needs the argument \"{}\"", what, argument));
}

bool IsAscii(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return static_cast<uint8_t>(c) < 0x80; });
}
char AsciiUpper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; }
char AsciiLower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

// upper, lower, title, capitalize. Other letters' case needs tables this project does not carry.
Result<Value> ChangeCase(std::string_view how, MarkedText text) {
  if (!IsAscii(text.text)) {
    return Fail(Error::kUnsupported, fmt::format("\"{}\" of text that is not ASCII is not supported", how));
  }
  bool starts_word = true;
  for (char& c : text.text) {
    const bool is_letter = AsciiLower(c) >= 'a' && AsciiLower(c) <= 'z';
    c = how == "upper" || (how != "lower" && starts_word) ? AsciiUpper(c) : AsciiLower(c);
    starts_word = how == "title" && !is_letter;
  }
  return Value::MakeText(std::move(text));
}

// Jinja's title filter starts words only behind white space and -([{<; Python's method behind anything but a letter.
Result<Value> TitleFilter(MarkedText text) {
  if (!IsAscii(text.text)) return Fail(Error::kUnsupported, "\"title\" of text that is not ASCII is not supported");
  bool starts_word = true;
  for (char& c : text.text) {
    c = starts_word ? AsciiUpper(c) : AsciiLower(c);
    starts_word = std::string_view(" \t\n\r\f\v-([{<").find(c) != std::string_view::npos;
  }
  return Value::MakeText(std::move(text));
}

// Python's str.strip, lstrip, rstrip; characters == nullptr: white space.
std::string_view Strip(std::string_view text, const std::string* characters, bool left, bool right) {
  std::vector<uint32_t> set;
  if (characters != nullptr) {
    for (size_t pos = 0; pos < characters->size();) set.push_back(NextCodePoint(*characters, pos));
  }
  const auto goes = [&](uint32_t c) {
    return characters == nullptr ? IsPythonSpace(c) : std::ranges::find(set, c) != set.end();
  };
  while (left && !text.empty()) {
    size_t pos = 0;
    if (!goes(NextCodePoint(text, pos))) break;
    text.remove_prefix(pos);
  }
  while (right && !text.empty()) {
    size_t last = text.size() - 1;
    while ((static_cast<uint8_t>(text[last]) & 0xc0) == 0x80) --last;
    size_t pos = last;
    if (!goes(NextCodePoint(text, pos))) break;
    text = text.substr(0, last);
  }
  return text;
}

// Strip with the optional argument of the method or filter.
Result<Value> StripBy(std::string_view what, const MarkedText& text, const CallArguments& arguments, bool left,
                      bool right) {
  const Value* characters = arguments.Get(0, "chars");
  if (characters != nullptr && !characters->IsString() && !characters->IsNone()) return WrongType(what, *characters);
  const bool has_set = characters != nullptr && characters->IsString();
  return Value::MakeText(text.Part(Strip(text.text, has_set ? &characters->String() : nullptr, left, right)));
}

Result<Value> Replace(const MarkedText& text, const CallArguments& arguments) {
  const Value *from = arguments.Get(0, "old"), *to = arguments.Get(1, "new"), *count = arguments.Get(2, "count");
  if (from == nullptr || to == nullptr) return Missing("replace", from == nullptr ? "old" : "new");
  if (!from->IsString()) return WrongType("replace", *from);
  if (!to->IsString()) return WrongType("replace", *to);
  if (from->String().empty()) return Fail(Error::kUnsupported, "replace of an empty string is not supported");
  int64_t left = count != nullptr && count->IsInteger() && count->Int() >= 0 ? count->Int() : INT64_MAX;
  MarkedText out;
  std::string_view rest = text.text;
  for (size_t at; left > 0 && (at = rest.find(from->String())) != std::string_view::npos; --left) {
    out.Append(text.Part(rest.substr(0, at)));
    out.Append(to->Text());
    rest.remove_prefix(at + from->String().size());
  }
  out.Append(text.Part(rest));
  return Value::MakeText(std::move(out));
}

// str.split without a separator: words between white space; with at most max_splits cuts, the rest stays whole.
List SplitWords(const MarkedText& text, int64_t max_splits) {
  List parts;
  for (std::string_view rest = text.text;;) {
    rest = Strip(rest, nullptr, /*left=*/true, /*right=*/false);
    if (rest.empty()) return parts;
    if (static_cast<int64_t>(parts.size()) == max_splits) {
      parts.push_back(Value::MakeText(text.Part(rest)));
      return parts;
    }
    size_t end = 0;
    for (size_t pos = 0; pos < rest.size(); end = pos) {
      if (IsPythonSpace(NextCodePoint(rest, pos))) break;
    }
    parts.push_back(Value::MakeText(text.Part(rest.substr(0, end))));
    rest.remove_prefix(end);
  }
}

Result<Value> Split(std::string_view method, const MarkedText& text, const CallArguments& arguments) {
  const Value *separator = arguments.Get(0, "sep"), *most = arguments.Get(1, "maxsplit");
  if (most != nullptr && !most->IsInteger()) return WrongType(method, *most);
  const int64_t max_splits = most == nullptr || most->Int() < 0 ? INT64_MAX : most->Int();
  const bool from_right = method == "rsplit";
  if (separator == nullptr || separator->IsNone()) {
    if (from_right) return Fail(Error::kUnsupported, "rsplit without a separator is not supported");
    return Value::MakeList(SplitWords(text, max_splits));
  }
  if (!separator->IsString()) return WrongType(method, *separator);
  const std::string& by = separator->String();
  if (by.empty()) return Fail(Error::kInvalidArgument, "split needs a separator that is not empty");
  List parts;
  std::string_view rest = text.text;
  while (static_cast<int64_t>(parts.size()) < max_splits) {
    const size_t at = from_right ? rest.rfind(by) : rest.find(by);
    if (at == std::string_view::npos) break;
    const std::string_view before = rest.substr(0, at), behind = rest.substr(at + by.size());
    parts.push_back(Value::MakeText(text.Part(from_right ? behind : before)));
    rest = from_right ? before : behind;
  }
  parts.push_back(Value::MakeText(text.Part(rest)));
  if (from_right) std::ranges::reverse(parts);
  return Value::MakeList(std::move(parts));
}

Result<Value> SplitLines(const MarkedText& marked) {
  const std::string_view text = marked.text;
  List lines;
  size_t begin = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\n' && text[i] != '\r') continue;
    lines.push_back(Value::MakeText(marked.Part(begin, i - begin)));
    if (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n') ++i;
    begin = i + 1;
  }
  if (begin < text.size()) lines.push_back(Value::MakeText(marked.Part(text.substr(begin))));
  return Value::MakeList(std::move(lines));
}

Result<Value> StartsOrEnds(std::string_view method, std::string_view text, const CallArguments& arguments) {
  const Value* affix = arguments.Get(0, "prefix");
  if (affix == nullptr) return Missing(method, "prefix");
  if (arguments.positional.size() > 1)
    return Fail(Error::kUnsupported, fmt::format("{} with a position is not supported", method));
  const auto fits = [&](const Value& one) {
    return one.IsString() && (method == "startswith" ? text.starts_with(one.String()) : text.ends_with(one.String()));
  };
  if (affix->IsString()) return Value::MakeBool(fits(*affix));
  if (!affix->IsList()) return WrongType(method, *affix);
  return Value::MakeBool(std::ranges::any_of(affix->Items(), fits));
}

// str.format with plain {} fields.
Result<Value> Format(const MarkedText& marked, const CallArguments& arguments) {
  const std::string_view text = marked.text;
  MarkedText out;
  size_t next = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const std::string_view two = text.substr(i, 2);
    if (two == "{{" || two == "}}") {
      out.Append(marked.Part(i++, 1));
    } else if (two == "{}") {
      if (next == arguments.positional.size())
        return Fail(Error::kInvalidArgument, "format has fewer arguments than {} fields");
      out.Append(ToText(arguments.positional[next++]));
      ++i;
    } else if (text[i] == '{' || text[i] == '}') {
      return Fail(Error::kUnsupported, "format supports plain {} fields only");
    } else {
      out.Append(marked.Part(i, 1));
    }
  }
  return Value::MakeText(std::move(out));
}

Result<Value> Join(const Value& items, const Value& separator, bool strict) {
  if (!separator.IsString()) return WrongType("join", separator);
  CACHETTE_TRY(const List list, ItemsOf(items));
  MarkedText out;
  for (size_t i = 0; i < list.size(); ++i) {
    if (strict && !list[i].IsString()) return WrongType("join", list[i]);
    if (list[i].IsSafe() || separator.IsSafe()) return SafeRefused("join");
    if (i > 0) out.Append(separator.Text());
    out.Append(ToText(list[i]));
  }
  return Value::MakeText(std::move(out));
}

List Pairs(const Dict& dict) {
  List pairs;
  for (const auto& [key, value] : dict.items) {
    List pair{KeyOf(dict, key), value};
    pair.is_tuple = true;
    pairs.push_back(Value::MakeList(std::move(pair)));
  }
  return pairs;
}

Result<Value> CallStringMethod(std::string_view name, const MarkedText& marked, const CallArguments& arguments) {
  const std::string& text = marked.text;
  if (name == "strip") return StripBy(name, marked, arguments, true, true);
  if (name == "lstrip") return StripBy(name, marked, arguments, true, false);
  if (name == "rstrip") return StripBy(name, marked, arguments, false, true);
  if (name == "split" || name == "rsplit") return Split(name, marked, arguments);
  if (name == "splitlines" && arguments.positional.empty()) return SplitLines(marked);
  if (name == "startswith" || name == "endswith") return StartsOrEnds(name, text, arguments);
  if (name == "replace") return Replace(marked, arguments);
  if (name == "upper" || name == "lower" || name == "title" || name == "capitalize") return ChangeCase(name, marked);
  if (name == "format") return Format(marked, arguments);
  const Value* argument = arguments.Get(0, "");
  if (argument == nullptr) return Missing(name, "text");
  if (name == "join") return Join(*argument, Value::MakeText(marked), /*strict=*/true);
  if (!argument->IsString()) return WrongType(name, *argument);
  const std::string& part = argument->String();
  if (name == "find") {
    const size_t at = text.find(part);
    return Value::MakeInt(
        at == std::string::npos ? -1 : static_cast<int64_t>(NumCharacters(std::string_view(text).substr(0, at))));
  }
  if (name == "count" && !part.empty()) {
    int64_t count = 0;
    for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++count;
    return Value::MakeInt(count);
  }
  const size_t rest = text.size() - std::min(part.size(), text.size());
  if (name == "removeprefix") return Value::MakeText(text.starts_with(part) ? marked.Part(part.size(), rest) : marked);
  if (name == "removesuffix") return Value::MakeText(text.ends_with(part) ? marked.Part(0, rest) : marked);
  return Fail(Error::kUnsupported,
              fmt::format("the method \".{}()\" of a string with these arguments is not supported", name));
}

Result<Value> CallDictMethod(std::string_view name, const Dict& dict, const CallArguments& arguments) {
  if (name == "get") {
    const Value* key = arguments.Get(0, "key");
    if (key == nullptr) return Missing("get", "key");
    const Value* found = key->IsString() ? dict.Find(key->String()) : nullptr;
    const Value* fallback = arguments.Get(1, "default");
    return found != nullptr ? *found : fallback != nullptr ? *fallback : Value::MakeNone();
  }
  if (name == "items") return Value::MakeList(Pairs(dict));
  List list;
  for (const auto& [key, value] : dict.items) list.push_back(name == "keys" ? KeyOf(dict, key) : value);
  if (name == "keys" || name == "values") return Value::MakeList(std::move(list));
  return Fail(Error::kUnsupported, fmt::format("the method \".{}()\" of a dict is not supported", name));
}

// Attribute "a.b" of an item, as map, selectattr and rejectattr take it.
Result<Value> AttributeOf(Value value, std::string_view path) {
  for (;;) {
    const size_t point = path.find('.');
    const std::string_view name = path.substr(0, point);
    if (value.IsDict() && value.Members().Find(name) != nullptr) {
      value = Value(*value.Members().Find(name));
    } else {
      CACHETTE_TRY(value, MemberOf(value, name));
    }
    if (point == std::string_view::npos) return value;
    path.remove_prefix(point + 1);
  }
}

bool IsName(const Value& value, std::span<const std::string_view> names) {
  return value.IsString() && std::ranges::find(names, value.String()) != names.end();
}

CallArguments Behind(const CallArguments& arguments, size_t num_taken) {
  CallArguments rest;
  rest.named = arguments.named;
  for (size_t i = num_taken; i < arguments.positional.size(); ++i) rest.positional.push_back(arguments.positional[i]);
  return rest;
}

// select, reject, selectattr, rejectattr.
Result<Value> SelectItems(std::string_view name, const Value& value, const CallArguments& arguments) {
  const bool by_attribute = name.ends_with("attr");
  const bool keeps_true = name.starts_with("select");
  size_t taken = 0;
  std::string path;
  if (by_attribute) {
    const Value* attribute = arguments.Get(0, "");
    if (attribute == nullptr || !attribute->IsString()) return Missing(name, "attribute");
    path = attribute->String();
    taken = 1;
  }
  const Value* test = taken < arguments.positional.size() ? &arguments.positional[taken] : nullptr;
  if (test != nullptr && !IsName(*test, kTests))
    return Fail(Error::kUnsupported, fmt::format("{} needs the name of a supported test", name));
  const CallArguments test_arguments = Behind(arguments, taken + 1);
  List kept;
  if (!value.IsTrue()) return Value::MakeList({});  // none too, as in Jinja
  CACHETTE_TRY(const List items, ItemsOf(value));
  for (const Value& item : items) {
    Value subject = item;
    if (by_attribute) {
      CACHETTE_TRY(subject, AttributeOf(item, path));
    }
    bool passes = subject.IsTrue();
    if (test != nullptr) {
      CACHETTE_TRY(passes, ApplyTest(test->String(), subject, test_arguments));
    }
    if (passes == keeps_true) kept.push_back(item);
  }
  return Value::MakeList(std::move(kept));
}

Result<Value> MapItems(const Value& value, const CallArguments& arguments) {
  List out;
  if (!value.IsTrue()) return Value::MakeList({});  // none too, as in Jinja
  CACHETTE_TRY(const List items, ItemsOf(value));
  const Value* attribute = arguments.Get(SIZE_MAX, "attribute");
  const Value* fallback = arguments.Get(SIZE_MAX, "default");
  if (attribute == nullptr && arguments.positional.empty()) return Missing("map", "attribute");
  if (attribute != nullptr && !attribute->IsString()) return WrongType("map", *attribute);
  if (attribute == nullptr && !IsName(arguments.positional[0], kFilters)) {
    return Fail(Error::kUnsupported, "map needs the name of a supported filter, or an attribute");
  }
  const CallArguments filter_arguments = Behind(arguments, 1);
  for (const Value& item : items) {
    Value mapped;
    if (attribute == nullptr) {
      CACHETTE_TRY(mapped, ApplyFilter(arguments.positional[0].String(), item, filter_arguments));
    } else {
      CACHETTE_TRY(mapped, AttributeOf(item, attribute->String()));
      if (mapped.IsUndefined() && fallback != nullptr) mapped = *fallback;
    }
    out.push_back(std::move(mapped));
  }
  return Value::MakeList(std::move(out));
}

// What sort, unique, min and max compare: strings without regard to case, as Jinja does unless told otherwise.
Result<Value> ComparisonKey(std::string_view filter, const Value& item, const Value* attribute) {
  Value key = item;
  if (attribute != nullptr && !attribute->IsNone()) {
    if (!attribute->IsString()) return WrongType(filter, *attribute);
    CACHETTE_TRY(key, AttributeOf(item, attribute->String()));
  }
  if (!key.IsString()) return key;
  CACHETTE_TRY(key, ChangeCase("lower", key.Text()));
  return key;
}

Result<Value> OrderItems(std::string_view name, const Value& value, const CallArguments& arguments) {
  for (const auto& [argument, given] : arguments.named) {
    if (argument != "attribute" && !(argument == "reverse" && name == "sort")) {
      return Fail(Error::kUnsupported, fmt::format("{} with the argument \"{}\" is not supported", name, argument));
    }
  }
  if (!arguments.positional.empty())
    return Fail(Error::kUnsupported, fmt::format("{} with an unnamed argument is not supported", name));
  CACHETTE_TRY(const List items, ItemsOf(value));
  std::vector<std::pair<Value, size_t>> keys;
  for (size_t i = 0; i < items.size(); ++i) {
    CACHETTE_TRY(Value key, ComparisonKey(name, items[i], arguments.Get(SIZE_MAX, "attribute")));
    if (name != "unique") {
      CACHETTE_TRY(const bool comparable, IsLess(key, key));
      if (comparable || (i > 0 && key.IsString() != keys[0].first.IsString())) return WrongType(name, key);
    }
    keys.emplace_back(std::move(key), i);
  }
  List out;
  if (name == "unique") {
    for (size_t i = 0; i < keys.size(); ++i) {
      const auto earlier = keys.begin() + static_cast<ptrdiff_t>(i);
      if (std::none_of(keys.begin(), earlier, [&](const auto& key) { return key.first.Equals(keys[i].first); }))
        out.push_back(items[i]);
    }
    return Value::MakeList(std::move(out));
  }
  const auto less = [](const auto& a, const auto& b) { return *IsLess(a.first, b.first); };
  if (name == "sort") {
    const Value* reverse = arguments.Get(SIZE_MAX, "reverse");
    const bool descends = reverse != nullptr && reverse->IsTrue();
    std::stable_sort(keys.begin(), keys.end(),
                     [&](const auto& a, const auto& b) { return descends ? less(b, a) : less(a, b); });
    for (const auto& [key, i] : keys) out.push_back(items[i]);
    return Value::MakeList(std::move(out));
  }
  if (keys.empty()) return Value::MakeUndefined(fmt::format("{} of an empty list", name));
  const auto found = name == "min" ? std::min_element(keys.begin(), keys.end(), less)
                                   : std::max_element(keys.begin(), keys.end(), less);
  return items[found->second];
}

Result<Value> DictSort(const Value& value, const CallArguments& arguments) {
  if (!value.IsDict()) return WrongType("dictsort", value);
  if (!arguments.positional.empty() || !arguments.named.empty()) {
    return Fail(Error::kUnsupported, "dictsort with arguments is not supported");
  }
  std::vector<std::pair<std::string, size_t>> order;
  const auto& items = value.Members().items;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!IsAscii(items[i].first))
      return Fail(Error::kUnsupported, "dictsort of keys that are not ASCII is not supported");
    std::string key = items[i].first;
    std::ranges::transform(key, key.begin(), AsciiLower);  // case-insensitive unless told otherwise
    order.emplace_back(std::move(key), i);
  }
  std::ranges::sort(order);
  Dict sorted;
  sorted.has_literal_keys = value.Members().has_literal_keys;
  for (const auto& [key, i] : order) sorted.items.push_back(items[i]);
  return Value::MakeList(Pairs(sorted));
}

// JSON text with \u escapes, in surrogate pairs where need be.
std::string EscapeNonAscii(std::string_view json) {
  std::string out;
  for (size_t pos = 0; pos < json.size();) {
    const uint32_t c = NextCodePoint(json, pos);
    if (c < 0x80) {
      out += static_cast<char>(c);
    } else if (c < 0x10000) {
      out += fmt::format("\\u{:04x}", c);
    } else {
      out += fmt::format("\\u{:04x}\\u{:04x}", 0xd7c0 + (c >> 10), 0xdc00 + (c & 0x3ff));
    }
  }
  return out;
}

Result<Value> ToJsonFilter(const Value& value, const CallArguments& arguments) {
  const Value* indent = arguments.Get(SIZE_MAX, "indent");
  bool ascii_only = false;
  for (const auto& [name, argument] : arguments.named) {
    if (name == "ensure_ascii") {
      ascii_only = argument.IsTrue();
    } else if (name != "indent") {
      return Fail(Error::kUnsupported, fmt::format("tojson with the argument \"{}\" is not supported", name));
    }
  }
  if (!arguments.positional.empty())
    return Fail(Error::kUnsupported, "tojson with an unnamed argument is not supported");
  const bool has_indent = indent != nullptr && !indent->IsNone();
  if (has_indent && (!indent->IsInteger() || indent->Int() < 0 || indent->Int() > 16))
    return WrongType("tojson(indent)", *indent);
  MarkedText out;
  if (!ToJson(value, has_indent ? static_cast<int>(indent->Int()) : -1, out)) return WrongType("tojson", value);
  if (ascii_only && !IsAscii(out.text)) {
    std::string escaped = EscapeNonAscii(out.text);
    out = out.literal.empty() ? MarkedText{std::move(escaped)} : MarkedText::Literal(std::move(escaped));
  }
  return Value::MakeText(std::move(out));
}

Result<Value> Indent(const MarkedText& text, const CallArguments& arguments) {
  const Value *width = arguments.Get(0, "width"), *first = arguments.Get(1, "first"),
              *blank = arguments.Get(2, "blank");
  std::string space(4, ' ');
  if (width != nullptr && width->IsString()) {
    space = width->String();
  } else if (width != nullptr) {
    if (!width->IsInteger() || width->Int() < 0 || width->Int() > 1000) return WrongType("indent", *width);
    space.assign(static_cast<size_t>(width->Int()), ' ');
  }
  const bool with_blank = blank != nullptr && blank->IsTrue();
  MarkedText out = {first != nullptr && first->IsTrue() ? space : ""};
  std::string_view rest = text.text;
  for (size_t line = 0;; ++line) {
    const size_t end = rest.find('\n');
    const std::string_view content = rest.substr(0, end);
    if (line > 0 && (!content.empty() || with_blank)) out.Append(space);
    if (end == std::string_view::npos) {
      out.Append(text.Part(content));
      break;
    }
    out.Append(text.Part(rest.substr(0, end + 1)));
    rest.remove_prefix(end + 1);
  }
  return Value::MakeText(std::move(out));
}

// int and float: the fall-back when text is not a number.
Result<Value> ToNumber(bool to_int, const Value& value, const CallArguments& arguments) {
  const Value* fallback = arguments.Get(0, "default");
  const Value otherwise = fallback != nullptr ? *fallback : to_int ? Value::MakeInt(0) : Value::MakeFloat(0);
  double number = 0;
  if (value.IsInteger() && to_int) return Value::MakeInt(value.Int());
  if (value.IsNumber()) {
    number = value.Number();
  } else if (value.IsString()) {
    const std::string_view text = Strip(value.String(), nullptr, true, true);
    const char* end = text.data() + text.size();
    int64_t integer = 0;
    if (const auto read = std::from_chars(text.data(), end, integer);
        to_int && read.ec == std::errc() && read.ptr == end) {
      return Value::MakeInt(integer);
    }
    if (const auto read = std::from_chars(text.data(), end, number); read.ec != std::errc() || read.ptr != end)
      return otherwise;
  } else {
    return otherwise;
  }
  if (!to_int) return Value::MakeFloat(number);
  if (!(std::fabs(number) < 9e18)) return otherwise;
  return Value::MakeInt(static_cast<int64_t>(number));
}

Result<Value> Length(const Value& value) {
  if (value.IsString()) return Value::MakeInt(static_cast<int64_t>(NumCharacters(value.String())));
  if (value.IsList()) return Value::MakeInt(static_cast<int64_t>(value.Items().size()));
  if (value.IsDict() && !value.Members().is_namespace)
    return Value::MakeInt(static_cast<int64_t>(value.Members().items.size()));
  if (value.IsUndefined()) return Value::MakeInt(0);
  return WrongType("length", value);
}

Result<Value> FirstOrLast(bool first, const Value& value) {
  CACHETTE_TRY(const List items, ItemsOf(value));
  if (items.empty()) return Value::MakeUndefined(first ? "first item of an empty list" : "last item of an empty list");
  return first ? items.front() : items.back();
}

}  // namespace

std::span<const std::string_view> FilterNames() { return kFilters; }
std::span<const std::string_view> TestNames() { return kTests; }
std::span<const std::string_view> MethodNames() { return kMethods; }
std::span<const std::string_view> FunctionNames() { return kFunctions; }

const Value* CallArguments::Get(size_t i, std::string_view name) const {
  if (i < positional.size()) return &positional[i];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

Failure SafeRefused(std::string_view what) {
  return Fail(Error::kUnsupported,
              fmt::format("{} of a string marked \"safe\" is not supported; leave the filter out", what));
}

Result<Value> ApplyFilter(std::string_view name, const Value& value, const CallArguments& arguments) {
  static constexpr std::string_view kHarmless[] = {"safe", "string", "length", "count", "default",
                                                   "d",    "tojson", "list",   "first", "last"};
  if (value.IsSafe() && std::ranges::find(kHarmless, name) == std::end(kHarmless)) {
    return SafeRefused(fmt::format("the filter \"{}\"", name));
  }
  if (name == "default" || name == "d") {
    const Value *fallback = arguments.Get(0, "default_value"), *also_false = arguments.Get(1, "boolean");
    const bool replaces = value.IsUndefined() || (also_false != nullptr && also_false->IsTrue() && !value.IsTrue());
    return !replaces ? value : fallback != nullptr ? *fallback : Value::MakeString("");
  }
  if (name == "length" || name == "count") return Length(value);
  if (name == "tojson") return ToJsonFilter(value, arguments);
  if (name == "trim") return StripBy(name, ToText(value), arguments, true, true);
  if (name == "upper" || name == "lower" || name == "capitalize") return ChangeCase(name, ToText(value));
  if (name == "title") return TitleFilter(ToText(value));
  if (name == "safe") return Value::MakeText(ToText(value)).AsSafe();
  if (name == "string") return value.IsSafe() ? value : Value::MakeText(ToText(value));
  if (name == "replace") return Replace(ToText(value), arguments);
  if (name == "indent") return Indent(ToText(value), arguments);
  if (name == "int" || name == "float") return ToNumber(name == "int", value, arguments);
  if (name == "first" || name == "last") return FirstOrLast(name == "first", value);
  if (name == "map") return MapItems(value, arguments);
  if (name == "sort" || name == "unique" || name == "min" || name == "max") return OrderItems(name, value, arguments);
  if (name == "dictsort") return DictSort(value, arguments);
  if (name == "items") {
    if (value.IsUndefined()) return Value::MakeList({});
    if (!value.IsDict()) return WrongType("items", value);
    return Value::MakeList(Pairs(value.Members()));
  }
  if (name == "abs") {
    if (value.Is<double>()) return Value::MakeFloat(std::fabs(value.Number()));
    if (!value.IsInteger() || value.Int() == INT64_MIN) return WrongType("abs", value);
    return Value::MakeInt(std::abs(value.Int()));
  }
  if (name == "join") {
    const Value* separator = arguments.Get(0, "d");
    const Value* attribute = arguments.Get(1, "attribute");
    if (attribute != nullptr && !attribute->IsNone())
      return Fail(Error::kUnsupported, "join by attribute is not supported; use map");
    return Join(value, separator != nullptr ? *separator : Value::MakeString(""), /*strict=*/false);
  }
  if (name == "list" || name == "reverse") {
    CACHETTE_TRY(List items, ItemsOf(value));
    if (name == "reverse") std::ranges::reverse(items);
    if (name == "reverse" && value.IsString())
      return Join(Value::MakeList(std::move(items)), Value::MakeString(""), true);
    return Value::MakeList(std::move(items));
  }
  return SelectItems(name, value, arguments);
}

Result<bool> ApplyTest(std::string_view name, const Value& value, const CallArguments& arguments) {
  if (name == "defined") return !value.IsUndefined();
  if (name == "undefined") return value.IsUndefined();
  if (name == "none") return value.IsNone();
  if (name == "string") return value.IsString();
  if (name == "boolean") return value.Is<bool>();
  if (name == "true" || name == "false") return value.Is<bool>() && value.IsTrue() == (name == "true");
  if (name == "integer") return value.Is<int64_t>();
  if (name == "float") return value.Is<double>();
  if (name == "number") return value.IsNumber();
  if (name == "mapping") return value.IsDict() && !value.Members().is_namespace;
  if (name == "iterable" || name == "sequence") {
    return value.IsList() || value.IsString() || value.IsUndefined() ||
           (value.IsDict() && !value.Members().is_namespace);
  }
  if (name == "callable") return value.Is<Macro>() || value.Is<Function>() || value.IsUndefined();
  if (name == "odd" || name == "even") {
    if (!value.IsInteger()) return WrongType(name, value);
    return (value.Int() % 2 != 0) == (name == "odd");
  }
  const Value* other = arguments.Get(0, "other");
  if (other == nullptr) return Missing(fmt::format("is {}", name), "other");
  if (name == "divisibleby") {
    if (!value.IsInteger() || !other->IsInteger() || other->Int() == 0) return WrongType(name, value);
    return other->Int() == -1 || value.Int() % other->Int() == 0;
  }
  if (name == "eq" || name == "equalto") return value.Equals(*other);
  if (name == "ne") return !value.Equals(*other);
  if (name == "in") return Contains(*other, value);
  const bool swaps = name == "gt" || name == "le";  // a > b is b < a, a <= b is not (b < a)
  CACHETTE_TRY(const bool is_less, swaps ? IsLess(*other, value) : IsLess(value, *other));
  return name == "lt" || name == "gt" ? is_less : !is_less;
}

Result<Value> CallMethod(std::string_view name, const Value& value, const CallArguments& arguments) {
  const auto is_safe = [](const Value& argument) { return argument.IsSafe(); };
  const bool only_tests = name == "startswith" || name == "endswith" || name == "find" || name == "count";
  if (!only_tests && (value.IsSafe() || (value.IsString() && std::ranges::any_of(arguments.positional, is_safe)))) {
    return SafeRefused(fmt::format("the method \".{}()\"", name));
  }
  if (value.IsString()) return CallStringMethod(name, value.Text(), arguments);
  if (value.IsDict()) return CallDictMethod(name, value.Members(), arguments);
  if (value.IsUndefined()) return WrongType(fmt::format("the method \".{}()\"", name), value);
  return Fail(Error::kInvalidArgument,
              fmt::format("a value of type {} has no method \".{}()\"", value.TypeName(), name));
}

Result<Value> MemberOf(const Value& value, std::string_view name) {
  if (value.IsUndefined()) {
    return Fail(Error::kInvalidArgument,
                fmt::format("\"{}\" is undefined and has no \".{}\"", value.As<Undefined>().name, name));
  }
  if (value.Is<std::shared_ptr<LoopState>>()) {
    const LoopState& loop = *value.As<std::shared_ptr<LoopState>>();
    const size_t num_items = loop.items->size();
    const auto integer = [](size_t i) { return Value::MakeInt(static_cast<int64_t>(i)); };
    if (name == "index") return integer(loop.index0 + 1);
    if (name == "index0") return integer(loop.index0);
    if (name == "revindex") return integer(num_items - loop.index0);
    if (name == "revindex0") return integer(num_items - loop.index0 - 1);
    if (name == "first") return Value::MakeBool(loop.index0 == 0);
    if (name == "last") return Value::MakeBool(loop.index0 + 1 == num_items);
    if (name == "length") return integer(num_items);
    if (name == "depth" || name == "depth0") return integer(name == "depth");  // counts recursive loops only
    if (name == "previtem")
      return loop.index0 > 0 ? (*loop.items)[loop.index0 - 1] : Value::MakeUndefined("loop.previtem");
    if (name == "nextitem") {
      return loop.index0 + 1 < num_items ? (*loop.items)[loop.index0 + 1] : Value::MakeUndefined("loop.nextitem");
    }
    return Fail(Error::kUnsupported, fmt::format("\"loop.{}\" is not supported", name));
  }
  const bool is_namespace = value.IsDict() && value.Members().is_namespace;
  if (!is_namespace && (value.IsDict() || value.IsString() || value.IsList())) {
    // Python would give the method itself here, not an item of that name.
    static constexpr std::string_view kShadowed[] = {"copy",       "update",   "pop",    "popitem", "clear",
                                                     "setdefault", "fromkeys", "append", "extend",  "insert",
                                                     "remove",     "sort",     "index",  "encode"};
    const bool is_method = std::ranges::find(kShadowed, name) != std::end(kShadowed) ||
                           std::ranges::find(kMethods, name) != std::end(kMethods);
    const bool of_this_type = !value.IsDict() || name == "items" || name == "keys" || name == "values" ||
                              name == "get" || name == "copy" || name == "update" || name == "pop" ||
                              name == "popitem" || name == "clear" || name == "setdefault" || name == "fromkeys";
    if (is_method && of_this_type) {
      return Fail(Error::kUnsupported, fmt::format("\".{}\" names a method of a {}; call it, or use [\"{}\"]", name,
                                                   value.TypeName(), name));
    }
  }
  const Value* found = value.IsDict() ? value.Members().Find(name) : nullptr;
  return found != nullptr ? *found : Value::MakeUndefined(std::string(name));
}

Result<List> ItemsOf(const Value& value) {
  if (value.IsList()) {
    List items = value.Items();
    items.is_tuple = false;
    return items;
  }
  List items;
  if (value.IsUndefined()) return items;
  if (value.IsDict() && !value.Members().is_namespace) {
    for (const auto& [key, item] : value.Members().items) items.push_back(KeyOf(value.Members(), key));
    return items;
  }
  if (!value.IsString()) return WrongType("a loop", value);
  const std::string& text = value.String();
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    NextCodePoint(text, pos);
    items.push_back(Value::MakeText(value.Text().Part(begin, pos - begin)));
  }
  return items;
}

Result<bool> Contains(const Value& container, const Value& key) {
  if (container.IsUndefined()) return false;
  if (container.IsString()) {
    if (!key.IsString()) return WrongType("\"in\" of a string", key);
    return container.String().find(key.String()) != std::string::npos;
  }
  if (container.IsDict() && !container.Members().is_namespace) {
    return key.IsString() && container.Members().Find(key.String()) != nullptr;
  }
  if (!container.IsList()) return WrongType("\"in\"", container);
  return std::ranges::any_of(container.Items(), [&](const Value& item) { return item.Equals(key); });
}

Result<bool> IsLess(const Value& a, const Value& b) {
  if (a.IsNumber() && b.IsNumber()) return a.IsInteger() && b.IsInteger() ? a.Int() < b.Int() : a.Number() < b.Number();
  if (a.IsString() && b.IsString()) return a.String() < b.String();  // UTF-8 sorts as its code points do
  return WrongType("a comparison", a.IsNumber() || a.IsString() ? b : a);
}

}  // namespace cachette::jinja
