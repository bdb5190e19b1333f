#include "engine/chat.h"

#include <algorithm>
#include <utility>

namespace cachette {
namespace {

// Stands in for the last answer when a template is rendered, so that what the template puts behind the answer can be
// found whatever it does to the answer itself (some strip it, some leave out its reasoning). No message contains it.
std::string AnswerMark(const std::vector<ChatMessage>& messages) {
  std::string mark = "[[cachette: the last answer]]";
  const auto contains_it = [&](const ChatMessage& message) { return message.content.find(mark) != std::string::npos; };
  while (std::ranges::any_of(messages, contains_it)) mark += ']';
  return mark;
}

std::string TextOfToken(const Tokenizer& tokenizer, int32_t id) {
  return id < 0 ? "" : std::string(tokenizer.TokenBytes(id));
}

}  // namespace

Conversation::Conversation(const Tokenizer& tokenizer, const ChatTemplate* chat_template, std::string system,
                           bool parse_special)
    : tokenizer_(&tokenizer),
      chat_template_(chat_template),
      parses_special_(chat_template != nullptr || parse_special) {
  if (!system.empty()) messages_.push_back({"system", std::move(system)});
}

Result<MarkedText> Conversation::Turn(std::string_view text) const {
  if (chat_template_ == nullptr) return MarkedText{std::string(text)};
  std::vector<ChatMessage> messages = messages_;
  messages.push_back({"user", std::string(text)});
  const std::string mark = AnswerMark(messages);
  if (has_answer_) messages[messages.size() - 2].content = mark;
  RenderOptions options;
  options.bos_token = TextOfToken(*tokenizer_, tokenizer_->bos_id());
  options.eos_token = TextOfToken(*tokenizer_, tokenizer_->eos_id());
  CACHETTE_TRY(MarkedText rendered, chat_template_->Render(messages, options));
  if (!has_answer_) return rendered;

  const size_t at = rendered.text.find(mark);
  if (at == std::string::npos)
    return Fail(Error::kUnsupported,
                "this model's chat template hides earlier answers; it cannot be used turn by turn");
  const std::string_view behind = std::string_view(rendered.text).substr(at + mark.size());
  // The token that ended the answer is in the cache already; templates put at most white space before it.
  const size_t first = std::min(behind.find_first_not_of(" \n"), behind.size());
  const bool repeats_end = !end_token_text_.empty() && behind.substr(first).starts_with(end_token_text_);
  return rendered.Part(behind.substr(repeats_end ? first + end_token_text_.size() : 0));
}

Result<std::vector<int32_t>> Conversation::AddMessage(std::string_view text) {
  CACHETTE_TRY(const MarkedText turn, Turn(text));
  // Templates write the tokens around a text themselves.
  const bool adds_special = chat_template_ == nullptr && !has_answer_;
  const EncodeOptions options{.add_special = adds_special, .parse_special = parses_special_, .literal = turn.literal};
  CACHETTE_TRY(const std::vector<int32_t> tokens, tokenizer_->Encode(turn.text, options));
  std::vector<int32_t> all = unsent_;
  all.insert(all.end(), tokens.begin(), tokens.end());
  pending_message_ = text;
  return all;
}

void Conversation::TookAnswer(std::span<const int32_t> prompt, const Generation& generation, std::string text) {
  const auto rest = prompt.subspan(static_cast<size_t>(generation.prompt_tokens));
  unsent_.assign(rest.begin(), rest.end());
  messages_.push_back({"user", std::move(pending_message_)});
  messages_.push_back({"assistant", std::move(text)});
  has_answer_ = true;
  end_token_text_.clear();
  if (generation.stop == StopReason::kEndToken) end_token_text_ = TextOfToken(*tokenizer_, generation.tokens.back());
}

}  // namespace cachette
