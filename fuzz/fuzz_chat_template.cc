#include <string>
#include <string_view>

#include "fuzz_target.h"
#include "text/jinja/evaluator.h"
#include "text/jinja/parser.h"
#include "text/utf8.h"

namespace cachette::fuzz::chat_template {
namespace {

using jinja::Value;

Value Message(const char* role, const char* content) {
  jinja::Dict message;
  message.Set("role", Value::MakeString(role));
  message.Set("content", Value::MakeString(content));
  return Value::MakeDict(std::move(message));
}

}  // namespace

// Input: a template. It parses or is refused with a line; running it ends within its limits and gives valid UTF-8.
void Run(std::span<const std::byte> input) {
  const std::string_view source(reinterpret_cast<const char*>(input.data()), input.size());
  const auto body = jinja::ParseTemplate(source);
  if (!body.ok()) {
    CACHETTE_CHECK(body.failure().error == Error::kInvalidArgument || body.failure().error == Error::kUnsupported);
    CACHETTE_CHECK(body.failure().message.find("chat template") != std::string::npos);
    return;
  }
  jinja::Environment environment;
  environment.limits = {.steps = 20'000, .bytes = 1 << 20};
  environment.variables.Set("messages",
                            Value::MakeList({Message("system", " s\xc3\xa9 "), Message("user", "<b>a\nb</b>"),
                                             Message("assistant", "<think>x</think>y")}));
  environment.variables.Set("tools", Value::MakeList({Message("f", "1"), Value::MakeFloat(2.5), Value::MakeNone()}));
  environment.variables.Set("bos_token", Value::MakeString("<s>"));
  environment.variables.Set("add_generation_prompt", Value::MakeBool(true));
  const auto text = jinja::Evaluate(*body, environment);
  if (text.ok()) {
    CACHETTE_CHECK(FindInvalidUtf8(*text) == std::string_view::npos);
    CACHETTE_CHECK(text->size() <= environment.limits.bytes);
  } else {
    CACHETTE_CHECK(text.failure().message.find("chat template line ") == 0);
  }
}

}  // namespace cachette::fuzz::chat_template
