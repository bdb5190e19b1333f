#include <string>
#include <string_view>
#include <vector>

#include "fuzz_target.h"
#include "text/stream_decoder.h"
#include "text/tokenizer.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"

namespace cachette::fuzz::tokenizer {
namespace {

// What holds for every tokenizer and text: encoding never fails on valid UTF-8 except for a file's own split pattern,
// ids are in the vocabulary, and streaming gives what decoding gives.
void CheckText(const Tokenizer& tokenizer, std::string_view text, bool keeps_every_byte) {
  for (const bool parse_special : {false, true}) {
    const auto ids = tokenizer.Encode(text, {.add_special = false, .parse_special = parse_special});
    if (!ids.ok()) {
      const bool is_valid = FindInvalidUtf8(text) == std::string_view::npos;
      CACHETTE_CHECK(ids.failure().error == (is_valid ? Error::kUnsupported : Error::kInvalidArgument));
      continue;
    }
    for (const int32_t id : *ids) CACHETTE_CHECK(id >= 0 && id < tokenizer.vocab_size());
    const std::string decoded = tokenizer.Decode(*ids, /*skip_special=*/false);
    if (keeps_every_byte) CACHETTE_CHECK(decoded == text);
    StreamDecoder stream(tokenizer, /*skip_special=*/false, /*starts_text=*/true);
    std::string streamed;
    for (const int32_t id : *ids) streamed += stream.Push(id);
    streamed += stream.Finish();
    CACHETTE_CHECK(FindInvalidUtf8(streamed) == std::string_view::npos);
    if (keeps_every_byte) CACHETTE_CHECK(streamed == text);
  }
  // Nothing of a literal text is a control token.
  const TextRange all{0, text.size()};
  const auto ids = tokenizer.Encode(text, {.add_special = false, .literal = {&all, text.empty() ? 0u : 1u}});
  if (ids.ok()) CACHETTE_CHECK(*ids == *tokenizer.Encode(text, {.add_special = false, .parse_special = false}));
}

// GPT-2's pre-split over the 256 bytes and a few merges: decode(encode(x)) == x for every text.
const Tokenizer& Bytes() {
  static const Tokenizer kTokenizer = [] {
    std::string vocab, merges;
    const auto add = [&vocab](std::string_view piece, int id) {
      if (!vocab.empty()) vocab += ',';
      vocab += '"';
      if (piece == "\"" || piece == "\\") vocab += '\\';
      vocab.append(piece).append("\":").append(std::to_string(id));
    };
    int id = 0, beyond = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool prints = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      std::string piece;
      AppendUtf8(static_cast<uint32_t>(prints ? byte : beyond++), piece);
      add(piece, id++);
    }
    for (const auto& [left, right] :
         {std::pair("a", "b"), {"ab", "c"}, {"\u0120", "a"}, {"b", "c"}, {"a", "a"}, {"aa", "a"}}) {
      add(std::string(left) + right, id++);
      merges.append(merges.empty() ? "[\"" : ",[\"").append(left).append("\",\"").append(right).append("\"]");
    }
    const std::string json =
        R"({"model":{"type":"BPE","vocab":{)" + vocab + R"(},"merges":[)" + merges +
        R"(]},"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true},)"
        R"("added_tokens":[{"id":300,"content":"<s>","special":true},{"id":301,"content":"<sep>"}]})";
    auto spec = SpecFromTokenizerJson(json, "");
    CACHETTE_CHECK(spec.ok());
    auto made = Tokenizer::Create(*spec);
    CACHETTE_CHECK(made.ok());
    return std::move(*made);
  }();
  return kTokenizer;
}

}  // namespace

// Input: a text for a fixed tokenizer; when it starts with '{', also a tokenizer.json, up to the first NUL byte, and a
// text for that one behind it.
void Run(std::span<const std::byte> input) {
  const std::string_view all(reinterpret_cast<const char*>(input.data()), input.size());
  CheckText(Bytes(), all, /*keeps_every_byte=*/true);
  if (!all.starts_with('{')) return;
  const size_t end = all.find('\0');
  const auto spec = SpecFromTokenizerJson(all.substr(0, end), "");
  if (!spec.ok()) {
    CACHETTE_CHECK(spec.failure().error == Error::kCorrupt || spec.failure().error == Error::kUnsupported);
    return;
  }
  const auto made = Tokenizer::Create(*spec);
  if (made.ok()) CheckText(*made, end == std::string_view::npos ? "a \xc3\xa9<s>" : all.substr(end + 1), false);
}

}  // namespace cachette::fuzz::tokenizer
