#include "eval/score.h"

#include <algorithm>

namespace cachette {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

std::string_view TrimStart(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(kSpace), text.size()));
  return text;
}

std::string_view Trim(std::string_view text) {
  text = TrimStart(text);
  return text.substr(0, text.find_last_not_of(kSpace) + 1);
}

constexpr size_t kNone = std::string_view::npos;

// Where the form's answer ends in a reply without leading white space, kNone when it has not ended.
size_t EndOf(AnswerForm form, std::string_view reply, std::string_view answer) {
  switch (form) {
    case AnswerForm::kNumber: return reply.find_first_not_of("0123456789");
    case AnswerForm::kLine: return reply.find('\n');
    case AnswerForm::kLines: {
      size_t at = kNone;
      for (auto lines = 1 + std::count(answer.begin(), answer.end(), '\n'); lines > 0; --lines) {
        at = reply.find('\n', at + 1);  // kNone + 1 is 0
        if (at == kNone) return kNone;
      }
      return at;
    }
    case AnswerForm::kContained: return kNone;
  }
  return kNone;
}

}  // namespace

std::string AnswerIn(AnswerForm form, std::string_view reply, std::string_view answer) {
  reply = TrimStart(reply);
  return std::string(Trim(reply.substr(0, EndOf(form, reply, answer))));
}

bool IsAnswerComplete(AnswerForm form, std::string_view reply, std::string_view answer) {
  return EndOf(form, TrimStart(reply), answer) != kNone;
}

Score ScoreReply(AnswerForm form, std::string_view reply, std::string_view answer) {
  if (form == AnswerForm::kContained) {
    const auto found = std::search(reply.begin(), reply.end(), answer.begin(), answer.end(), [](char a, char b) {
      const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
      return lower(a) == lower(b);
    });
    const double score = answer.empty() || found != reply.end() ? 1.0 : 0.0;
    return {score, score};
  }
  const std::string given = AnswerIn(form, reply, answer);
  if (given == answer) return {1.0, 1.0};
  const auto [end, ignored] = std::mismatch(answer.begin(), answer.end(), given.begin(), given.end());
  return {0.0, answer.empty() ? 0.0 : static_cast<double>(end - answer.begin()) / static_cast<double>(answer.size())};
}

}  // namespace cachette
