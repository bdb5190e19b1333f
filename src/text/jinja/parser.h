#pragma once

#include <string_view>

#include "base/result.h"
#include "text/jinja/ast.h"

namespace cachette::jinja {

// Parses a template. What is outside the supported subset (docs/text.md) is refused here, not when it is reached.
// Errors: kInvalidArgument (not a template), kUnsupported (a construct, filter, test, function or method that is not
// implemented); both name it and the line.
Result<Body> ParseTemplate(std::string_view source);

}  // namespace cachette::jinja
