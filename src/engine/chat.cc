#include "engine/chat.h"

#include <utility>

namespace cachette {
namespace {

// Stands in for the last answer when a template is rendered, so that what the template puts behind the answer can be
// found whatever it does to the answer itself (some strip it, some leave out its reasoning).
constexpr std::string_view kAnswerMark = "[[cachette: the last answer]]";

std::string TextOfToken(const Tokenizer& tokenizer, int32_t id) {
  return id < 0 ? "" : std::string(tokenizer.TokenBytes(id));
}

}  // namespace

Conversation::Conversation(const Tokenizer& tokenizer, const ChatTemplate* chat_template, std::string system)
    : tokenizer_(&tokenizer), chat_template_(chat_template) {
  if (!system.empty()) messages_.push_back({"system", std::move(system)});
}

Result<std::string> Conversation::Turn(std::string_view text) const {
  if (chat_template_ == nullptr) return std::string(text);
  std::vector<ChatMessage> messages = messages_;
  if (has_answer_) messages.back().content = kAnswerMark;
  messages.push_back({"user", std::string(text)});
  RenderOptions options;
  options.bos_token = TextOfToken(*tokenizer_, tokenizer_->bos_id());
  options.eos_token = TextOfToken(*tokenizer_, tokenizer_->eos_id());
  CACHETTE_TRY(std::string rendered, chat_template_->Render(messages, options));
  if (!has_answer_) return rendered;

  const size_t mark = rendered.find(kAnswerMark);
  if (mark == std::string::npos)
    return Fail(Error::kUnsupported,
                "this model's chat template hides earlier answers; it cannot be used turn by turn");
  std::string behind = rendered.substr(mark + kAnswerMark.size());
  // The token that ended the answer is in the cache already; templates put at most white space before it.
  const size_t first = behind.find_first_not_of(" \n");
  if (!end_token_text_.empty() && first != std::string::npos &&
      behind.compare(first, end_token_text_.size(), end_token_text_) == 0)
    behind.erase(0, first + end_token_text_.size());
  return behind;
}

Result<std::vector<int32_t>> Conversation::AddMessage(std::string_view text) {
  CACHETTE_TRY(const std::string turn, Turn(text));
  // Templates write the tokens around a text themselves.
  const bool adds_special = chat_template_ == nullptr && !has_answer_;
  CACHETTE_TRY(const std::vector<int32_t> tokens, tokenizer_->Encode(turn, {.add_special = adds_special}));
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
