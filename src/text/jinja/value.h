#pragma once
// Values of the template language: Python's, as far as chat templates use them.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "text/marked_text.h"

namespace cachette::jinja {

struct MacroNode;
struct Scope;
class Value;

// A Python list or tuple: they differ in how they print and in being unequal.
struct List : std::vector<Value> {
  using std::vector<Value>::vector;
  bool is_tuple = false;
};

// Insertion order is iteration order, as in Python. Looked up by linear search: templates hold small ones.
struct Dict {
  std::vector<std::pair<std::string, Value>> items;
  bool is_namespace = false;      // namespace(): the only object whose attributes templates may set
  bool has_literal_keys = false;  // keys came from outside, see MarkedText

  const Value* Find(std::string_view key) const;
  void Set(std::string_view key, Value value);
};

struct Undefined {
  std::string name;  // what was looked up in vain, for the message when it is used
};
struct None {};
// A macro and the scope it was defined in, which outlives it unless it escaped through a namespace.
struct Macro {
  const MacroNode* node = nullptr;
  std::weak_ptr<Scope> scope;
};
// A function that every template sees: range, namespace, raise_exception, ...
struct Function {
  std::string_view name;
};
// Attributes of the variable loop.
struct LoopState {
  size_t index0 = 0;
  std::shared_ptr<const List> items;
};

// Cheap to copy: strings and containers are shared. Containers are only ever changed through a namespace.
class Value {
 public:
  using Variant =
      std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const MarkedText>,
                   std::shared_ptr<const List>, std::shared_ptr<Dict>, Macro, Function, std::shared_ptr<LoopState>>;

  Value() = default;  // undefined
  Value(Variant variant) : variant_(std::move(variant)) {}
  static Value MakeUndefined(std::string name) { return Value(Variant(Undefined{std::move(name)})); }
  static Value MakeNone() { return Value(Variant(None{})); }
  static Value MakeBool(bool b) { return Value(Variant(b)); }
  static Value MakeInt(int64_t i) { return Value(Variant(i)); }
  static Value MakeFloat(double d) { return Value(Variant(d)); }
  static Value MakeString(std::string s) { return MakeText({.text = std::move(s)}); }
  static Value MakeText(MarkedText text) { return Value(Variant(std::make_shared<const MarkedText>(std::move(text)))); }
  static Value MakeList(List list) { return Value(Variant(std::make_shared<const List>(std::move(list)))); }
  static Value MakeDict(Dict dict) { return Value(Variant(std::make_shared<Dict>(std::move(dict)))); }

  template <class T>
  bool Is() const {
    return std::holds_alternative<T>(variant_);
  }
  bool IsUndefined() const { return Is<Undefined>(); }
  bool IsNone() const { return Is<None>(); }
  bool IsString() const { return Is<std::shared_ptr<const MarkedText>>(); }
  bool IsList() const { return Is<std::shared_ptr<const List>>(); }
  bool IsDict() const { return Is<std::shared_ptr<Dict>>(); }
  bool IsInteger() const { return Is<int64_t>() || Is<bool>(); }  // Python's bool is an int
  bool IsNumber() const { return IsInteger() || Is<double>(); }

  // The value of that type; it must be of it.
  const std::string& String() const { return Text().text; }
  const MarkedText& Text() const { return *std::get<std::shared_ptr<const MarkedText>>(variant_); }
  const List& Items() const { return *std::get<std::shared_ptr<const List>>(variant_); }
  const std::shared_ptr<const List>& SharedItems() const { return std::get<std::shared_ptr<const List>>(variant_); }
  Dict& Members() const { return *std::get<std::shared_ptr<Dict>>(variant_); }
  int64_t Int() const { return Is<bool>() ? std::get<bool>(variant_) : std::get<int64_t>(variant_); }
  double Number() const { return Is<double>() ? std::get<double>(variant_) : static_cast<double>(Int()); }
  template <class T>
  const T& As() const {
    return std::get<T>(variant_);
  }

  // A string that went through the filter "safe". Jinja HTML-escapes whatever is joined to one, which no chat template
  // wants: such a value can be printed and tested, other operations on it are refused.
  Value AsSafe() const {
    Value safe = *this;
    safe.is_safe_ = true;
    return safe;
  }
  bool IsSafe() const { return is_safe_; }

  bool IsTrue() const;
  const char* TypeName() const;  // as a user would say it: "string", "list", ...
  // == of Python: numbers compare by value, containers by content, other types of different kind are unequal.
  bool Equals(const Value& other) const;

 private:
  Variant variant_;
  bool is_safe_ = false;
};

// What {{ value }} prints: Python's str(), which is "" for undefined and repr() inside containers.
MarkedText ToText(const Value& value);

// json.dumps(value, ensure_ascii=False); indent < 0: on one line. False when value holds something JSON has not.
bool ToJson(const Value& value, int indent, MarkedText& out);

// A key of dict as a string.
Value KeyOf(const Dict& dict, std::string key);

// Code points of UTF-8 text: Python counts and slices characters.
size_t NumCharacters(std::string_view text);
// Bytes of characters [begin, end) of text.
std::string_view Characters(std::string_view text, size_t begin, size_t end);

}  // namespace cachette::jinja
