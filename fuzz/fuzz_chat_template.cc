#include <algorithm>
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
  message.Set("content", Value::MakeText(MarkedText::Literal(content)));
  return Value::MakeDict(std::move(message));
}

// Ranges are as declared, and a character that only a message holds is literal wherever it lands.
void CheckRanges(const MarkedText& out, std::string_view source) {
  constexpr std::string_view kOnlyInMessage = "\xee\x80\x80";
  size_t end = 0;
  for (const TextRange& range : out.literal) {
    CACHETTE_CHECK(range.begin < range.end && range.end <= out.text.size() && (end == 0 || range.begin > end));
    end = range.end;
  }
  if (source.find(kOnlyInMessage) != std::string_view::npos || source.find('\\') != std::string_view::npos) return;
  for (size_t at = 0; (at = out.text.find(kOnlyInMessage, at)) != std::string::npos; ++at) {
    const bool is_literal = std::ranges::any_of(
        out.literal, [&](const TextRange& r) { return r.begin <= at && at + kOnlyInMessage.size() <= r.end; });
    CACHETTE_CHECK(is_literal);
  }
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
  environment.variables.Set("messages", Value::MakeList({Message("system", " s\xc3\xa9 "),
                                                         Message("user",
                                                                 "<b>a\n\xee\x80\x80"
                                                                 "b</b>"),
                                                         Message("assistant", "<think>x</think>y")}));
  environment.variables.Set("tools", Value::MakeList({Message("f", "1"), Value::MakeFloat(2.5), Value::MakeNone()}));
  environment.variables.Set("bos_token", Value::MakeString("<s>"));
  environment.variables.Set("add_generation_prompt", Value::MakeBool(true));
  const auto text = jinja::Evaluate(*body, environment);
  if (text.ok()) {
    CACHETTE_CHECK(FindInvalidUtf8(text->text) == std::string_view::npos);
    CACHETTE_CHECK(text->text.size() <= environment.limits.bytes);
    CheckRanges(*text, source);
  } else {
    CACHETTE_CHECK(text.failure().message.find("chat template line ") == 0);
  }
}

}  // namespace cachette::fuzz::chat_template
