#include "eval/tasks/haystack.h"

#include <algorithm>
#include <string_view>

#include "eval/tasks/words.h"

namespace cachette {
namespace {

// "How We Made the First Flight" by Orville Wright (1913), in the public domain: see examples/demo.
constexpr std::string_view kProse =
#include "eval/tasks/haystack_prose.inc"
    ;
// Sources of this program as they once were.
constexpr std::string_view kCode =
#include "eval/tasks/haystack_code.inc"
    ;

std::vector<std::string_view> LinesOf(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    if (end > 0) lines.push_back(text.substr(0, end));  // blank lines would hide how long a haystack is
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

// A sentence ends with a full stop in front of a space and a capital. Abbreviations may cut one; that does no harm.
std::vector<std::string> SentencesOf(std::string_view text) {
  std::vector<std::string> sentences(1);
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i] == '\n' ? ' ' : text[i];
    std::string& last = sentences.back();
    if (c == ' ' && (last.empty() || last.back() == ' ')) continue;
    const bool is_border = c == ' ' && last.ends_with('.') && i + 1 < text.size() && text[i + 1] >= 'A' &&
                           text[i + 1] <= 'Z' && last.size() > 20;
    if (is_border) {
      sentences.emplace_back();
    } else {
      last += c;
    }
  }
  while (sentences.back().ends_with(' ')) sentences.back().pop_back();
  if (sentences.back().empty()) sentences.pop_back();
  return sentences;
}

template <class T>
std::vector<std::string> Wrapped(const std::vector<T>& items, int64_t count, Rng& rng) {
  const size_t first = rng.Below(items.size());
  std::vector<std::string> out;
  out.reserve(static_cast<size_t>(count));
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) out.emplace_back(items[(first + i) % items.size()]);
  return out;
}

}  // namespace

std::vector<std::string> HaystackLines(HaystackText text, int64_t num_lines, Rng& rng) {
  static const std::vector<std::string_view> prose = LinesOf(kProse), code = LinesOf(kCode);
  return Wrapped(text == HaystackText::kProse ? prose : code, num_lines, rng);
}

std::vector<std::string> HaystackSentences(int64_t num_sentences, Rng& rng) {
  static const std::vector<std::string> sentences = SentencesOf(kProse);
  return Wrapped(sentences, num_sentences, rng);
}

void HideLines(std::vector<std::string> needles, std::vector<std::string>& lines, Rng& rng) {
  Shuffle(needles, rng);
  std::vector<size_t> places;
  for (size_t i = 0; i < needles.size(); ++i) places.push_back(rng.Below(lines.size() + 1));
  std::sort(places.begin(), places.end());
  std::vector<std::string> out;
  out.reserve(lines.size() + needles.size());
  size_t next = 0;
  for (size_t i = 0; i <= lines.size(); ++i) {
    for (; next < places.size() && places[next] == i; ++next) out.push_back(std::move(needles[next]));
    if (i < lines.size()) out.push_back(std::move(lines[i]));
  }
  lines = std::move(out);
}

}  // namespace cachette
