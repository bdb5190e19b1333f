// How a Tokenizer's tables come from a TokenizerSpec.

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cmath>

#include "text/tokenizer.h"
#include "text/utf8.h"

namespace cachette {
namespace {

// GPT-2's printable alphabet: code point -> byte, -1 elsewhere. Bytes that print stand for themselves, the others
// follow from U+0100 on in ascending order. Source: "Language Models are Unsupervised Multitask Learners", its released
// encoder.
constexpr std::array<int16_t, 324> kByteOfCodePoint = [] {
  std::array<int16_t, 324> table{};
  table.fill(-1);
  size_t next = 256;
  for (int16_t byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae);
    table[prints ? static_cast<size_t>(byte) : next++] = byte;
  }
  return table;
}();

// Appends the bytes a byte-level piece stands for. False, and nothing appended, when a character is outside the
// alphabet or the piece is not UTF-8. Runs for every token and both sides of every merge of a vocabulary at start-up.
bool AppendByteLevel(std::string_view piece, std::string& out) {
  const size_t before = out.size();
  out.resize(before + piece.size());
  char* end = out.data() + before;
  for (size_t i = 0; i < piece.size(); ++i) {
    uint32_t c = static_cast<uint8_t>(piece[i]);
    if (c >= 0x80) {
      const uint32_t tail = i + 1 < piece.size() ? static_cast<uint8_t>(piece[++i]) : 0;
      const bool is_pair = c >= 0xc2 && c < 0xe0 && (tail & 0xc0) == 0x80;
      c = is_pair ? (c & 0x1f) << 6 | (tail & 0x3f) : UINT32_MAX;
    }
    const int byte = c < kByteOfCodePoint.size() ? kByteOfCodePoint[c] : -1;
    if (byte < 0) {
      out.resize(before);
      return false;
    }
    *end++ = static_cast<char>(byte);
  }
  out.resize(static_cast<size_t>(end - out.data()));
  return true;
}

void AppendSpaceMarked(std::string_view piece, std::string& out) {
  for (size_t at; (at = piece.find(kSpaceMarker)) != std::string_view::npos; piece.remove_prefix(at + 3)) {
    out += piece.substr(0, at);
    out += ' ';
  }
  out += piece;
}

// Byte that "<0x0A>" names, -1 when piece is not of that form.
int ByteOfName(std::string_view piece) {
  const auto digit = [](char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
  };
  if (piece.size() != 6 || piece.substr(0, 3) != "<0x" || piece[5] != '>') return -1;
  const int high = digit(piece[3]), low = digit(piece[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

// Bytes of a token as they appear in decoded text. A byte-level piece outside the alphabet stands for itself.
void AppendPiece(const TokenizerSpec& spec, std::string_view piece, TokenType type, std::string& out) {
  if (type == TokenType::kByte) {
    if (const int byte = ByteOfName(piece); byte >= 0) {
      out += static_cast<char>(byte);
      return;
    }
  }
  if (type == TokenType::kNormal && spec.kind == TokenizerKind::kByteLevelBpe && AppendByteLevel(piece, out)) return;
  if (spec.kind == TokenizerKind::kSentencePieceBpe && spec.maps_space_marker && type != TokenType::kControl) {
    return AppendSpaceMarked(piece, out);
  }
  out += piece;
}

// Key that sorts f32 in descending order; +0 and -0 are equal.
uint32_t DescendingKey(float score) {
  const auto bits = std::bit_cast<uint32_t>(score + 0.0f);
  return ~((bits >> 31) != 0 ? ~bits : bits | 0x80000000u);
}

}  // namespace

Result<Tokenizer> Tokenizer::Create(const TokenizerSpec& spec) {
  Tokenizer t;
  t.kind_ = spec.kind;
  t.ignore_merges_ = spec.ignore_merges;
  t.normalizes_nfc_ = spec.normalizes_nfc;
  t.maps_space_marker_ = spec.maps_space_marker;
  t.prefix_only_if_missing_ = spec.prefix_only_if_missing;
  t.splits_at_every_space_ = spec.splits_at_every_space;
  t.fuses_unknown_ = spec.fuses_unknown;
  t.space_prefix_ = spec.space_prefix;
  t.chat_template_ = spec.chat_template;
  CACHETTE_TRY(t.ReadTokens(spec));
  CACHETTE_TRY(t.ReadIds(spec));
  if (!spec.merges.empty() || spec.kind == TokenizerKind::kByteLevelBpe) {
    CACHETTE_TRY(t.ReadMerges(spec));
  } else {
    CACHETTE_TRY(t.ReadScores(spec));
  }
  t.FindSingleBytes(spec);
  t.CollectAddedTokens(spec);
  if (spec.kind == TokenizerKind::kByteLevelBpe) {
    CACHETTE_TRY(t.pre_splitter_, PreSplitter::Create(spec.pre_split));
  } else {
    t.FindJoinsBeforeSpace();
  }
  return t;
}

Result<void> Tokenizer::ReadTokens(const TokenizerSpec& spec) {
  const size_t num_tokens = spec.tokens.size();
  constexpr size_t kMaxTokens = 1 << 24;
  if (num_tokens == 0 || num_tokens > kMaxTokens) {
    return Fail(Error::kCorrupt, fmt::format("the vocabulary has {} tokens, expected 1 to {}; get the model file again",
                                             num_tokens, kMaxTokens));
  }
  if (!spec.types.empty() && spec.types.size() != num_tokens) {
    return Fail(Error::kCorrupt,
                fmt::format("{} token types for {} tokens; get the model file again", spec.types.size(), num_tokens));
  }
  types_ = spec.types;
  types_.resize(num_tokens, TokenType::kNormal);
  std::string piece;
  size_t num_bytes = 0;
  for (const std::string_view token : spec.tokens) num_bytes += token.size();
  constexpr size_t kMaxBytes = size_t{1} << 31;
  if (num_bytes > kMaxBytes) {
    return Fail(Error::kCorrupt,
                fmt::format("the vocabulary's text has {} bytes, the limit is {}; get the model file again", num_bytes,
                            kMaxBytes));
  }
  bytes_.reserve(num_bytes);
  offsets_.reserve(num_tokens + 1);
  offsets_.push_back(0);
  for (size_t id = 0; id < num_tokens; ++id) {
    if (const size_t bad = FindInvalidUtf8(spec.tokens[id]); bad != std::string_view::npos) {
      return Fail(Error::kCorrupt,
                  fmt::format("token {} is not valid UTF-8 at its byte {}; get the model file again", id, bad));
    }
    piece.clear();
    AppendPiece(spec, spec.tokens[id], types_[id], piece);
    bytes_.insert(bytes_.end(), piece.begin(), piece.end());
    offsets_.push_back(static_cast<uint32_t>(bytes_.size()));
  }
  // Normal tokens last, so that of equal texts the one merging may yield is found.
  text_to_id_.Reset(num_tokens);
  const auto text_of = [this](int32_t id) { return TextOf(id); };
  for (const bool normal : {false, true}) {
    for (int32_t id = 0; id < vocab_size(); ++id) {
      if ((types_[static_cast<size_t>(id)] == TokenType::kNormal) == normal)
        text_to_id_.Insert(TextOf(id), id, text_of);
    }
  }
  return Ok();
}

Result<void> Tokenizer::ReadMerges(const TokenizerSpec& spec) {
  merges_.Reset(spec.merges.size());
  std::string joined;
  int32_t joined_id = -1;
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const auto& [left, right] = spec.merges[rank];
    joined.clear();
    AppendPiece(spec, left, TokenType::kNormal, joined);
    const size_t middle = joined.size();
    AppendPiece(spec, right, TokenType::kNormal, joined);
    const int32_t left_id = FindText(std::string_view(joined).substr(0, middle));
    const int32_t right_id = FindText(std::string_view(joined).substr(middle));
    // Vocabularies list what merges give in the merges' order: the next token is nearly always the right one.
    ++joined_id;
    if (joined_id >= vocab_size() || TextOf(joined_id) != joined || TypeOf(joined_id) != TokenType::kNormal) {
      joined_id = FindText(joined);
    }
    if (left_id < 0 || right_id < 0 || joined_id < 0) {
      return Fail(
          Error::kCorrupt,
          fmt::format("merge {} joins \"{}\" and \"{}\", but not all of them and the result are in the vocabulary; "
                      "get the model file again",
                      rank, left, right));
    }
    merges_.Insert(left_id, right_id, {static_cast<uint32_t>(rank), joined_id});
  }
  return Ok();
}

Result<void> Tokenizer::ReadScores(const TokenizerSpec& spec) {
  if (spec.scores.size() != spec.tokens.size()) {
    return Fail(Error::kCorrupt,
                fmt::format("{} scores for {} tokens; a SentencePiece vocabulary needs one score per token",
                            spec.scores.size(), spec.tokens.size()));
  }
  orders_.reserve(spec.scores.size());
  for (size_t id = 0; id < spec.scores.size(); ++id) {
    if (std::isnan(spec.scores[id])) {
      return Fail(Error::kCorrupt, fmt::format("the score of token {} is not a number; get the model file again", id));
    }
    orders_.push_back(DescendingKey(spec.scores[id]));
  }
  return Ok();
}

Result<void> Tokenizer::ReadIds(const TokenizerSpec& spec) {
  const auto check = [&](const char* what, int32_t id) -> Result<void> {
    if (id >= -1 && id < vocab_size()) return Ok();
    return Fail(Error::kCorrupt,
                fmt::format("the {} token id is {}, but the vocabulary has {} tokens; get the model file again", what,
                            id, vocab_size()));
  };
  CACHETTE_TRY(check("beginning-of-text", bos_id_ = spec.bos_id));
  CACHETTE_TRY(check("end-of-text", eos_id_ = spec.eos_id));
  CACHETTE_TRY(check("unknown", unk_id_ = spec.unk_id));
  CACHETTE_TRY(check("padding", pad_id_ = spec.pad_id));
  end_ids_ = spec.extra_end_ids;
  if (eos_id_ >= 0) end_ids_.push_back(eos_id_);
  prefix_ids_ = spec.prefix_ids;
  suffix_ids_ = spec.suffix_ids;
  for (const auto* ids : {&end_ids_, &prefix_ids_, &suffix_ids_}) {
    for (const int32_t id : *ids) {
      if (id < 0) return Fail(Error::kCorrupt, "the file asks for a special token it does not define; set its id");
      CACHETTE_TRY(check("special", id));
    }
  }
  return Ok();
}

void Tokenizer::FindSingleBytes(const TokenizerSpec& spec) {
  byte_ids_.fill(-1);
  if (kind_ == TokenizerKind::kByteLevelBpe) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const char text = static_cast<char>(byte);
      byte_ids_[byte] = FindText({&text, 1});
      // A lone byte above 0x7f can only be a byte-level token; below, a special token might have that text.
      if (byte_ids_[byte] >= 0 && TypeOf(byte_ids_[byte]) != TokenType::kNormal) byte_ids_[byte] = -1;
    }
    return;
  }
  for (size_t id = 0; id < types_.size(); ++id) {
    if (types_[id] != TokenType::kByte) continue;
    if (const int byte = ByteOfName(spec.tokens[id]); byte >= 0)
      byte_ids_[static_cast<size_t>(byte)] = static_cast<int32_t>(id);
  }
}

void Tokenizer::FindJoinsBeforeSpace() {
  for (int32_t id = 0; id < vocab_size(); ++id) {
    if (TypeOf(id) != TokenType::kNormal) continue;
    const std::string_view text = TextOf(id);
    for (size_t i = 1; i < text.size(); ++i) {
      if (text[i] == ' ' && text[i - 1] != ' ') joins_before_space_.set(static_cast<uint8_t>(text[i - 1]));
    }
  }
}

void Tokenizer::CollectAddedTokens(const TokenizerSpec& spec) {
  std::vector<AddedTokenMatcher::Entry> entries;
  std::vector<size_t> entry_of(spec.margins.empty() ? 0 : types_.size(), SIZE_MAX);
  for (int32_t id = 0; id < vocab_size(); ++id) {
    const bool is_control = IsControl(id);
    if ((!is_control && TypeOf(id) != TokenType::kUserDefined) || TextOf(id).empty()) continue;
    if (!entry_of.empty()) entry_of[static_cast<size_t>(id)] = entries.size();
    entries.push_back({.text = TextOf(id), .id = id, .is_control = is_control});
  }
  for (const TokenMargin& margin : spec.margins) {
    if (margin.id < 0 || margin.id >= vocab_size() || entry_of[static_cast<size_t>(margin.id)] == SIZE_MAX) continue;
    AddedTokenMatcher::Entry& entry = entries[entry_of[static_cast<size_t>(margin.id)]];
    entry.strips_left = margin.strips_left;
    entry.strips_right = margin.strips_right;
  }
  added_tokens_ = AddedTokenMatcher(std::move(entries));
}

}  // namespace cachette
