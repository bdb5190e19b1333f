#include "text/chat_template.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "text/jinja/evaluator.h"
#include "text/jinja/parser.h"
#include "text/utf8.h"

namespace cachette {
namespace {

using Json = nlohmann::ordered_json;  // templates print objects in the order they were written
using jinja::Value;

constexpr int kMaxJsonDepth = 64;

// Strings and keys come from outside: they are literal.
Result<Value> ValueOf(const Json& json, int depth = 0) {
  if (depth > kMaxJsonDepth) {
    return Fail(Error::kInvalidArgument,
                fmt::format("the JSON for the chat template nests more than {} deep", kMaxJsonDepth));
  }
  switch (json.type()) {
    case Json::value_t::null: return Value::MakeNone();
    case Json::value_t::boolean: return Value::MakeBool(json.get<bool>());
    case Json::value_t::number_integer: return Value::MakeInt(json.get<int64_t>());
    case Json::value_t::number_unsigned:
      if (json.get<uint64_t>() > INT64_MAX)
        return Fail(Error::kInvalidArgument, "an integer in the JSON for the chat template does not fit 64 bits");
      return Value::MakeInt(json.get<int64_t>());
    case Json::value_t::number_float: return Value::MakeFloat(json.get<double>());
    case Json::value_t::string: return Value::MakeText(MarkedText::Literal(json.get<std::string>()));
    case Json::value_t::array: {
      jinja::List list;
      for (const Json& item : json) {
        CACHETTE_TRY(Value value, ValueOf(item, depth + 1));
        list.push_back(std::move(value));
      }
      return Value::MakeList(std::move(list));
    }
    case Json::value_t::object: {
      jinja::Dict dict;
      dict.has_literal_keys = true;
      for (const auto& [key, item] : json.items()) {
        CACHETTE_TRY(Value value, ValueOf(item, depth + 1));
        dict.Set(key, std::move(value));
      }
      return Value::MakeDict(std::move(dict));
    }
    default: return Fail(Error::kInvalidArgument, "the JSON for the chat template is not valid");
  }
}

Result<jinja::Environment> MakeEnvironment(Value messages, size_t message_bytes, const RenderOptions& options) {
  jinja::Environment environment;
  jinja::Dict& variables = environment.variables;
  variables.Set("messages", std::move(messages));
  variables.Set("tools", Value::MakeNone());  // as transformers passes them when there are none
  variables.Set("documents", Value::MakeNone());
  variables.Set("add_generation_prompt", Value::MakeBool(options.add_generation_prompt));
  variables.Set("bos_token", Value::MakeString(options.bos_token));
  variables.Set("eos_token", Value::MakeString(options.eos_token));
  if (!options.variables_json.empty()) {
    const Json extra = Json::parse(options.variables_json, nullptr, /*allow_exceptions=*/false);
    if (!extra.is_object()) return Fail(Error::kInvalidArgument, "the chat template's variables are not a JSON object");
    for (const auto& [name, item] : extra.items()) {
      CACHETTE_TRY(Value value, ValueOf(item));
      variables.Set(name, std::move(value));
    }
  }
  environment.now = options.now.value_or(std::time(nullptr));
  // Templates copy a message a few times (trim, split, +); 64 times is far beyond any.
  environment.limits.bytes += 64 * (message_bytes + options.variables_json.size());
  return environment;
}

}  // namespace

struct ChatTemplate::Program {
  jinja::Body body;
};

Result<ChatTemplate> ChatTemplate::Parse(std::string_view source) {
  auto program = std::make_shared<Program>();
  CACHETTE_TRY(program->body, jinja::ParseTemplate(source));
  ChatTemplate chat_template;
  chat_template.program_ = std::move(program);
  return chat_template;
}

Result<MarkedText> ChatTemplate::Render(std::span<const ChatMessage> messages, const RenderOptions& options) const {
  jinja::List list;
  size_t bytes = 0;
  for (const ChatMessage& message : messages) {
    for (const std::string* text : {&message.role, &message.content}) {
      if (const size_t bad = FindInvalidUtf8(*text); bad != std::string_view::npos) {
        return Fail(
            Error::kInvalidArgument,
            fmt::format("message {} is not valid UTF-8 at byte {}; convert it to UTF-8 first", list.size(), bad));
      }
      bytes += text->size();
    }
    jinja::Dict dict;
    dict.Set("role", Value::MakeString(message.role));
    dict.Set("content", Value::MakeText(MarkedText::Literal(message.content)));
    list.push_back(Value::MakeDict(std::move(dict)));
  }
  CACHETTE_TRY(const jinja::Environment environment, MakeEnvironment(Value::MakeList(std::move(list)), bytes, options));
  return jinja::Evaluate(program_->body, environment);
}

Result<MarkedText> ChatTemplate::RenderJson(std::string_view messages_json, const RenderOptions& options) const {
  const Json json = Json::parse(messages_json, nullptr, /*allow_exceptions=*/false);
  if (!json.is_array()) return Fail(Error::kInvalidArgument, "the messages are not a JSON list of objects");
  CACHETTE_TRY(Value messages, ValueOf(json));
  for (const Value& message : messages.Items()) {
    // Roles are names, not text: templates build control tokens of them ('<|' + role + '|>').
    const Value* role = message.IsDict() ? message.Members().Find("role") : nullptr;
    if (role != nullptr && role->IsString()) message.Members().Set("role", Value::MakeString(role->String()));
  }
  CACHETTE_TRY(const jinja::Environment environment,
               MakeEnvironment(std::move(messages), messages_json.size(), options));
  return jinja::Evaluate(program_->body, environment);
}

}  // namespace cachette
