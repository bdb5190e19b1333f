#pragma once
// Small vocabularies for tests, with what owns their text.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "recorded.h"
#include "text/gguf_vocab.h"
#include "text/tokenizer.h"
#include "text/tokenizer_json.h"

namespace cachette {

// Fields of a GGUF and the strings they point to; not to be copied or moved once fields is used.
struct OwnedVocab {
  std::vector<std::string> token_text, merge_text;
  std::vector<std::string_view> tokens, merges;
  std::vector<float> scores;
  std::vector<int32_t> types;
  GgufVocabFields fields;

  OwnedVocab() = default;
  OwnedVocab(const OwnedVocab&) = delete;
  OwnedVocab& operator=(const OwnedVocab&) = delete;
  void Point() {
    tokens.assign(token_text.begin(), token_text.end());
    merges.assign(merge_text.begin(), merge_text.end());
    fields.tokens = tokens;
    fields.merges = merges;
    fields.scores = scores;
    fields.types = types;
  }
};

// SmolLM2's whole vocabulary: its first tokens, and one more per merge.
inline std::unique_ptr<OwnedVocab> SmolLm2Vocab() {
  const auto json = RecordedJson("smollm2.json");
  auto vocab = std::make_unique<OwnedVocab>();
  vocab->token_text = json["tokens"].get<std::vector<std::string>>();
  vocab->types = json["types"].get<std::vector<int32_t>>();
  const auto ids = json["merges"].get<std::vector<size_t>>();
  for (size_t i = 0; i < ids.size(); i += 2) {
    vocab->merge_text.push_back(vocab->token_text[ids[i]] + " " + vocab->token_text[ids[i + 1]]);
    vocab->token_text.push_back(vocab->token_text[ids[i]] + vocab->token_text[ids[i + 1]]);
    vocab->types.push_back(1);
  }
  vocab->Point();
  vocab->fields.model = "gpt2";
  vocab->fields.pre = "smollm";
  vocab->fields.bos_id = 1;
  vocab->fields.eos_id = 2;
  vocab->fields.unk_id = 0;
  vocab->fields.add_bos = false;
  return vocab;
}

// A SentencePiece BPE vocabulary of 1,000 pieces with byte fall-back.
inline std::unique_ptr<OwnedVocab> SentencePieceVocab() {
  const auto json = RecordedJson("spm.vocab.json");
  auto vocab = std::make_unique<OwnedVocab>();
  vocab->token_text = json["tokens"].get<std::vector<std::string>>();
  vocab->scores = json["scores"].get<std::vector<float>>();
  vocab->types = json["types"].get<std::vector<int32_t>>();
  vocab->Point();
  vocab->fields.model = "llama";
  vocab->fields.unk_id = 0;
  vocab->fields.bos_id = 1;
  vocab->fields.eos_id = 2;
  return vocab;
}

inline Result<Tokenizer> TokenizerOf(const GgufVocabFields& fields) {
  CACHETTE_TRY(const TokenizerSpec spec, SpecFromGgufFields(fields));
  return Tokenizer::Create(spec);
}

inline Result<Tokenizer> RecordedTokenizer(const std::string& name, const std::string& config = "") {
  CACHETTE_TRY(const TokenizerSpec spec, SpecFromTokenizerJson(ReadRecorded(name + ".tokenizer.json"), config));
  return Tokenizer::Create(spec);
}

}  // namespace cachette
