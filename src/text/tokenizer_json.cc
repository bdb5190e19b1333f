#include "text/tokenizer_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>

#include "text/pre_split.h"

namespace cachette {
namespace {

using nlohmann::json;

Failure Unsupported(std::string_view what, std::string_view instead) {
  return Fail(Error::kUnsupported,
              fmt::format("tokenizer.json has {}, which is not supported; supported: {}", what, instead));
}

Failure Corrupt(std::string_view what) {
  return Fail(Error::kCorrupt, fmt::format("tokenizer.json: {}; get the file again", what));
}

// Members of JSON objects that may be absent, null or of another type than expected.
const json& Member(const json& object, const char* key) {
  static const json kNull;
  if (!object.is_object()) return kNull;
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}
std::string Text(const json& object, const char* key) {
  const json& member = Member(object, key);
  return member.is_string() ? member.get<std::string>() : std::string();
}
bool Flag(const json& object, const char* key, bool fallback = false) {
  const json& member = Member(object, key);
  return member.is_boolean() ? member.get<bool>() : fallback;
}

// The components of an optional {"type": "Sequence", key: [...]}, or the single component itself.
std::vector<const json*> Components(const json& component, const char* key) {
  std::vector<const json*> parts;
  if (component.is_null()) return parts;
  if (Text(component, "type") != "Sequence") return {&component};
  for (const json& part : Member(component, key)) parts.push_back(&part);
  return parts;
}

class Reader {
 public:
  Reader(json tokenizer, json config)
      : config_(std::move(config)), document_(std::make_shared<json>(std::move(tokenizer))) {}

  Result<TokenizerSpec> Read() {
    CACHETTE_TRY(ReadModel());
    CACHETTE_TRY(ReadAddedTokens());
    CACHETTE_TRY(ReadNormalizer());
    CACHETTE_TRY(ReadPreTokenizer());
    if (spec_.kind == TokenizerKind::kSentencePieceBpe) {
      spec_.maps_space_marker = marks_spaces_;
    } else if (marks_spaces_) {
      return Unsupported("byte-level pieces together with a space marker", "one or the other");
    }
    CACHETTE_TRY(ReadConfig());
    CACHETTE_TRY(ReadPostProcessor());
    AddWellKnownEndTokens(spec_);
    spec_.owner = document_;
    return std::move(spec_);
  }

 private:
  Result<void> ReadModel() {
    const json& model = Member(*document_, "model");
    const std::string type = Text(model, "type");
    const bool looks_like_bpe = type.empty() && Member(model, "merges").is_array();
    if (type != "BPE" && !looks_like_bpe) return Unsupported(fmt::format("a model of type \"{}\"", type), "BPE");
    if (!Text(model, "continuing_subword_prefix").empty() || !Text(model, "end_of_word_suffix").empty()) {
      return Unsupported("a continuing_subword_prefix or end_of_word_suffix", "none");
    }
    if (Member(model, "dropout").is_number() && Member(model, "dropout").get<double>() != 0) {
      return Unsupported("BPE dropout", "none");
    }
    const json& vocab = Member(model, "vocab");
    if (!vocab.is_object()) return Corrupt("model.vocab is not an object");
    for (const auto& [token, id] : vocab.items()) CACHETTE_TRY(SetToken(id, token, TokenType::kNormal));
    const bool byte_fallback = Flag(model, "byte_fallback");
    if (byte_fallback) {
      for (size_t id = 0; id < spec_.tokens.size(); ++id) {
        if (spec_.tokens[id].size() == 6 && spec_.tokens[id].starts_with("<0x")) spec_.types[id] = TokenType::kByte;
      }
    }
    spec_.kind = byte_fallback ? TokenizerKind::kSentencePieceBpe : TokenizerKind::kByteLevelBpe;
    spec_.ignore_merges = Flag(model, "ignore_merges");
    spec_.fuses_unknown = Flag(model, "fuse_unk");
    if (const std::string unknown = Text(model, "unk_token"); !unknown.empty()) {
      const json& id = Member(vocab, unknown.c_str());
      if (id.is_number_integer()) spec_.unk_id = id.get<int32_t>();
    }
    return ReadMerges(Member(model, "merges"));
  }

  Result<void> ReadMerges(const json& merges) {
    if (!merges.is_array()) return Corrupt("model.merges is not a list");
    spec_.merges.reserve(merges.size());
    for (const json& merge : merges) {
      if (merge.is_string()) {
        const std::string_view text = merge.get_ref<const std::string&>();
        const size_t space = text.find(' ', 1);
        if (space == std::string_view::npos || space + 1 == text.size()) {
          return Corrupt(fmt::format("merge \"{}\" is not two pieces with a space between them", text));
        }
        spec_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        spec_.merges.emplace_back(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>());
      } else {
        return Corrupt("a merge is neither a string nor a pair of strings");
      }
    }
    return Ok();
  }

  // Views point into document_, whose strings do not move.
  Result<void> SetToken(const json& id, std::string_view token, TokenType type) {
    constexpr int64_t kMaxTokens = 1 << 24;
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= kMaxTokens) {
      return Corrupt(fmt::format("the id of token \"{}\" is not an integer from 0 to {}", token, kMaxTokens - 1));
    }
    const auto at = static_cast<size_t>(id.get<int64_t>());
    if (at >= spec_.tokens.size()) {
      spec_.tokens.resize(at + 1);
      spec_.types.resize(at + 1, TokenType::kUnused);  // gaps between ids
    }
    spec_.tokens[at] = token;
    spec_.types[at] = type;
    return Ok();
  }

  Result<void> ReadAddedTokens() {
    for (const json& added : Member(*document_, "added_tokens")) {
      if (!Member(added, "content").is_string()) return Corrupt("an added token has no content");
      const std::string_view content = Member(added, "content").get_ref<const std::string&>();
      if (Flag(added, "single_word")) {
        return Unsupported(fmt::format("the added token \"{}\" with single_word", content), "added tokens without it");
      }
      CACHETTE_TRY(SetToken(Member(added, "id"), content,
                            Flag(added, "special") ? TokenType::kControl : TokenType::kUserDefined));
      if (Flag(added, "lstrip") || Flag(added, "rstrip")) {
        spec_.margins.push_back({Member(added, "id").get<int32_t>(), Flag(added, "lstrip"), Flag(added, "rstrip")});
      }
      added_ids_[std::string(content)] = Member(added, "id").get<int32_t>();
    }
    return Ok();
  }

  Result<void> ReadNormalizer() {
    for (const json* part : Components(Member(*document_, "normalizer"), "normalizers")) {
      const std::string type = Text(*part, "type");
      if (type == "NFC") {
        spec_.normalizes_nfc = true;
      } else if (type == "Prepend" && Text(*part, "prepend") == kSpaceMarker) {
        spec_.space_prefix = SpacePrefix::kEveryFragment;
      } else if (type == "Replace" && Text(Member(*part, "pattern"), "String") == " " &&
                 Text(*part, "content") == kSpaceMarker) {
        marks_spaces_ = true;
      } else {
        return Unsupported(fmt::format("the normalizer {}", part->dump(-1, ' ', false, json::error_handler_t::replace)),
                           "NFC, Prepend of U+2581, Replace of a space by U+2581");
      }
    }
    return Ok();
  }

  Result<void> ReadPreTokenizer() {
    const std::vector<const json*> parts = Components(Member(*document_, "pre_tokenizer"), "pretokenizers");
    bool is_byte_level = false;
    for (const json* part : parts) {
      const std::string type = Text(*part, "type");
      if (type == "ByteLevel") {
        is_byte_level = true;
        if (Flag(*part, "use_regex", true)) spec_.pre_split.push_back({Gpt2SplitPattern()});
        if (Flag(*part, "add_prefix_space")) {
          if (parts.size() != 1)
            return Unsupported("ByteLevel with add_prefix_space behind other pre-tokenizers", "alone");
          spec_.space_prefix = SpacePrefix::kEveryFragment;
          spec_.prefix_only_if_missing = true;
        }
      } else if (type == "Digits") {
        spec_.pre_split.push_back({Flag(*part, "individual_digits") ? R"(\p{N})" : R"(\p{N}+)"});
      } else if (type == "Split") {
        CACHETTE_TRY(ReadSplit(*part));
      } else if (type == "Metaspace") {
        CACHETTE_TRY(ReadMetaspace(*part));
      } else {
        return Unsupported(fmt::format("the pre-tokenizer \"{}\"", type), "ByteLevel, Split, Digits, Metaspace");
      }
    }
    if (is_byte_level == (spec_.kind == TokenizerKind::kByteLevelBpe)) return Ok();
    if (is_byte_level) return Unsupported("a ByteLevel pre-tokenizer with byte_fallback", "one or the other");
    return Unsupported("a BPE model that is neither byte-level nor has byte_fallback", "one of the two");
  }

  Result<void> ReadSplit(const json& part) {
    const json& pattern = Member(part, "pattern");
    const std::string behavior = Text(part, "behavior");
    const bool inverted = Flag(part, "invert");
    // Gemma's split at spaces finds none: its normalizer has replaced them all.
    if (spec_.kind == TokenizerKind::kSentencePieceBpe && marks_spaces_ && Text(pattern, "String") == " ") return Ok();
    const std::string regex = Text(pattern, "Regex");
    if (spec_.kind != TokenizerKind::kByteLevelBpe || regex.empty() ||
        !((behavior == "Isolated" && !inverted) || (behavior == "Removed" && inverted))) {
      return Unsupported(fmt::format("the pre-tokenizer {}", part.dump(-1, ' ', false, json::error_handler_t::replace)),
                         "Split of byte-level text by a Regex, Isolated or (inverted) Removed");
    }
    spec_.pre_split.push_back({regex, inverted});
    return Ok();
  }

  Result<void> ReadMetaspace(const json& part) {
    if (Text(part, "replacement") != kSpaceMarker)
      return Unsupported("a Metaspace replacement other than U+2581", "U+2581");
    marks_spaces_ = true;
    std::string scheme = Text(part, "prepend_scheme");
    if (scheme.empty()) scheme = Flag(part, "add_prefix_space", true) ? "always" : "never";
    if (scheme == "always") spec_.space_prefix = SpacePrefix::kEveryFragment;
    if (scheme == "first") spec_.space_prefix = SpacePrefix::kFirstFragment;
    spec_.prefix_only_if_missing = true;
    spec_.splits_at_every_space = Flag(part, "split", true);
    return Ok();
  }

  // Id of a token by its text; -1 when there is none.
  int32_t IdOf(const std::string& token) const {
    if (const auto added = added_ids_.find(token); added != added_ids_.end()) return added->second;
    const json& id = Member(Member(Member(*document_, "model"), "vocab"), token.c_str());
    return id.is_number_integer() ? id.get<int32_t>() : -1;
  }

  // Special tokens of the config are a string or an added-token object.
  int32_t ConfigTokenId(const char* key) const {
    const json& token = Member(config_, key);
    const std::string text = token.is_string() ? token.get<std::string>() : Text(token, "content");
    return text.empty() ? -1 : IdOf(text);
  }

  Result<void> ReadConfig() {
    spec_.bos_id = ConfigTokenId("bos_token");
    spec_.eos_id = ConfigTokenId("eos_token");
    spec_.pad_id = ConfigTokenId("pad_token");
    const json& chat_template = Member(config_, "chat_template");
    if (chat_template.is_string()) spec_.chat_template = chat_template.get<std::string>();
    if (chat_template.is_array()) {  // several named templates
      for (const json& named : chat_template) {
        if (Text(named, "name") == "default") spec_.chat_template = Text(named, "template");
      }
    }
    return Ok();
  }

  // What add_special puts around text: the config's flags where it states them, else the post-processor.
  Result<void> ReadPostProcessor() {
    for (const json* part : Components(Member(*document_, "post_processor"), "processors")) {
      const std::string type = Text(*part, "type");
      if (type == "ByteLevel") continue;
      if (type != "TemplateProcessing") {
        return Unsupported(fmt::format("the post-processor \"{}\"", type), "ByteLevel, TemplateProcessing");
      }
      bool behind_text = false;
      for (const json& piece : Member(*part, "single")) {
        if (piece.is_object() && piece.contains("Sequence")) behind_text = true;
        const std::string token = Text(Member(piece, "SpecialToken"), "id");
        if (token.empty()) continue;
        const int32_t id = IdOf(token);
        if (id < 0) return Corrupt(fmt::format("the post-processor adds \"{}\", which is not a token", token));
        (behind_text ? spec_.suffix_ids : spec_.prefix_ids).push_back(id);
      }
    }
    const auto apply = [&](const char* key, int32_t id, std::vector<int32_t>& ids) {
      const json& flag = Member(config_, key);
      if (!flag.is_boolean()) return;
      std::erase(ids, id);
      if (flag.get<bool>() && id >= 0) ids.push_back(id);
    };
    apply("add_bos_token", spec_.bos_id, spec_.prefix_ids);
    apply("add_eos_token", spec_.eos_id, spec_.suffix_ids);
    return Ok();
  }

  json config_;
  std::shared_ptr<json> document_;
  TokenizerSpec spec_;
  bool marks_spaces_ = false;
  std::unordered_map<std::string, int32_t> added_ids_;
};

}  // namespace

Result<TokenizerSpec> SpecFromTokenizerJson(std::string_view tokenizer_json, std::string_view tokenizer_config_json) {
  json tokenizer = json::parse(tokenizer_json, nullptr, /*allow_exceptions=*/false);
  if (!tokenizer.is_object()) return Corrupt("it is not a JSON object");
  json config = json::object();
  if (!tokenizer_config_json.empty()) {
    config = json::parse(tokenizer_config_json, nullptr, /*allow_exceptions=*/false);
    if (!config.is_object())
      return Fail(Error::kCorrupt, "tokenizer_config.json is not a JSON object; get the file again");
  }
  return Reader(std::move(tokenizer), std::move(config)).Read();
}

}  // namespace cachette
