#pragma once
// What a model file says about its tokenizer, in one form for every source: GGUF metadata (gguf_vocab.h) and Hugging
// Face tokenizer.json (tokenizer_json.h) fill it, Tokenizer::Create reads it.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cachette {

inline constexpr std::string_view kSpaceMarker = "\xe2\x96\x81";  // U+2581: a space, in pieces of SentencePiece

enum class TokenizerKind : uint8_t {
  kByteLevelBpe,      // pieces are bytes written in GPT-2's printable alphabet; merges have ranks
  kSentencePieceBpe,  // pieces are characters, U+2581 stands for a space, <0xNN> for a byte no piece covers
};

enum class TokenType : uint8_t {
  kNormal = 1,       // produced by merging
  kUnknown = 2,      // stands for what the vocabulary cannot express
  kControl = 3,      // found in text only with parse_special; left out of decoded text with skip_special
  kUserDefined = 4,  // found in text always, before any merging
  kUnused = 5,       // never produced
  kByte = 6,         // one byte, written <0xNN>
};                   // the numbers are GGUF's

// One step of the pre-split: the text is cut at both ends of every match of a regular expression (PCRE2 syntax; the
// Onigurama patterns of tokenizer.json that differ are refused).
struct SplitRule {
  std::string pattern;
  bool drops_gaps = false;  // text between matches disappears ("Removed" with "invert"); else it is a piece of its own
};

// When SentencePiece-style text gets a space in front ("dummy prefix"), per run of text between special tokens.
enum class SpacePrefix : uint8_t { kNever, kFirstFragment, kEveryFragment };

// How added tokens swallow white space around them in text.
struct TokenMargin {
  int32_t id = -1;
  bool strips_left = false;
  bool strips_right = false;
};

struct TokenizerSpec {
  TokenizerKind kind = TokenizerKind::kByteLevelBpe;
  std::vector<std::string_view> tokens;  // [vocab_size], by id, as written in the file
  std::vector<TokenType> types;          // [vocab_size], or empty: all normal
  std::vector<float> scores;             // [vocab_size] when merging goes by score (no merges given), higher first
  std::vector<std::pair<std::string_view, std::string_view>> merges;  // by rank, lowest first
  std::vector<TokenMargin> margins;                                   // only tokens that strip something
  std::shared_ptr<const void> owner;  // keeps the views above alive; empty when the caller does

  std::vector<SplitRule> pre_split;  // applied in order, each to the pieces of the one before; byte-level only
  bool ignore_merges = false;        // a piece that is a token as a whole is not taken apart
  bool normalizes_nfc = false;       // text is brought to Unicode NFC first
  bool maps_space_marker = true;     // SentencePiece-style: U+2581 stands for a space
  SpacePrefix space_prefix = SpacePrefix::kNever;
  bool prefix_only_if_missing = false;  // no second space in front of text that starts with one
  bool splits_at_every_space = false;   // SentencePiece-style: no merge across the start of a word

  int32_t bos_id = -1;
  int32_t eos_id = -1;
  int32_t unk_id = -1;  // emitted for what the vocabulary cannot express; -1: that part of the text is dropped
  int32_t pad_id = -1;
  bool fuses_unknown = false;          // one unk_id for a run of unknown characters
  std::vector<int32_t> extra_end_ids;  // end generation, besides eos_id
  std::vector<int32_t> prefix_ids;     // put in front when add_special is set: normally {bos_id} or nothing
  std::vector<int32_t> suffix_ids;     // put behind when add_special is set

  std::string chat_template;  // Jinja source, "" when the model brings none
};

// Adds tokens whose name says that a turn or text ends (<|im_end|>, <end_of_turn>, ...) to extra_end_ids. Files often
// name one end token only, and a chat model that never stops is worse than one that stops at its own end-of-turn mark.
void AddWellKnownEndTokens(TokenizerSpec& spec);

}  // namespace cachette
