#include "text/stream_decoder.h"

#include <gtest/gtest.h>

#include "text/utf8.h"
#include "vocabularies.h"

namespace cachette {
namespace {

TEST(StreamDecoder, PiecesAreCompleteAndJoinToTheText) {
  const auto vocab = SmolLm2Vocab();
  const Result<Tokenizer> tokenizer = TokenizerOf(vocab->fields);
  for (const auto& json : RecordedJson("texts.json")) {
    const auto ids = *tokenizer->Encode(json.get<std::string>());
    StreamDecoder decoder(*tokenizer);
    std::string joined;
    for (const int32_t id : ids) {
      const std::string piece = decoder.Push(id);
      EXPECT_EQ(FindInvalidUtf8(piece), std::string_view::npos);
      joined += piece;
    }
    EXPECT_EQ(decoder.Finish(), "");
    EXPECT_EQ(joined, tokenizer->Decode(ids)) << json.dump();
  }
}

TEST(StreamDecoder, WaitsForTheRestOfACharacter) {
  const Result<Tokenizer> tokenizer = RecordedTokenizer("gpt2");
  const auto byte = [&](char c) { return *tokenizer->IdOf(std::string(1, c)); };
  StreamDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.Push(byte('\xf0')), "");
  EXPECT_EQ(decoder.Push(byte('\x9f')), "");
  EXPECT_EQ(decoder.Push(byte('\x99')), "");
  EXPECT_EQ(decoder.Push(byte('\x82')), "🙂");
  EXPECT_EQ(decoder.Push(byte('\xc3')), "");
  EXPECT_EQ(decoder.Push(byte('a')), "\ufffda");  // the character can no longer be finished
  EXPECT_EQ(decoder.Push(byte('\xe2')), "");
  EXPECT_EQ(decoder.Finish(), "\ufffd");
  EXPECT_EQ(decoder.Finish(), "");
  EXPECT_EQ(decoder.Push(byte('b')), "b");
}

TEST(StreamDecoder, ControlTokensAndUnknownIds) {
  const auto vocab = SmolLm2Vocab();
  const Result<Tokenizer> tokenizer = TokenizerOf(vocab->fields);
  EXPECT_EQ(StreamDecoder(*tokenizer).Push(2), "");
  EXPECT_EQ(StreamDecoder(*tokenizer, /*skip_special=*/false).Push(2), "<|im_end|>");
  EXPECT_EQ(StreamDecoder(*tokenizer).Push(-5), "");
}

TEST(StreamDecoder, SpaceOfTheEncoderGoesOnlyAtTheStartOfAText) {
  const auto vocab = SentencePieceVocab();
  const Result<Tokenizer> tokenizer = TokenizerOf(vocab->fields);
  const auto ids = *tokenizer->Encode("a a");
  const auto streamed = [&](bool starts_text) {
    StreamDecoder decoder(*tokenizer, true, starts_text);
    std::string text;
    for (const int32_t id : ids) text += decoder.Push(id);
    return text + decoder.Finish();
  };
  EXPECT_EQ(streamed(true), "a a");
  EXPECT_EQ(streamed(false), " a a");
}

}  // namespace
}  // namespace cachette
