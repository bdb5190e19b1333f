#pragma once
// The parsed form of a template: what the parser makes and the evaluator walks.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

namespace cachette::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

// Arguments of a call, filter or test.
struct Arguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
};

struct Expression {
  enum class Kind : uint8_t {
    kLiteral,  // literal
    kName,     // name
    kList,     // children
    kTuple,    // children
    kDict,     // children: key, value, key, value, ...
    kMember,   // children[0].name
    kItem,     // children[0][children[1]]
    kSlice,    // children[0][a:b:c]; absent parts are null
    kCall,     // name(arguments) when children is empty, else children[0].name(arguments): a method
    kFilter,   // children[0] | name(arguments)
    kTest,     // children[0] is name(arguments)
    kNot,      // children[0]
    kNegate,   // children[0]
    kBinary,   // children[0] op children[1]
    kAnd,
    kOr,           // children[0], children[1]
    kConditional,  // children[0] if children[1] else children[2] (may be null)
  };
  // The binary operators.
  enum class Op : uint8_t {
    kNone,
    kAdd,
    kSubtract,
    kMultiply,
    kDivide,
    kFloorDivide,
    kModulo,
    kPower,
    kJoin,
    kEqual,
    kNotEqual,
    kLess,
    kLessEqual,
    kGreater,
    kGreaterEqual,
    kIn,
    kNotIn
  };
  Kind kind = Kind::kLiteral;
  Op op = Op::kNone;
  int line = 0;
  int depth = 1;  // of the tree below: bounds the recursion over it
  std::string name;
  Value literal;
  std::vector<ExpressionPtr> children;
  Arguments arguments;
};

struct Statement;
using Body = std::vector<Statement>;

// Parameters and body of {% macro %}.
struct MacroNode {
  std::string name;
  std::vector<std::pair<std::string, ExpressionPtr>> parameters;  // default: null when there is none
  Body body;
};

struct Statement {
  enum class Kind : uint8_t {
    kText,      // text
    kPrint,     // value
    kIf,        // value, body, otherwise (an elif is a kIf alone in otherwise)
    kFor,       // targets in value [if condition], body, otherwise
    kSet,       // targets = value, or target.member = value
    kSetBlock,  // targets[0] = what body prints
    kMacro,     // macro
    kBreak,
    kContinue,
    kScope,  // body, in a scope of its own
  };
  Statement(Kind kind_of_statement, int line_in_source) : kind(kind_of_statement), line(line_in_source) {}
  Kind kind;
  int line;
  std::string text;
  ExpressionPtr value;
  ExpressionPtr condition;
  std::vector<std::string> targets;
  std::string member;
  Body body, otherwise;
  std::shared_ptr<const MacroNode> macro;
};

}  // namespace cachette::jinja
