#pragma once
// Options declared once: a struct names its fields in VisitOptions, and flags, JSON, help and docs are visitors over
// it.

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"

namespace cachette {

// One call per field: a reference to it (holding the default), its name, and one line of help that states the unit.
class OptionVisitor {
 public:
  virtual ~OptionVisitor() = default;
  virtual void Visit(bool& value, const char* name, const char* help) = 0;
  virtual void Visit(int64_t& value, const char* name, const char* help) = 0;
  virtual void Visit(double& value, const char* name, const char* help) = 0;
  virtual void Visit(std::string& value, const char* name, const char* help) = 0;

  template <class T>
  void operator()(T& value, const char* name, const char* help) {
    Visit(value, name, help);
  }
};

using OptionValue = std::variant<bool, int64_t, double, std::string>;

// One declared option with the value in force.
struct OptionInfo {
  std::string name;  // "protect.sinks"
  OptionValue value;
  std::string help;
};

// Calls f(value, name, help) for every option; f is a generic lambda.
template <class F>
class EachOption final : public OptionVisitor {
 public:
  explicit EachOption(F f) : f_(f) {}
  void Visit(bool& value, const char* name, const char* help) override { f_(value, name, help); }
  void Visit(int64_t& value, const char* name, const char* help) override { f_(value, name, help); }
  void Visit(double& value, const char* name, const char* help) override { f_(value, name, help); }
  void Visit(std::string& value, const char* name, const char* help) override { f_(value, name, help); }

 private:
  F f_;
};

// Appends the options of a visitable struct or part, each name after prefix.
template <class T>
void ListOptions(T& visitable, const std::string& prefix, std::vector<OptionInfo>& out) {
  EachOption visitor([&](auto& value, const char* name, const char* help) {
    out.push_back({prefix + name, value, help});
  });
  visitable.VisitOptions(visitor);
}

// Parses text into the type that value holds. Errors: kInvalidArgument, naming the option and the expected form.
Result<OptionValue> ParseOption(const std::string& name, std::string_view text, const OptionValue& type);

// Sets the option called name (without prefix) from a value of its own type; false when there is none.
template <class T>
bool SetOption(T& visitable, std::string_view name, const OptionValue& new_value) {
  bool is_found = false;
  EachOption visitor([&](auto& value, const char* declared, const char*) {
    if (name != declared) return;
    value = std::get<std::decay_t<decltype(value)>>(new_value);
    is_found = true;
  });
  visitable.VisitOptions(visitor);
  return is_found;
}

}  // namespace cachette
