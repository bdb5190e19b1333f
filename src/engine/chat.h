#pragma once
// A conversation as tokens: what has to be prefilled for each turn, nothing twice.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace cachette {

// Turns of one session. The cache already holds the earlier turns as they were generated, so a turn's tokens are only
// what the template puts behind the last answer: the end of that answer's turn, the new message, the start of the next.
class Conversation {
 public:
  // chat_template null: text goes to the model as it is. Both pointers must outlive this. system: "" for none.
  // Control tokens come from the template alone, never from what messages spell; with parse_special, and without a
  // template, also from the messages.
  Conversation(const Tokenizer& tokenizer, const ChatTemplate* chat_template, std::string system,
               bool parse_special = false);

  // Tokens to prefill for the user's next message. Ask again only after TookAnswer.
  // Errors: those of the template and of Encode; kUnsupported (the template hides earlier answers); the conversation is
  // unchanged then.
  Result<std::vector<int32_t>> AddMessage(std::string_view text);

  // What came of it. prompt: the tokens AddMessage gave; a generation that was cancelled while they were prefilled
  // leaves the rest for the next turn. text: the answer without control tokens.
  void TookAnswer(std::span<const int32_t> prompt, const Generation& generation, std::string text);

 private:
  Result<MarkedText> Turn(std::string_view text) const;

  const Tokenizer* tokenizer_;
  const ChatTemplate* chat_template_;
  bool parses_special_;
  std::vector<ChatMessage> messages_;  // the system's, then pairs of user and assistant
  std::string pending_message_;
  std::vector<int32_t> unsent_;  // tokens that a cancelled prefill has left out
  std::string end_token_text_;   // of the control token that ended the last answer, "" when none did
  bool has_answer_ = false;
};

}  // namespace cachette
