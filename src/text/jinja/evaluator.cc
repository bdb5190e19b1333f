#include "text/jinja/evaluator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "text/jinja/builtins.h"

namespace cachette::jinja {

// Variables of one block; inner scopes see outer ones and assign only their own.
struct Scope {
  std::shared_ptr<Scope> outer;
  Dict variables;
};

namespace {

using Op = Expression::Op;
using ScopePtr = std::shared_ptr<Scope>;

enum class Flow : uint8_t { kNext, kBreak, kContinue };

constexpr int kMaxEvaluationDepth = 400;  // of nested evaluation, macros calling macros included
constexpr int64_t kMaxRange = 100000;     // as Jinja's sandbox

ScopePtr Inside(const ScopePtr& outer) {
  auto scope = std::make_shared<Scope>();
  scope->outer = outer;
  return scope;
}

class Evaluator {
 public:
  explicit Evaluator(const Environment& environment) : environment_(environment) {}
  // A template may have made a namespace hold itself.
  ~Evaluator() {
    for (const Value& made : namespaces_) made.Members().items.clear();
  }

  Result<MarkedText> Run(const Body& body) {
    auto globals = std::make_shared<Scope>();
    for (const std::string_view name : FunctionNames())
      globals->variables.Set(name, Value(Value::Variant(Function{name})));
    for (const auto& [name, value] : environment_.variables.items) globals->variables.Set(name, value);
    MarkedText out;
    const ScopePtr scope = Inside(globals);
    CACHETTE_TRY(RunBody(body, scope, out));
    return out;
  }

 private:
  static Failure Bad(int line, std::string_view what, Error error = Error::kInvalidArgument) {
    return Fail(error, fmt::format("chat template line {}: {}", line, what));
  }
  // Puts the line in front of a message that has none.
  template <class T>
  static Result<T> AtLine(int line, Result<T> result) {
    return result.ok() ? std::move(result) : Bad(line, result.failure().message, result.failure().error);
  }

  struct Nesting {
    explicit Nesting(int& depth) : depth_(depth) { ++depth_; }
    ~Nesting() { --depth_; }
    int& depth_;
  };
  Result<void> Step(int line) {
    if (++steps_ > environment_.limits.steps) {
      return Bad(line, fmt::format("the template takes more than {} steps", environment_.limits.steps),
                 Error::kOutOfMemory);
    }
    if (depth_ > kMaxEvaluationDepth)
      return Bad(line, fmt::format("more than {} nested evaluations", kMaxEvaluationDepth), Error::kOutOfMemory);
    return Ok();
  }
  Result<void> Charge(int line, size_t bytes) {
    bytes_ += bytes;
    if (bytes_ <= environment_.limits.bytes) return Ok();
    return Bad(line, fmt::format("the template makes more than {} bytes of text", environment_.limits.bytes),
               Error::kOutOfMemory);
  }

  // ---- statements ----

  Result<Flow> RunBody(const Body& body, const ScopePtr& scope, MarkedText& out) {
    const Nesting nesting(depth_);
    for (const Statement& statement : body) {
      CACHETTE_TRY(Step(statement.line));
      CACHETTE_TRY(const Flow flow, RunStatement(statement, scope, out));
      if (flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  Result<Flow> RunStatement(const Statement& statement, const ScopePtr& scope, MarkedText& out) {
    switch (statement.kind) {
      case Statement::Kind::kText: {
        CACHETTE_TRY(Charge(statement.line, statement.text.size()));
        out.Append(statement.text);
        return Flow::kNext;
      }
      case Statement::Kind::kPrint: {
        CACHETTE_TRY(const Value value, Eval(*statement.value, scope));
        const MarkedText text = ToText(value);
        CACHETTE_TRY(Charge(statement.line, text.text.size()));
        out.Append(text);
        return Flow::kNext;
      }
      case Statement::Kind::kIf: {
        CACHETTE_TRY(const Value condition, Eval(*statement.value, scope));
        return RunBody(condition.IsTrue() ? statement.body : statement.otherwise, scope, out);
      }
      case Statement::Kind::kFor: return RunFor(statement, scope, out);
      case Statement::Kind::kSet: return RunSet(statement, scope);
      case Statement::Kind::kSetBlock: {
        MarkedText text;
        CACHETTE_TRY(RunBody(statement.body, Inside(scope), text));
        scope->variables.Set(statement.targets[0], Value::MakeText(std::move(text)));
        return Flow::kNext;
      }
      case Statement::Kind::kMacro: {
        scope->variables.Set(statement.macro->name, Value(Value::Variant(Macro{statement.macro.get(), scope})));
        return Flow::kNext;
      }
      case Statement::Kind::kBreak: return Flow::kBreak;
      case Statement::Kind::kContinue: return Flow::kContinue;
      case Statement::Kind::kScope: return RunBody(statement.body, Inside(scope), out);
    }
    return Flow::kNext;
  }

  Result<void> Assign(int line, const std::vector<std::string>& targets, const Value& value, Scope& scope) {
    if (targets.size() == 1) {
      scope.variables.Set(targets[0], value);
      return Ok();
    }
    CACHETTE_TRY(const List parts, AtLine(line, ItemsOf(value)));
    if (parts.size() != targets.size()) {
      return Bad(line, fmt::format("{} values cannot be assigned to {} variables", parts.size(), targets.size()));
    }
    for (size_t i = 0; i < parts.size(); ++i) scope.variables.Set(targets[i], parts[i]);
    return Ok();
  }

  Result<Flow> RunSet(const Statement& statement, const ScopePtr& scope) {
    CACHETTE_TRY(const Value value, Eval(*statement.value, scope));
    if (statement.member.empty()) {
      CACHETTE_TRY(Assign(statement.line, statement.targets, value, *scope));
      return Flow::kNext;
    }
    const Value object = Lookup(statement.targets[0], scope);
    if (!object.IsDict() || !object.Members().is_namespace) {
      return Bad(statement.line,
                 fmt::format("\"{}\" is not a namespace, its attributes cannot be set", statement.targets[0]));
    }
    object.Members().Set(statement.member, value);
    return Flow::kNext;
  }

  Result<Flow> RunFor(const Statement& statement, const ScopePtr& scope, MarkedText& out) {
    CACHETTE_TRY(const Value iterated, Eval(*statement.value, scope));
    CACHETTE_TRY(List items, AtLine(statement.line, ItemsOf(iterated)));
    if (statement.condition != nullptr) {
      List kept;
      for (Value& item : items) {
        const ScopePtr inner = Inside(scope);
        CACHETTE_TRY(Assign(statement.line, statement.targets, item, *inner));
        CACHETTE_TRY(const Value condition, Eval(*statement.condition, inner));
        if (condition.IsTrue()) kept.push_back(std::move(item));
      }
      items = std::move(kept);
    }
    if (items.empty()) return RunBody(statement.otherwise, Inside(scope), out);
    const auto shared = std::make_shared<const List>(std::move(items));
    for (size_t i = 0; i < shared->size(); ++i) {
      CACHETTE_TRY(Step(statement.line));
      const ScopePtr inner = Inside(scope);
      auto loop = std::make_shared<LoopState>();
      *loop = {.index0 = i, .items = shared};
      inner->variables.Set("loop", Value(Value::Variant(std::move(loop))));
      CACHETTE_TRY(Assign(statement.line, statement.targets, (*shared)[i], *inner));
      CACHETTE_TRY(const Flow flow, RunBody(statement.body, inner, out));
      if (flow == Flow::kBreak) break;
    }
    return Flow::kNext;
  }

  // ---- expressions ----

  static Value Lookup(const std::string& name, const ScopePtr& scope) {
    for (const Scope* s = scope.get(); s != nullptr; s = s->outer.get()) {
      if (const Value* found = s->variables.Find(name)) return *found;
    }
    return Value::MakeUndefined(name);
  }

  Result<Value> Eval(const Expression& e, const ScopePtr& scope) {
    const Nesting nesting(depth_);
    CACHETTE_TRY(Step(e.line));
    switch (e.kind) {
      case Expression::Kind::kLiteral: return e.literal;
      case Expression::Kind::kName: return Lookup(e.name, scope);
      case Expression::Kind::kList:
      case Expression::Kind::kTuple:
      case Expression::Kind::kDict: return EvalContainer(e, scope);
      case Expression::Kind::kCall: return e.children.empty() ? EvalCall(e, scope) : EvalApplied(e, scope);
      case Expression::Kind::kMember:
      case Expression::Kind::kFilter:
      case Expression::Kind::kTest: return EvalApplied(e, scope);
      case Expression::Kind::kItem: return EvalItem(e, scope);
      case Expression::Kind::kSlice: return EvalSlice(e, scope);
      case Expression::Kind::kBinary: return EvalBinary(e, scope);
      case Expression::Kind::kNot: {
        CACHETTE_TRY(const Value value, Eval(*e.children[0], scope));
        return Value::MakeBool(!value.IsTrue());
      }
      case Expression::Kind::kNegate: {
        CACHETTE_TRY(const Value value, Eval(*e.children[0], scope));
        return Arithmetic(e, Op::kSubtract, Value::MakeInt(0), value);
      }
      case Expression::Kind::kAnd:
      case Expression::Kind::kOr: {
        CACHETTE_TRY(Value left, Eval(*e.children[0], scope));
        const bool decided = left.IsTrue() == (e.kind == Expression::Kind::kOr);
        return decided ? Result<Value>(std::move(left)) : Eval(*e.children[1], scope);
      }
      case Expression::Kind::kConditional: {
        CACHETTE_TRY(const Value condition, Eval(*e.children[1], scope));
        if (condition.IsTrue()) return Eval(*e.children[0], scope);
        if (e.children[2] == nullptr) return Value::MakeUndefined("the missing else of an inline if");
        return Eval(*e.children[2], scope);
      }
    }
    return Value();
  }

  Result<Value> EvalContainer(const Expression& e, const ScopePtr& scope) {
    CACHETTE_TRY(Charge(e.line, e.children.size() * sizeof(Value)));
    if (e.kind != Expression::Kind::kDict) {
      List list;
      list.is_tuple = e.kind == Expression::Kind::kTuple;
      for (const ExpressionPtr& child : e.children) {
        CACHETTE_TRY(Value item, Eval(*child, scope));
        list.push_back(std::move(item));
      }
      return Value::MakeList(std::move(list));
    }
    Dict dict;
    for (size_t i = 0; i < e.children.size(); i += 2) {
      CACHETTE_TRY(const Value key, Eval(*e.children[i], scope));
      CACHETTE_TRY(Value value, Eval(*e.children[i + 1], scope));
      if (!key.IsString()) return Bad(e.line, "a dict key that is not a string is not supported", Error::kUnsupported);
      dict.Set(key.String(), std::move(value));
      dict.has_literal_keys |= !key.Text().literal.empty();
    }
    return Value::MakeDict(std::move(dict));
  }

  Result<CallArguments> EvalArguments(const Arguments& arguments, const ScopePtr& scope) {
    CallArguments values;
    for (const ExpressionPtr& argument : arguments.positional) {
      CACHETTE_TRY(Value value, Eval(*argument, scope));
      values.positional.push_back(std::move(value));
    }
    for (const auto& [name, argument] : arguments.named) {
      CACHETTE_TRY(Value value, Eval(*argument, scope));
      values.named.emplace_back(name, std::move(value));
    }
    return values;
  }

  // Member, method, filter, test: something named is applied to children[0].
  Result<Value> EvalApplied(const Expression& e, const ScopePtr& scope) {
    CACHETTE_TRY(const Value value, Eval(*e.children[0], scope));
    if (e.kind == Expression::Kind::kMember) return AtLine(e.line, MemberOf(value, e.name));
    CACHETTE_TRY(const CallArguments arguments, EvalArguments(e.arguments, scope));
    if (e.kind == Expression::Kind::kTest) {
      CACHETTE_TRY(const bool passes, AtLine(e.line, ApplyTest(e.name, value, arguments)));
      return Value::MakeBool(passes);
    }
    CACHETTE_TRY(Value result,
                 AtLine(e.line, e.kind == Expression::Kind::kFilter ? ApplyFilter(e.name, value, arguments)
                                                                    : CallMethod(e.name, value, arguments)));
    CACHETTE_TRY(ChargeValue(e.line, result));
    return result;
  }

  Result<void> ChargeValue(int line, const Value& value) {
    if (value.IsString()) return Charge(line, value.String().size());
    if (value.IsList()) return Charge(line, value.Items().size() * sizeof(Value));
    return Ok();
  }

  Result<Value> EvalCall(const Expression& e, const ScopePtr& scope) {
    const Value callee = Lookup(e.name, scope);
    CACHETTE_TRY(const CallArguments arguments, EvalArguments(e.arguments, scope));
    if (callee.Is<Macro>()) return CallMacro(e.line, callee.As<Macro>(), arguments);
    if (callee.Is<Function>()) return CallFunction(e.line, callee.As<Function>().name, arguments);
    return Bad(e.line, fmt::format("\"{}\" is {} and cannot be called", e.name, callee.TypeName()));
  }

  Result<Value> CallMacro(int line, const Macro& macro, const CallArguments& arguments) {
    const ScopePtr home = macro.scope.lock();
    if (home == nullptr)
      return Bad(line, "a macro is called outside of the block that defines it", Error::kUnsupported);
    const auto& parameters = macro.node->parameters;
    if (arguments.positional.size() > parameters.size()) {
      return Bad(line, fmt::format("the macro \"{}\" takes {} arguments, not {}", macro.node->name, parameters.size(),
                                   arguments.positional.size()));
    }
    for (const auto& named : arguments.named) {
      const auto is_it = [&named](const auto& parameter) { return parameter.first == named.first; };
      if (std::ranges::none_of(parameters, is_it)) {
        return Bad(line, fmt::format("the macro \"{}\" has no argument \"{}\"", macro.node->name, named.first));
      }
    }
    const ScopePtr scope = Inside(home);
    for (size_t i = 0; i < parameters.size(); ++i) {
      const auto& [name, fallback] = parameters[i];
      Value value = Value::MakeUndefined(name);
      if (const Value* given = arguments.Get(i, name)) {
        value = *given;
      } else if (fallback != nullptr) {
        CACHETTE_TRY(value, Eval(*fallback, scope));
      }
      scope->variables.Set(name, std::move(value));
    }
    MarkedText out;
    CACHETTE_TRY(RunBody(macro.node->body, scope, out));
    return Value::MakeText(std::move(out));
  }

  Result<Value> CallFunction(int line, std::string_view name, const CallArguments& arguments) {
    if (name == "raise_exception") {
      const Value* message = arguments.Get(0, "message");
      return Bad(line,
                 fmt::format("the template refuses the messages: {}", message != nullptr ? ToText(*message).text : ""));
    }
    if (name == "range") return Range(line, arguments);
    if (name == "strftime_now") return FormatNow(line, arguments);
    Dict dict;  // namespace(...), dict(...)
    if (!arguments.positional.empty()) {
      if (arguments.positional.size() > 1 || !arguments.positional[0].IsDict()) {
        return Bad(line, fmt::format("{}() takes one dict or named arguments", name), Error::kUnsupported);
      }
      dict = arguments.positional[0].Members();
    }
    for (const auto& [key, value] : arguments.named) dict.Set(key, value);
    dict.is_namespace = name == "namespace";
    Value made = Value::MakeDict(std::move(dict));
    if (name == "namespace") namespaces_.push_back(made);
    return made;
  }

  Result<Value> Range(int line, const CallArguments& arguments) {
    int64_t bounds[3] = {0, 0, 1};
    const size_t num_given = arguments.positional.size();
    if (num_given < 1 || num_given > 3) return Bad(line, "range takes one to three integers");
    for (size_t i = 0; i < num_given; ++i) {
      if (!arguments.positional[i].IsInteger()) return Bad(line, "range takes one to three integers");
      bounds[num_given == 1 ? 1 : i] = arguments.positional[i].Int();
    }
    const auto [first, last, stride] = bounds;
    if (stride == 0) return Bad(line, "range with a step of 0");
    List items;
    for (int64_t i = first; stride > 0 ? i < last : i > last;) {
      if (static_cast<int64_t>(items.size()) == kMaxRange) {
        return Bad(line, fmt::format("range has more than {} items", kMaxRange), Error::kOutOfMemory);
      }
      items.push_back(Value::MakeInt(i));
      if (__builtin_add_overflow(i, stride, &i)) break;
    }
    CACHETTE_TRY(Charge(line, items.size() * sizeof(Value)));
    return Value::MakeList(std::move(items));
  }

  Result<Value> FormatNow(int line, const CallArguments& arguments) {
    const Value* format = arguments.Get(0, "format");
    if (format == nullptr || !format->IsString()) return Bad(line, "strftime_now needs a format");
    const std::string& pattern = format->String();
    for (size_t i = 0; i < pattern.size(); ++i) {
      if (pattern[i] != '%') continue;
      const char letter = ++i < pattern.size() ? pattern[i] : '\0';
      if (letter == '\0' || std::string_view("aAbBdHIjmMpSyY%").find(letter) == std::string_view::npos) {
        return Bad(
            line,
            fmt::format("strftime_now supports %a %A %b %B %d %H %I %j %m %M %p %S %y %Y %%, not \"{}\"", pattern),
            Error::kUnsupported);
      }
    }
    if (pattern.empty()) return Value::MakeString("");
    std::tm local{};
    localtime_r(&environment_.now, &local);
    std::string text(pattern.size() * 16 + 64, '\0');  // the longest field, a month's name, has 9 characters
    text.resize(std::strftime(text.data(), text.size(), pattern.c_str(), &local));
    return Value::MakeString(std::move(text));
  }

  Result<Value> EvalItem(const Expression& e, const ScopePtr& scope) {
    CACHETTE_TRY(const Value object, Eval(*e.children[0], scope));
    CACHETTE_TRY(const Value key, Eval(*e.children[1], scope));
    if (object.IsUndefined()) {
      return Bad(e.line, fmt::format("\"{}\" is undefined and has no items", object.As<Undefined>().name));
    }
    if (object.IsDict() && key.IsString()) {
      if (const Value* found = object.Members().Find(key.String())) return *found;
      return Value::MakeUndefined(key.String());
    }
    if (key.IsInteger() && (object.IsList() || object.IsString())) {
      const auto num_items =
          static_cast<int64_t>(object.IsList() ? object.Items().size() : NumCharacters(object.String()));
      const int64_t index = key.Int() < 0 ? key.Int() + num_items : key.Int();
      if (index < 0 || index >= num_items) return Value::MakeUndefined(fmt::format("item {}", key.Int()));
      const auto i = static_cast<size_t>(index);
      return object.IsList() ? object.Items()[i]
                             : Value::MakeText(object.Text().Part(Characters(object.String(), i, i + 1)));
    }
    if (key.IsString()) return AtLine(e.line, MemberOf(object, key.String()));
    return Value::MakeUndefined(ToText(key).text);
  }

  Result<Value> EvalSlice(const Expression& e, const ScopePtr& scope) {
    CACHETTE_TRY(const Value object, Eval(*e.children[0], scope));
    if (!object.IsList() && !object.IsString()) {
      return Bad(e.line, fmt::format("a value of type {} cannot be sliced", object.TypeName()));
    }
    std::optional<int64_t> parts[3];
    for (size_t i = 0; i < 3; ++i) {
      if (e.children[i + 1] == nullptr) continue;
      CACHETTE_TRY(const Value part, Eval(*e.children[i + 1], scope));
      if (part.IsNone()) continue;
      if (!part.IsInteger()) return Bad(e.line, "a slice takes integers");
      parts[i] = part.Int();
    }
    const int64_t stride = parts[2].value_or(1);
    if (stride == 0) return Bad(e.line, "a slice with a step of 0");
    const auto num_items =
        static_cast<int64_t>(object.IsList() ? object.Items().size() : NumCharacters(object.String()));
    const int64_t lowest = stride > 0 ? 0 : -1, highest = stride > 0 ? num_items : num_items - 1;
    const auto clamp = [&](std::optional<int64_t> part, int64_t fallback) {
      if (!part) return fallback;
      return std::clamp(*part < 0 ? *part + num_items : *part, lowest, highest);
    };
    const int64_t first = clamp(parts[0], stride > 0 ? 0 : num_items - 1);
    const int64_t last = clamp(parts[1], stride > 0 ? num_items : -1);
    if (object.IsString() && stride == 1) {
      const auto begin = static_cast<size_t>(first), end = static_cast<size_t>(std::max(first, last));
      MarkedText part = object.Text().Part(Characters(object.String(), begin, end));
      CACHETTE_TRY(Charge(e.line, part.text.size()));
      return Value::MakeText(std::move(part));
    }
    CACHETTE_TRY(const List items, ItemsOf(object));
    List sliced;
    for (int64_t i = first; stride > 0 ? i < last : i > last;) {
      sliced.push_back(items[static_cast<size_t>(i)]);
      if (__builtin_add_overflow(i, stride, &i)) break;
    }
    CACHETTE_TRY(Charge(e.line, items.size() * sizeof(Value)));
    if (object.IsList()) {
      sliced.is_tuple = object.Items().is_tuple;
      return Value::MakeList(std::move(sliced));
    }
    MarkedText text;
    for (const Value& character : sliced) text.Append(character.Text());
    return Value::MakeText(std::move(text));
  }

  Result<Value> EvalBinary(const Expression& e, const ScopePtr& scope) {
    CACHETTE_TRY(const Value left, Eval(*e.children[0], scope));
    CACHETTE_TRY(const Value right, Eval(*e.children[1], scope));
    const bool makes_text = e.op == Op::kAdd || e.op == Op::kJoin || e.op == Op::kMultiply;
    if (makes_text && (left.IsSafe() || right.IsSafe())) return AtLine<Value>(e.line, SafeRefused("joining"));
    switch (e.op) {
      case Op::kEqual: return Value::MakeBool(left.Equals(right));
      case Op::kNotEqual: return Value::MakeBool(!left.Equals(right));
      case Op::kIn:
      case Op::kNotIn: {
        CACHETTE_TRY(const bool contains, AtLine(e.line, Contains(right, left)));
        return Value::MakeBool(contains == (e.op == Op::kIn));
      }
      case Op::kLess:
      case Op::kGreaterEqual:
      case Op::kGreater:
      case Op::kLessEqual: {
        const bool swaps = e.op == Op::kGreater || e.op == Op::kLessEqual;
        const bool with_nan =
            (left.Is<double>() && std::isnan(left.Number())) || (right.Is<double>() && std::isnan(right.Number()));
        CACHETTE_TRY(const bool is_less, AtLine(e.line, swaps ? IsLess(right, left) : IsLess(left, right)));
        const bool is_strict = e.op == Op::kLess || e.op == Op::kGreater;
        return Value::MakeBool(!with_nan && is_less == is_strict);
      }
      case Op::kJoin: {
        MarkedText text = ToText(left);
        text.Append(ToText(right));
        CACHETTE_TRY(Charge(e.line, text.text.size()));
        return Value::MakeText(std::move(text));
      }
      default: return Arithmetic(e, e.op, left, right);
    }
  }

  Result<Value> Arithmetic(const Expression& e, Op op, const Value& left, const Value& right) {
    if (left.IsNumber() && right.IsNumber()) {
      return left.IsInteger() && right.IsInteger() && op != Op::kDivide
                 ? IntegerArithmetic(e.line, op, left.Int(), right.Int())
                 : FloatArithmetic(e.line, op, left.Number(), right.Number());
    }
    if (op == Op::kAdd && left.IsString() && right.IsString()) {
      CACHETTE_TRY(Charge(e.line, left.String().size() + right.String().size()));
      MarkedText joined = left.Text();
      joined.Append(right.Text());
      return Value::MakeText(std::move(joined));
    }
    if (op == Op::kAdd && left.IsList() && right.IsList() && left.Items().is_tuple == right.Items().is_tuple) {
      List joined = left.Items();
      joined.insert(joined.end(), right.Items().begin(), right.Items().end());
      CACHETTE_TRY(Charge(e.line, joined.size() * sizeof(Value)));
      return Value::MakeList(std::move(joined));
    }
    if (op == Op::kMultiply && left.IsString() && right.IsInteger()) return Repeat(e.line, left.Text(), right.Int());
    if (op == Op::kMultiply && left.IsInteger() && right.IsString()) return Repeat(e.line, right.Text(), left.Int());
    if (op == Op::kModulo && left.IsString()) {
      return Bad(e.line, "formatting with % is not supported; use ~ or format", Error::kUnsupported);
    }
    for (const Value* side : {&left, &right}) {
      if (side->IsUndefined()) return Bad(e.line, fmt::format("\"{}\" is undefined", side->As<Undefined>().name));
    }
    return Bad(e.line, fmt::format("this operator does not take {} and {}", left.TypeName(), right.TypeName()));
  }

  Result<Value> Repeat(int line, const MarkedText& text, int64_t count) {
    const uint64_t times = count > 0 ? static_cast<uint64_t>(count) : 0;
    uint64_t bytes = 0;
    if (__builtin_mul_overflow(times, static_cast<uint64_t>(text.text.size()), &bytes))
      bytes = environment_.limits.bytes + 1;
    CACHETTE_TRY(Charge(line, static_cast<size_t>(std::min<uint64_t>(bytes, environment_.limits.bytes + 1))));
    MarkedText out;
    for (uint64_t i = 0; i < times && !text.text.empty(); ++i) out.Append(text);
    return Value::MakeText(std::move(out));
  }

  // Python's rules: // rounds down, % has the sign of the divisor.
  Result<Value> IntegerArithmetic(int line, Op op, int64_t a, int64_t b) {
    int64_t result = 0;
    bool overflows = false;
    switch (op) {
      case Op::kAdd: overflows = __builtin_add_overflow(a, b, &result); break;
      case Op::kSubtract: overflows = __builtin_sub_overflow(a, b, &result); break;
      case Op::kMultiply: overflows = __builtin_mul_overflow(a, b, &result); break;
      case Op::kFloorDivide:
      case Op::kModulo:
        if (b == 0) return Bad(line, "division by zero");
        if (b == -1) {  // the only quotient that may overflow
          if (op == Op::kFloorDivide) overflows = __builtin_sub_overflow(int64_t{0}, a, &result);
        } else {
          const bool rounds_down = a % b != 0 && (a % b < 0) != (b < 0);
          result = op == Op::kFloorDivide ? a / b - rounds_down : a % b + (rounds_down ? b : 0);
        }
        break;
      default:
        if (b < 0) return Bad(line, "an integer to a negative power is not supported", Error::kUnsupported);
        result = 1;
        for (int64_t i = 0; i < b && !overflows; ++i) {
          overflows = __builtin_mul_overflow(result, a, &result);
          if (result == 0 || (a == 1)) break;
          if (a == -1) {
            result = b % 2 == 0 ? 1 : -1;
            break;
          }
        }
    }
    if (overflows) return Bad(line, "an integer does not fit 64 bits", Error::kUnsupported);
    return Value::MakeInt(result);
  }

  Result<Value> FloatArithmetic(int line, Op op, double a, double b) {
    if ((op == Op::kDivide || op == Op::kFloorDivide || op == Op::kModulo) && b == 0)
      return Bad(line, "division by zero");
    switch (op) {
      case Op::kAdd: return Value::MakeFloat(a + b);
      case Op::kSubtract: return Value::MakeFloat(a - b);
      case Op::kMultiply: return Value::MakeFloat(a * b);
      case Op::kDivide: return Value::MakeFloat(a / b);
      case Op::kFloorDivide: return Value::MakeFloat(std::floor(a / b));
      case Op::kModulo: return Value::MakeFloat(a - b * std::floor(a / b));
      default: return Value::MakeFloat(std::pow(a, b));
    }
  }

  const Environment& environment_;
  std::vector<Value> namespaces_;  // all that were made
  int64_t steps_ = 0;
  size_t bytes_ = 0;
  int depth_ = 0;
};

}  // namespace

Result<MarkedText> Evaluate(const Body& body, const Environment& environment) {
  return Evaluator(environment).Run(body);
}

}  // namespace cachette::jinja
