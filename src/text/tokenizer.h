#pragma once
// Text to token ids and back, for byte-level BPE and SentencePiece-style BPE.

#include <array>
#include <bit>
#include <bitset>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/added_tokens.h"
#include "text/marked_text.h"
#include "text/pre_split.h"
#include "text/tokenizer_spec.h"
#include "text/vocab_map.h"

namespace cachette {

struct EncodeOptions {
  bool add_special = true;    // put the tokens the model expects around a text (bos, eos) around it
  bool parse_special = true;  // control tokens written in the text become tokens; off for text from strangers
  std::span<const TextRange> literal = {};  // where they do not: MarkedText::literal of the text
};

// Immutable after Create; any number of threads may use one at once.
class Tokenizer {
 public:
  // Reads spec (its views need live only until this returns).
  // Errors: kCorrupt (arrays of different length, ids out of range, merges of unknown tokens), kUnsupported
  // (pre-split).
  static Result<Tokenizer> Create(const TokenizerSpec& spec);

  // Ids of utf8. Errors: kInvalidArgument (invalid UTF-8, with its byte offset; 2 GiB or more).
  Result<std::vector<int32_t>> Encode(std::string_view utf8, EncodeOptions options = {}) const;

  // Bytes of ids, not necessarily valid UTF-8: a token may end inside a character (StreamDecoder waits for the rest).
  // skip_special leaves out control tokens. Ids outside the vocabulary yield nothing.
  // The space that a SentencePiece-style encoder puts in front of text is taken off again.
  std::string Decode(std::span<const int32_t> ids, bool skip_special = true) const;

  // Bytes of one token as they appear in decoded text, "" outside the vocabulary.
  std::string_view TokenBytes(int32_t id) const;
  TokenType TypeOf(int32_t id) const;  // kUnused outside the vocabulary
  bool IsControl(int32_t id) const { return TypeOf(id) == TokenType::kControl || TypeOf(id) == TokenType::kUnknown; }
  bool IsEndOfGeneration(int32_t id) const;
  // Id of the token with exactly these bytes: the one merging yields when several have them.
  std::optional<int32_t> IdOf(std::string_view bytes) const;

  TokenizerKind kind() const { return kind_; }
  int32_t vocab_size() const { return static_cast<int32_t>(types_.size()); }
  int32_t bos_id() const { return bos_id_; }  // -1: the model has none; so for the next two
  int32_t eos_id() const { return eos_id_; }
  int32_t pad_id() const { return pad_id_; }
  bool adds_bos() const { return !prefix_ids_.empty(); }
  const std::vector<int32_t>& end_ids() const { return end_ids_; }
  const std::string& chat_template() const { return chat_template_; }  // "" when the model brings none
  // Bytes for which the vocabulary has no token. Encode drops them (or emits the unknown token), so text that holds
  // them does not survive decode(encode(text)).
  std::vector<uint8_t> MissingBytes() const;
  // True when a run of text that follows a special token (or starts the text) gets a space in front.
  bool adds_space_prefix() const { return space_prefix_ != SpacePrefix::kNever; }

 private:
  struct Session;  // one Encode call

  Tokenizer() = default;
  // tokenizer_create.cc: from the spec to the tables below.
  Result<void> ReadTokens(const TokenizerSpec& spec);
  Result<void> ReadMerges(const TokenizerSpec& spec);
  Result<void> ReadScores(const TokenizerSpec& spec);
  Result<void> ReadIds(const TokenizerSpec& spec);
  void FindSingleBytes(const TokenizerSpec& spec);
  void FindJoinsBeforeSpace();
  void CollectAddedTokens(const TokenizerSpec& spec);

  Result<void> EncodeFragment(std::string_view fragment, bool is_first, Session& session) const;
  void SplitAtSpaces(std::string_view text, std::vector<std::string_view>& pieces) const;
  void EncodePiece(std::string_view piece, Session& session) const;
  void MergePiece(std::string_view piece, Session& session) const;
  bool EmitUncovered(std::string_view character, bool after_unknown, Session& session) const;

  std::string_view TextOf(int32_t id) const {
    const auto i = static_cast<size_t>(id);
    return {bytes_.data() + offsets_[i], offsets_[i + 1] - offsets_[i]};
  }
  int32_t FindText(std::string_view text) const {
    return text_to_id_.Find(text, [this](int32_t id) { return TextOf(id); });
  }
  int32_t FindNormal(std::string_view text) const {
    const int32_t id = FindText(text);
    return id >= 0 && types_[static_cast<size_t>(id)] == TokenType::kNormal ? id : -1;
  }

  TokenizerKind kind_ = TokenizerKind::kByteLevelBpe;
  std::vector<char> bytes_;        // decoded bytes of all tokens, one behind the other; views into it survive a move
  std::vector<uint32_t> offsets_;  // [vocab_size + 1], into bytes_
  std::vector<TokenType> types_;   // [vocab_size]
  TextToId text_to_id_;            // over decoded bytes; of equal texts the kNormal token
  PairToMerge merges_;             // empty: merging goes by score
  std::vector<uint32_t> orders_;   // [vocab_size] when merging goes by score: lower joins first
  std::array<int32_t, 256> byte_ids_{};  // token of a single byte, -1 when missing
  std::bitset<256> joins_before_space_;  // SentencePiece-style: last bytes after which a token may go on with a space
  std::optional<PreSplitter> pre_splitter_;
  AddedTokenMatcher added_tokens_;

  bool ignore_merges_ = false;
  bool normalizes_nfc_ = false;
  bool maps_space_marker_ = false;
  bool prefix_only_if_missing_ = false;
  bool splits_at_every_space_ = false;
  bool fuses_unknown_ = false;
  SpacePrefix space_prefix_ = SpacePrefix::kNever;
  int32_t bos_id_ = -1, eos_id_ = -1, unk_id_ = -1, pad_id_ = -1;
  std::vector<int32_t> prefix_ids_, suffix_ids_, end_ids_;
  std::string chat_template_;
};

}  // namespace cachette
