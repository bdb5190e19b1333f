#pragma once

#include <string>
#include <string_view>

#include "eval/tasks/task.h"

namespace cachette {

// The part of a reply that is compared with the answer, white space around it taken off.
std::string AnswerIn(AnswerForm form, std::string_view reply, std::string_view answer);

// Nothing that the model could still write would change AnswerIn.
bool IsAnswerComplete(AnswerForm form, std::string_view reply, std::string_view answer);

struct Score {
  double exact = 0;         // 1 when the answer is there, else 0
  double prefix_share = 0;  // of the answer's bytes, before the first difference; of kContained as exact
};
Score ScoreReply(AnswerForm form, std::string_view reply, std::string_view answer);

}  // namespace cachette
