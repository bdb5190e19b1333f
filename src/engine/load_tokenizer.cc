#include "engine/load_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "io/gguf.h"
#include "io/mapped_file.h"
#include "text/gguf_vocab.h"
#include "text/tokenizer_json.h"

namespace cachette {
namespace {

namespace fs = std::filesystem;

Result<std::optional<bool>> OptionalFlag(const GgufFile& file, std::string_view key) {
  if (file.FindValue(key) == nullptr) return std::optional<bool>();
  CACHETTE_TRY(const bool value, file.GetBool(key));
  return std::optional<bool>(value);
}

Result<int32_t> OptionalId(const GgufFile& file, std::string_view key) {
  CACHETTE_TRY(const int64_t value, file.GetInt(key, -1));
  if (value < -1 || value > INT32_MAX)
    return Fail(Error::kCorrupt, fmt::format("{}: {} is {}, not a token id", file.name(), key, value));
  return static_cast<int32_t>(value);
}

Result<Tokenizer> FromGguf(const GgufFile& file) {
  GgufVocabFields fields;
  CACHETTE_TRY(fields.model, file.GetString("tokenizer.ggml.model"));
  CACHETTE_TRY(fields.pre, file.GetString("tokenizer.ggml.pre", ""));
  CACHETTE_TRY(fields.tokens, file.GetStrings("tokenizer.ggml.tokens"));
  std::vector<float> scores;
  std::vector<int32_t> types;
  if (file.FindValue("tokenizer.ggml.scores") != nullptr) {
    CACHETTE_TRY(scores, file.GetFloats("tokenizer.ggml.scores"));
  }
  if (file.FindValue("tokenizer.ggml.token_type") != nullptr) {
    CACHETTE_TRY(const std::vector<int64_t> wide, file.GetInts("tokenizer.ggml.token_type"));
    types.assign(wide.begin(), wide.end());
  }
  if (file.FindValue("tokenizer.ggml.merges") != nullptr) {
    CACHETTE_TRY(fields.merges, file.GetStrings("tokenizer.ggml.merges"));
  }
  fields.scores = scores;
  fields.types = types;
  CACHETTE_TRY(fields.bos_id, OptionalId(file, "tokenizer.ggml.bos_token_id"));
  CACHETTE_TRY(fields.eos_id, OptionalId(file, "tokenizer.ggml.eos_token_id"));
  CACHETTE_TRY(fields.eot_id, OptionalId(file, "tokenizer.ggml.eot_token_id"));
  CACHETTE_TRY(fields.eom_id, OptionalId(file, "tokenizer.ggml.eom_token_id"));
  CACHETTE_TRY(fields.unk_id, OptionalId(file, "tokenizer.ggml.unknown_token_id"));
  CACHETTE_TRY(fields.pad_id, OptionalId(file, "tokenizer.ggml.padding_token_id"));
  CACHETTE_TRY(fields.add_bos, OptionalFlag(file, "tokenizer.ggml.add_bos_token"));
  CACHETTE_TRY(fields.add_eos, OptionalFlag(file, "tokenizer.ggml.add_eos_token"));
  CACHETTE_TRY(fields.add_space_prefix, OptionalFlag(file, "tokenizer.ggml.add_space_prefix"));
  CACHETTE_TRY(fields.remove_extra_whitespaces, OptionalFlag(file, "tokenizer.ggml.remove_extra_whitespaces"));
  CACHETTE_TRY(fields.chat_template, file.GetString("tokenizer.chat_template", ""));
  CACHETTE_TRY(const TokenizerSpec spec, SpecFromGgufFields(fields));
  return Tokenizer::Create(spec);
}

Result<Tokenizer> FromFolder(const std::string& folder) {
  const auto text_of = [](const MappedFile& file) {
    return std::string_view(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  };
  CACHETTE_TRY(const MappedFile json, MappedFile::Open((fs::path(folder) / "tokenizer.json").string()));
  const fs::path config_path = fs::path(folder) / "tokenizer_config.json";
  std::error_code ignored;
  std::string config;
  if (fs::exists(config_path, ignored)) {
    CACHETTE_TRY(const MappedFile file, MappedFile::Open(config_path.string()));
    config = text_of(file);
  }
  CACHETTE_TRY(const TokenizerSpec spec, SpecFromTokenizerJson(text_of(json), config));
  return Tokenizer::Create(spec);
}

// One token per byte, for models that mean nothing anyway.
Result<Tokenizer> ByteTokenizer() {
  std::vector<std::string> names;
  for (int byte = 0; byte < 256; ++byte) names.push_back(fmt::format("<0x{:02X}>", byte));
  TokenizerSpec spec;
  spec.kind = TokenizerKind::kSentencePieceBpe;
  spec.tokens.assign(names.begin(), names.end());
  spec.types.assign(names.size(), TokenType::kByte);
  spec.scores.assign(names.size(), 0.0f);
  spec.maps_space_marker = false;
  return Tokenizer::Create(spec);
}

}  // namespace

Result<Tokenizer> LoadTokenizer(const Checkpoint& checkpoint) {
  if (checkpoint.gguf() != nullptr) return FromGguf(*checkpoint.gguf());
  if (!checkpoint.folder().empty()) return FromFolder(checkpoint.folder());
  return ByteTokenizer();
}

}  // namespace cachette
