#pragma once
// A GGUF file's tokenizer metadata for tests: a second, minimal reader, so that these tests need nothing but text/.

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "text/gguf_vocab.h"

namespace cachette {

struct VocabFile {
  std::string bytes;  // the head of the file: the views of fields point here
  std::vector<std::string_view> tokens, merges;
  std::vector<float> scores;
  std::vector<int32_t> types;
  GgufVocabFields fields;
};

// Reads the metadata of a well-formed GGUF v3 file. True on success.
inline bool ReadVocabFile(const std::string& path, VocabFile& out) {
  std::ifstream file(path, std::ios::binary);
  constexpr size_t kMaxHeadBytes = size_t{64} << 20;
  out.bytes.resize(kMaxHeadBytes);
  file.read(out.bytes.data(), static_cast<std::streamsize>(kMaxHeadBytes));
  out.bytes.resize(static_cast<size_t>(std::max<std::streamsize>(file.gcount(), 0)));
  if (out.bytes.size() < 24 || out.bytes.compare(0, 4, "GGUF") != 0) return false;
  size_t pos = 4;
  const auto read = [&]<class T>(T value) {
    std::memcpy(&value, out.bytes.data() + pos, sizeof(T));
    pos += sizeof(T);
    return value;
  };
  const auto text = [&] {
    const auto size = static_cast<size_t>(read(uint64_t{}));
    const std::string_view view(out.bytes.data() + pos, size);
    pos += size;
    return view;
  };
  constexpr size_t kBytesOfType[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};  // 8: string, 9: array
  read(uint32_t{});
  read(uint64_t{});
  const auto num_fields = read(uint64_t{});
  const std::string prefix = "tokenizer.ggml.";
  for (uint64_t f = 0; f < num_fields; ++f) {
    const std::string key(text());
    const auto name = key.starts_with(prefix) ? key.substr(prefix.size()) : key;
    const auto type = read(uint32_t{});
    if (type == 9) {
      const auto item_type = read(uint32_t{});
      const auto count = read(uint64_t{});
      for (uint64_t i = 0; i < count; ++i) {
        if (item_type == 8) {
          const std::string_view item = text();
          if (name == "tokens") out.tokens.push_back(item);
          if (name == "merges") out.merges.push_back(item);
        } else if (name == "scores") {
          out.scores.push_back(read(float{}));
        } else if (name == "token_type") {
          out.types.push_back(read(int32_t{}));
        } else {
          pos += kBytesOfType[item_type];
        }
      }
    } else if (type == 8) {
      const std::string_view value = text();
      if (name == "model") out.fields.model = value;
      if (name == "pre") out.fields.pre = value;
      if (key == "tokenizer.chat_template") out.fields.chat_template = value;
    } else if (type == 7) {
      const bool value = read(uint8_t{}) != 0;
      if (name == "add_bos_token") out.fields.add_bos = value;
      if (name == "add_eos_token") out.fields.add_eos = value;
      if (name == "add_space_prefix") out.fields.add_space_prefix = value;
    } else if (type == 4) {
      const auto value = static_cast<int32_t>(read(uint32_t{}));
      if (name == "bos_token_id") out.fields.bos_id = value;
      if (name == "eos_token_id") out.fields.eos_id = value;
      if (name == "unknown_token_id") out.fields.unk_id = value;
      if (name == "padding_token_id") out.fields.pad_id = value;
    } else {
      pos += kBytesOfType[type];
    }
  }
  out.fields.tokens = out.tokens;
  out.fields.merges = out.merges;
  out.fields.scores = out.scores;
  out.fields.types = out.types;
  return true;
}

}  // namespace cachette
