#pragma once
// Chat templates: the Jinja program a model brings to turn messages into one prompt.

#include <ctime>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "text/marked_text.h"

namespace cachette {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant", ...
  std::string content;
};

struct RenderOptions {
  bool add_generation_prompt = true;           // end with the opening of the assistant's turn
  std::string bos_token = {}, eos_token = {};  // as text
  std::string variables_json = {};  // more variables as a JSON object, e.g. {"enable_thinking": false, "tools": [...]}
  std::optional<std::time_t> now = {};  // for strftime_now; absent: the clock
};

// A parsed template; immutable, cheap to copy, may be rendered by several threads at once.
class ChatTemplate {
 public:
  // Errors: kInvalidArgument (not a template), kUnsupported (outside the subset that docs/text.md names); with the
  // line.
  static Result<ChatTemplate> Parse(std::string_view source);

  // The prompt; what stems from contents or variables_json is literal in it, also cut and joined. The caller tokenizes
  // it with parse_special, with its literal ranges, and without add_special: templates write bos themselves. Steps and
  // output are bounded. Errors: kInvalidArgument (the template refuses the messages, variables_json is not an object),
  // kUnsupported, kOutOfMemory (a bound); with the line.
  Result<MarkedText> Render(std::span<const ChatMessage> messages, const RenderOptions& options = {}) const;

  // The same for messages with more than role and content: a JSON list of objects, as in an OpenAI request. All of them
  // but the roles is literal.
  Result<MarkedText> RenderJson(std::string_view messages_json, const RenderOptions& options = {}) const;

 private:
  struct Program;
  std::shared_ptr<const Program> program_;
};

}  // namespace cachette
