#include "text/gguf_vocab.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "text/pre_split.h"

namespace cachette {
namespace {

Result<void> ReadMerges(const GgufVocabFields& fields, TokenizerSpec& spec) {
  spec.merges.reserve(fields.merges.size());
  for (size_t rank = 0; rank < fields.merges.size(); ++rank) {
    const std::string_view merge = fields.merges[rank];
    const size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos || space + 1 == merge.size()) {
      return Fail(Error::kCorrupt, fmt::format("merge {} of the vocabulary is \"{}\", expected two pieces and a space "
                                               "between them; get the model file again",
                                               rank, merge));
    }
    spec.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  return Ok();
}

Result<void> ReadTypes(const GgufVocabFields& fields, TokenizerSpec& spec) {
  spec.types.reserve(fields.types.size());
  for (size_t id = 0; id < fields.types.size(); ++id) {
    const int32_t type = fields.types[id];
    if (type < 0 || type > static_cast<int32_t>(TokenType::kByte)) {
      return Fail(Error::kCorrupt,
                  fmt::format("token {} has type {}, expected 0 to 6; get the model file again", id, type));
    }
    spec.types.push_back(type == 0 ? TokenType::kNormal : static_cast<TokenType>(type));
  }
  return Ok();
}

// Byte-level: the pre-split and what goes with it, by name.
Result<void> ApplyFamily(std::string_view name, TokenizerSpec& spec, bool& adds_bos) {
  std::vector<std::string_view> known;
  for (const PreSplitFamily& family : PreSplitFamilies()) {
    known.insert(known.end(), family.names.begin(), family.names.end());
    if (std::ranges::find(family.names, name) == family.names.end()) continue;
    spec.pre_split = family.rules;
    spec.ignore_merges = family.ignore_merges;
    spec.normalizes_nfc = family.normalizes_nfc;
    adds_bos = family.adds_bos;
    return Ok();
  }
  return Fail(Error::kUnsupported,
              fmt::format("the tokenizer's pre-split \"{}\" (tokenizer.ggml.pre) is not supported; supported: {}", name,
                          fmt::join(known, ", ")));
}

}  // namespace

Result<TokenizerSpec> SpecFromGgufFields(const GgufVocabFields& fields) {
  TokenizerSpec spec;
  spec.tokens.assign(fields.tokens.begin(), fields.tokens.end());
  CACHETTE_TRY(ReadTypes(fields, spec));
  spec.bos_id = fields.bos_id;
  spec.eos_id = fields.eos_id;
  spec.pad_id = fields.pad_id;
  for (const int32_t id : {fields.eot_id, fields.eom_id}) {
    if (id >= 0) spec.extra_end_ids.push_back(id);
  }
  spec.chat_template = fields.chat_template;
  bool adds_bos = false;
  if (fields.model == "gpt2") {
    // unk_id stays -1: byte-level models drop what they cannot express, whatever tokenizer.ggml.unknown_token_id says.
    CACHETTE_TRY(ReadMerges(fields, spec));
    CACHETTE_TRY(ApplyFamily(fields.pre.empty() ? "default" : fields.pre, spec, adds_bos));
    if (fields.add_space_prefix.value_or(false)) {
      spec.space_prefix = SpacePrefix::kEveryFragment;
      spec.prefix_only_if_missing = true;
    }
  } else if (fields.model == "llama") {
    if (fields.remove_extra_whitespaces.value_or(false)) {
      return Fail(Error::kUnsupported,
                  "the SentencePiece vocabulary asks to remove extra white space (tokenizer.ggml."
                  "remove_extra_whitespaces), which is not supported; use a model whose vocabulary keeps it");
    }
    spec.kind = TokenizerKind::kSentencePieceBpe;
    spec.scores.assign(fields.scores.begin(), fields.scores.end());
    spec.unk_id = fields.unk_id;
    spec.fuses_unknown = true;
    spec.space_prefix = fields.add_space_prefix.value_or(true) ? SpacePrefix::kEveryFragment : SpacePrefix::kNever;
    adds_bos = true;
  } else {
    return Fail(Error::kUnsupported, fmt::format("the tokenizer model \"{}\" (tokenizer.ggml.model) is not supported; "
                                                 "supported: gpt2 (byte-level BPE), llama (SentencePiece BPE)",
                                                 fields.model));
  }
  if (fields.add_bos.value_or(adds_bos) && spec.bos_id >= 0) spec.prefix_ids.push_back(spec.bos_id);
  if (fields.add_eos.value_or(false) && spec.eos_id >= 0) spec.suffix_ids.push_back(spec.eos_id);
  if (!spec.types.empty() && spec.types.size() == spec.tokens.size()) AddWellKnownEndTokens(spec);
  return spec;
}

}  // namespace cachette
