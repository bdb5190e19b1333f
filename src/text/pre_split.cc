#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/pre_split.h"

#include <fmt/format.h>
#include <pcre2.h>

#include <string>

namespace cachette {
namespace {

// White_Space spelled out: PCRE2's \s also matches U+180E, the engines the vocabularies were trained with do not.
constexpr std::string_view kSpaceRanges =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|)"
    R"(\s+(?!\S)|\s+)";
constexpr const char* kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|)"
    R"(\s+(?!\S)|\s+)";

// pattern with \s and \S replaced by White_Space; refuses what means something else outside PCRE2.
Result<std::string> Translate(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char e = pattern[++i];
      if (e == 's') {
        out += in_class ? std::string(kSpaceRanges) : fmt::format("[{}]", kSpaceRanges);
      } else if (e == 'S' && !in_class) {
        out += fmt::format("[^{}]", kSpaceRanges);
      } else if (e == 'h' || e == 'H' || e == 'K') {
        return Fail(Error::kUnsupported,
                    fmt::format("the tokenizer's split pattern \"{}\" uses \\{}, whose meaning differs between regular "
                                "expression engines; write it differently",
                                pattern, e));
      } else {
        out += c;
        out += e;
      }
      continue;
    }
    if (in_class && c == '&' && pattern.substr(i, 2) == "&&") {
      return Fail(Error::kUnsupported, fmt::format("the tokenizer's split pattern \"{}\" intersects character classes "
                                                   "(&&), which is not supported; write the class out",
                                                   pattern));
    }
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    out += c;
  }
  return out;
}

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeMatch {
  void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
};
struct FreeContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
struct FreeStack {
  void operator()(pcre2_jit_stack* stack) const { pcre2_jit_stack_free(stack); }
};

// What one Split call needs besides the compiled rules; not shared between threads.
struct Scratch {
  std::unique_ptr<pcre2_match_data, FreeMatch> match{pcre2_match_data_create(1, nullptr)};
  std::unique_ptr<pcre2_match_context, FreeContext> context{pcre2_match_context_create(nullptr)};
  std::unique_ptr<pcre2_jit_stack, FreeStack> stack;
};

}  // namespace

const char* Gpt2SplitPattern() { return kGpt2; }

const std::vector<PreSplitFamily>& PreSplitFamilies() {
  static const std::vector<PreSplitFamily> kFamilies = {
      {.names = {"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling"}, .rules = {{kGpt2}}},
      {.names = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"},
       .rules = {{R"(\p{N})"}, {kGpt2}}},
      {.names = {"llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"},
       .rules = {{kLlama3}},
       .ignore_merges = true,
       .adds_bos = true},
      {.names = {"dbrx", "smaug-bpe"}, .rules = {{kLlama3}}},
      {.names = {"qwen2", "deepseek-r1-qwen"}, .rules = {{kQwen2}}, .normalizes_nfc = true},
      {.names = {"stablelm2"}, .rules = {{kQwen2}}},
      {.names = {"default"}, .rules = {{R"([\p{P}\$\+<=>\^~\|]+)"}, {kGpt2}, {R"(\p{N}+)"}, {R"([0-9][0-9][0-9])"}}},
  };
  return kFamilies;
}

struct PreSplitter::Impl {
  struct Rule {
    std::unique_ptr<pcre2_code, FreeCode> code;
    SplitRule source;
  };
  std::vector<Rule> rules;

  Result<void> Apply(const Rule& rule, std::string_view text, Scratch& scratch,
                     std::vector<std::string_view>& out) const;
};

PreSplitter::PreSplitter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
PreSplitter::PreSplitter(PreSplitter&&) noexcept = default;
PreSplitter& PreSplitter::operator=(PreSplitter&&) noexcept = default;
PreSplitter::~PreSplitter() = default;

Result<PreSplitter> PreSplitter::Create(const std::vector<SplitRule>& rules) {
  auto impl = std::make_unique<Impl>();
  for (const SplitRule& rule : rules) {
    CACHETTE_TRY(const std::string pattern, Translate(rule.pattern));
    int code_error = 0;
    PCRE2_SIZE at = 0;
    std::unique_ptr<pcre2_code, FreeCode> code(
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                      PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code_error, &at, nullptr));
    if (code == nullptr) {
      char reason[160] = "";
      pcre2_get_error_message(code_error, reinterpret_cast<PCRE2_UCHAR*>(reason), sizeof(reason));
      return Fail(Error::kUnsupported,
                  fmt::format("the tokenizer's split pattern \"{}\" does not compile: {}", rule.pattern, reason));
    }
    pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);  // where the system forbids it, pcre2_match interprets
    impl->rules.push_back({std::move(code), rule});
  }
  return PreSplitter(std::move(impl));
}

Result<void> PreSplitter::Impl::Apply(const Rule& rule, std::string_view text, Scratch& scratch,
                                      std::vector<std::string_view>& out) const {
  // The text was validated once; checking it again at every match would make long texts quadratic.
  constexpr uint32_t kOptions = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t done = 0, from = 0;
  while (from < text.size()) {
    int found =
        pcre2_match(rule.code.get(), subject, text.size(), from, kOptions, scratch.match.get(), scratch.context.get());
    if (found == PCRE2_ERROR_JIT_STACKLIMIT && scratch.stack == nullptr) {
      scratch.stack.reset(pcre2_jit_stack_create(32 << 10, 8 << 20, nullptr));
      pcre2_jit_stack_assign(scratch.context.get(), nullptr, scratch.stack.get());
      continue;
    }
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      return Fail(
          Error::kUnsupported,
          fmt::format("the tokenizer's split pattern \"{}\" exceeds the regular expression limits at byte {} of "
                      "a {}-byte text (PCRE2 error {}); simplify the pattern",
                      rule.source.pattern, from, text.size(), found));
    }
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(scratch.match.get());
    if (ends[0] > done && !rule.source.drops_gaps) out.push_back(text.substr(done, ends[0] - done));
    out.push_back(text.substr(ends[0], ends[1] - ends[0]));
    done = from = ends[1];
  }
  if (done < text.size() && !rule.source.drops_gaps) out.push_back(text.substr(done));
  return Ok();
}

Result<void> PreSplitter::Split(std::string_view text, std::vector<std::string_view>& pieces) const {
  if (text.empty()) return Ok();
  Scratch scratch;
  std::vector<std::string_view> current{text}, next;
  for (const Impl::Rule& rule : impl_->rules) {
    next.clear();
    for (const std::string_view piece : current) CACHETTE_TRY(impl_->Apply(rule, piece, scratch, next));
    current.swap(next);
  }
  pieces.insert(pieces.end(), current.begin(), current.end());
  return Ok();
}

}  // namespace cachette
