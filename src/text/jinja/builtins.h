#pragma once
// Filters, tests, methods and functions of the template language: the names are the supported subset.

#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "text/jinja/value.h"

namespace cachette::jinja {

// Evaluated arguments of a filter, test, method or function.
struct CallArguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // Argument number i, or the one named so; nullptr when absent.
  const Value* Get(size_t i, std::string_view name) const;
};

std::span<const std::string_view> FilterNames();
std::span<const std::string_view> TestNames();
std::span<const std::string_view> MethodNames();
std::span<const std::string_view> FunctionNames();  // called by name; the evaluator implements them

// value | name(arguments), value is name(arguments), value.name(arguments).
// Errors: kInvalidArgument (a value of the wrong type), kUnsupported. The caller adds the line.
Result<Value> ApplyFilter(std::string_view name, const Value& value, const CallArguments& arguments);
Result<bool> ApplyTest(std::string_view name, const Value& value, const CallArguments& arguments);
Result<Value> CallMethod(std::string_view name, const Value& value, const CallArguments& arguments);

// The failure of an operation on a string marked "safe".
Failure SafeRefused(std::string_view what);

// value.name as Python's attribute access with Jinja's fall-back to items; undefined when there is none.
Result<Value> MemberOf(const Value& value, std::string_view name);
// What {% for %} walks over: items of a list, keys of a dict, characters of a string, nothing of undefined.
Result<List> ItemsOf(const Value& value);
// key in container.
Result<bool> Contains(const Value& container, const Value& key);
// a < b for two numbers or two strings.
Result<bool> IsLess(const Value& a, const Value& b);

}  // namespace cachette::jinja
