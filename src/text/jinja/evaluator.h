#pragma once

#include <cstdint>
#include <ctime>
#include "base/result.h"
#include "text/jinja/ast.h"

namespace cachette::jinja {

// What one evaluation may use; a template is a program from a file, and files come from strangers.
struct EvaluationLimits {
  int64_t steps = 20'000'000;       // expressions and statements
  size_t bytes = size_t{64} << 20;  // of all strings made, output included
};

// Variables a template sees, local time for strftime_now, and limits.
struct Environment {
  Dict variables;
  std::time_t now = 0;
  EvaluationLimits limits;
};

// Runs a parsed template. Errors: kInvalidArgument (raise_exception, a value of the wrong type), kUnsupported (an
// operation on values that is not implemented), kOutOfMemory (a limit), each with the line. What stems from literal
// text of the variables is literal in the output.
Result<MarkedText> Evaluate(const Body& body, const Environment& environment);

}  // namespace cachette::jinja
