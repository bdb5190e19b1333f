#include "text/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>

#include "text/bpe_merge.h"
#include "text/unicode_nfc.h"
#include "text/utf8.h"

namespace cachette {
namespace {

constexpr size_t kMaxCachedBytes = 64;  // longer pieces hardly ever repeat

void ReplaceAll(std::string_view text, std::string_view from, std::string_view to, std::string& out) {
  for (size_t at; (at = text.find(from)) != std::string_view::npos; text.remove_prefix(at + from.size())) {
    out += text.substr(0, at);
    out += to;
  }
  out += text;
}

// Where ranges of text lie once every space marker in it is one byte.
std::vector<TextRange> MoveRanges(std::span<const TextRange> ranges, std::string_view text) {
  std::vector<TextRange> moved;
  size_t removed = 0, marker = text.find(kSpaceMarker);
  const auto move = [&](size_t pos) {
    for (; marker != std::string_view::npos && marker + kSpaceMarker.size() <= pos;
         marker = text.find(kSpaceMarker, marker + kSpaceMarker.size())) {
      removed += kSpaceMarker.size() - 1;
    }
    return pos - removed;
  };
  for (const TextRange& range : ranges) {
    const size_t begin = move(range.begin);
    moved.push_back({begin, move(range.end)});
  }
  return moved;
}

// text without the white space at its end, or at its start.
std::string_view WithoutSpaceBehind(std::string_view text) {
  while (!text.empty()) {
    size_t last = text.size() - 1;
    while (last > 0 && (static_cast<uint8_t>(text[last]) & 0xc0) == 0x80) --last;
    size_t pos = last;
    if (!IsUnicodeSpace(NextCodePoint(text, pos))) break;
    text = text.substr(0, last);
  }
  return text;
}
size_t SpaceInFront(std::string_view text) {
  size_t kept = 0;
  for (size_t pos = 0; pos < text.size(); kept = pos) {
    if (!IsUnicodeSpace(NextCodePoint(text, pos))) break;
  }
  return kept;
}

}  // namespace

// Ids so far, the pieces already seen and the scratch of one Encode call. Natural text repeats its words: a cached
// piece is copied from where its ids stand in the output.
struct Tokenizer::Session {
  struct CachedPiece {
    std::string_view piece;
    uint32_t begin = 0, num_ids = 0;  // in ids
  };

  explicit Session(size_t text_bytes) : cache(std::bit_ceil(std::clamp<size_t>(text_bytes / 8, 16, 8192))) {
    ids.reserve(text_bytes / 4 + 16);
  }

  std::vector<int32_t> ids;
  std::vector<CachedPiece> cache;  // direct-mapped by hash
  std::deque<std::string> texts;   // normalised fragments: cached pieces point into them
  std::vector<std::string_view> pieces;
  std::vector<BpeSymbol> symbols;
  std::vector<BpeCandidate> heap;
};

std::string_view Tokenizer::TokenBytes(int32_t id) const {
  return id >= 0 && id < vocab_size() ? TextOf(id) : std::string_view();
}

TokenType Tokenizer::TypeOf(int32_t id) const {
  return id >= 0 && id < vocab_size() ? types_[static_cast<size_t>(id)] : TokenType::kUnused;
}

bool Tokenizer::IsEndOfGeneration(int32_t id) const { return std::ranges::find(end_ids_, id) != end_ids_.end(); }

std::optional<int32_t> Tokenizer::IdOf(std::string_view bytes) const {
  const int32_t id = FindText(bytes);
  return id >= 0 ? std::optional(id) : std::nullopt;
}

std::vector<uint8_t> Tokenizer::MissingBytes() const {
  std::vector<uint8_t> missing;
  for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    if (byte_ids_[byte] < 0) missing.push_back(static_cast<uint8_t>(byte));
  }
  return missing;
}

Result<std::vector<int32_t>> Tokenizer::Encode(std::string_view utf8, EncodeOptions options) const {
  if (const size_t bad = FindInvalidUtf8(utf8); bad != std::string_view::npos) {
    return Fail(Error::kInvalidArgument,
                fmt::format("the text is not valid UTF-8 at byte {} (0x{:02x}); convert it to UTF-8 first", bad,
                            static_cast<uint8_t>(utf8[bad])));
  }
  constexpr size_t kMaxBytes = size_t{1} << 31;
  if (utf8.size() >= kMaxBytes) {
    return Fail(Error::kInvalidArgument,
                fmt::format("the text has {} bytes, the limit is {}; encode it in parts", utf8.size(), kMaxBytes - 1));
  }
  Session session(utf8.size());
  std::vector<TextRange> moved;
  if (kind_ == TokenizerKind::kSentencePieceBpe && maps_space_marker_ &&
      utf8.find(kSpaceMarker) != std::string_view::npos) {
    std::string& spaced = session.texts.emplace_back();  // a written marker is a space, also to user-defined tokens
    ReplaceAll(utf8, kSpaceMarker, " ", spaced);
    moved = MoveRanges(options.literal, utf8);
    options.literal = moved;
    utf8 = spaced;
  }
  if (options.add_special) session.ids = prefix_ids_;
  for (size_t pos = 0; pos < utf8.size();) {
    size_t at = utf8.size();
    const AddedTokenMatcher::Entry* added = added_tokens_.Find(utf8, pos, options.parse_special, options.literal, at);
    std::string_view fragment = utf8.substr(pos, at - pos);
    if (added != nullptr && added->strips_left) fragment = WithoutSpaceBehind(fragment);
    if (!fragment.empty()) CACHETTE_TRY(EncodeFragment(fragment, /*is_first=*/pos == 0, session));
    pos = at;
    if (added == nullptr) break;
    session.ids.push_back(added->id);
    pos += added->text.size();
    if (added->strips_right) pos += SpaceInFront(utf8.substr(pos));
  }
  if (options.add_special) session.ids.insert(session.ids.end(), suffix_ids_.begin(), suffix_ids_.end());
  return std::move(session.ids);
}

Result<void> Tokenizer::EncodeFragment(std::string_view fragment, bool is_first, Session& session) const {
  const auto keep = [&](std::string text) { return std::string_view(session.texts.emplace_back(std::move(text))); };
  if (normalizes_nfc_ && !IsCertainlyNfc(fragment)) fragment = keep(ToNfc(fragment));
  const bool wants_prefix =
      space_prefix_ == SpacePrefix::kEveryFragment || (space_prefix_ == SpacePrefix::kFirstFragment && is_first);
  if (wants_prefix && !(prefix_only_if_missing_ && fragment.starts_with(' '))) {
    fragment = keep(std::string(" ").append(fragment));
  }
  session.pieces.clear();
  if (pre_splitter_) {
    CACHETTE_TRY(pre_splitter_->Split(fragment, session.pieces));
  } else {
    SplitAtSpaces(fragment, session.pieces);
  }
  for (const std::string_view piece : session.pieces) EncodePiece(piece, session);
  return Ok();
}

// Cuts before a space where no token of the vocabulary could span the cut, so merging the parts is merging the whole:
// words stay short and repeat.
void Tokenizer::SplitAtSpaces(std::string_view text, std::vector<std::string_view>& pieces) const {
  size_t begin = 0;
  for (size_t i = 1; i < text.size(); ++i) {
    if (text[i] != ' ') continue;
    const bool may_join = text[i - 1] == ' ' || joins_before_space_[static_cast<uint8_t>(text[i - 1])];
    if (may_join && !splits_at_every_space_) continue;
    pieces.push_back(text.substr(begin, i - begin));
    begin = i;
  }
  pieces.push_back(text.substr(begin));
}

void Tokenizer::EncodePiece(std::string_view piece, Session& session) const {
  if (piece.size() > kMaxCachedBytes) return MergePiece(piece, session);
  Session::CachedPiece& cached = session.cache[HashBytes(piece) & (session.cache.size() - 1)];
  const auto begin = static_cast<uint32_t>(session.ids.size());
  if (cached.piece == piece) {
    session.ids.resize(begin + cached.num_ids);
    std::copy_n(session.ids.begin() + cached.begin, cached.num_ids, session.ids.begin() + begin);
    return;
  }
  MergePiece(piece, session);
  cached = {piece, begin, static_cast<uint32_t>(session.ids.size()) - begin};
}

void Tokenizer::MergePiece(std::string_view piece, Session& session) const {
  if (ignore_merges_) {
    if (const int32_t id = FindNormal(piece); id >= 0) return session.ids.push_back(id);
  }
  std::vector<BpeSymbol>& symbols = session.symbols;
  symbols.clear();
  const bool byte_level = kind_ == TokenizerKind::kByteLevelBpe;
  for (size_t pos = 0; pos < piece.size();) {
    const size_t begin = pos;
    if (byte_level) {
      ++pos;
    } else {
      NextCodePoint(piece, pos);
    }
    const int32_t id =
        byte_level ? byte_ids_[static_cast<uint8_t>(piece[begin])] : FindNormal(piece.substr(begin, pos - begin));
    if (byte_level && id < 0 && unk_id_ < 0) continue;  // dropped before merging, so its neighbours may join
    symbols.push_back(
        {.id = id, .begin = static_cast<uint32_t>(begin), .num_bytes = static_cast<uint32_t>(pos - begin)});
  }
  if (orders_.empty()) {
    MergeSymbols(symbols, session.heap, [&](const BpeSymbol& a, const BpeSymbol& b) {
      if (a.id < 0 || b.id < 0) return BpeJoin{};
      const PairToMerge::Merge merge = merges_.Find(a.id, b.id);
      return BpeJoin{merge.id >= 0, merge.rank, merge.id};
    });
  } else {
    MergeSymbols(symbols, session.heap, [&](const BpeSymbol& a, const BpeSymbol& b) {
      const int32_t id = FindNormal(piece.substr(a.begin, a.num_bytes + b.num_bytes));
      return id < 0 ? BpeJoin{} : BpeJoin{true, orders_[static_cast<size_t>(id)], id};
    });
  }
  bool after_unknown = false;
  for (const BpeSymbol& symbol : symbols) {
    if (symbol.num_bytes == 0) continue;
    if (symbol.id >= 0) {
      session.ids.push_back(symbol.id);
      after_unknown = false;
    } else {
      after_unknown = EmitUncovered(piece.substr(symbol.begin, symbol.num_bytes), after_unknown, session);
    }
  }
}

// A character without a token: its bytes' tokens, else the unknown token, else nothing. True when it ended unknown.
bool Tokenizer::EmitUncovered(std::string_view character, bool after_unknown, Session& session) const {
  const auto id_of = [&](char c) { return byte_ids_[static_cast<uint8_t>(c)]; };
  if (std::ranges::all_of(character, [&](char c) { return id_of(c) >= 0; })) {
    for (const char c : character) session.ids.push_back(id_of(c));
    return false;
  }
  if (unk_id_ >= 0 && !(after_unknown && fuses_unknown_)) session.ids.push_back(unk_id_);
  return true;
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string out;
  bool at_start = space_prefix_ != SpacePrefix::kNever;
  for (const int32_t id : ids) {
    const bool is_control = IsControl(id);
    std::string_view bytes = TokenBytes(id);
    if (at_start && !is_control && TypeOf(id) != TokenType::kUserDefined) {
      if (bytes.starts_with(' ')) bytes.remove_prefix(1);
      at_start = false;
    } else if (is_control || TypeOf(id) == TokenType::kUserDefined) {
      // What follows was a fragment of its own when it was encoded.
      at_start = space_prefix_ == SpacePrefix::kEveryFragment || (at_start && is_control);
    }
    if (!(is_control && skip_special)) out += bytes;
  }
  return out;
}

}  // namespace cachette
