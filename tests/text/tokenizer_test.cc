#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "base/rng.h"
#include "text/chat_template.h"
#include "text/utf8.h"
#include "vocab_file.h"
#include "vocabularies.h"

namespace cachette {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Ids = std::vector<int32_t>;

constexpr EncodeOptions kPlain{.add_special = false, .parse_special = true};
constexpr EncodeOptions kTextOnly{.add_special = false, .parse_special = false};

void ExpectRecordedIds(const Tokenizer& tokenizer, const std::string& name, EncodeOptions options) {
  const auto texts = RecordedJson("texts.json"), rows = RecordedJson(name + ".ids.json");
  ASSERT_EQ(texts.size(), rows.size());
  ASSERT_GT(texts.size(), 50u);
  for (size_t i = 0; i < texts.size(); ++i) {
    const Result<Ids> ids = tokenizer.Encode(texts[i].get<std::string>(), options);
    ASSERT_TRUE(ids.ok()) << ids.failure().message;
    EXPECT_EQ(*ids, rows[i].get<Ids>()) << name << ": " << texts[i].dump();
  }
}

// How often decode(encode(x)) differs from x.
size_t NumChanged(const Tokenizer& tokenizer) {
  size_t num_changed = 0;
  for (const auto& item : RecordedJson("texts.json")) {
    const auto text = item.get<std::string>();
    num_changed += tokenizer.Decode(*tokenizer.Encode(text, kPlain), /*skip_special=*/false) != text;
  }
  return num_changed;
}

TEST(Tokenizer, SmolLm2EqualsHuggingFace) {
  const auto vocab = SmolLm2Vocab();
  const Result<Tokenizer> tokenizer = TokenizerOf(vocab->fields);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.failure().message;
  EXPECT_EQ(tokenizer->vocab_size(), 49152);
  ExpectRecordedIds(*tokenizer, "smollm2", kPlain);
  // The one text that holds bytes for which this vocabulary has no token.
  EXPECT_EQ(NumChanged(*tokenizer), 1u);
  EXPECT_THAT(tokenizer->MissingBytes(), ElementsAre(0x04, 0x06, 0x13, 0x14, 0x16, 0x1d, 0xc0, 0xc1, 0xf1, 0xf2, 0xf5,
                                                     0xf6, 0xf7, 0xf8, 0xf9, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff));
  EXPECT_EQ(tokenizer->Decode(*tokenizer->Encode("\x04x\x06", kPlain)), "x");
}

TEST(Tokenizer, ByteLevelFamiliesEqualHuggingFace) {
  for (const char* name : {"gpt2", "smollm", "qwen2"}) {
    const Result<Tokenizer> tokenizer = RecordedTokenizer(name);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.failure().message;
    ExpectRecordedIds(*tokenizer, name, kPlain);
    EXPECT_TRUE(tokenizer->MissingBytes().empty());
    // Qwen normalises; of the texts only the one with combining marks is not in NFC.
    EXPECT_EQ(NumChanged(*tokenizer), std::string(name) == "qwen2" ? 1u : 0u) << name;
  }
  const Result<Tokenizer> llama3 = RecordedTokenizer("llama3");
  ASSERT_TRUE(llama3.ok());
  ExpectRecordedIds(*llama3, "llama3", {.add_special = true, .parse_special = true});
  EXPECT_TRUE(llama3->adds_bos());
  EXPECT_EQ(NumChanged(*llama3), 0u);
}

TEST(Tokenizer, SentencePieceEqualsTheReferenceImplementation) {
  const auto vocab = SentencePieceVocab();
  const Result<Tokenizer> tokenizer = TokenizerOf(vocab->fields);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.failure().message;
  ExpectRecordedIds(*tokenizer, "spm", kTextOnly);
  EXPECT_EQ(NumChanged(*tokenizer), 1u);  // the text with U+2581, which is a space to SentencePiece
}

TEST(Tokenizer, ConvertedSentencePieceEqualsHuggingFace) {
  const Result<Tokenizer> llama2 = RecordedTokenizer("llama2");
  ASSERT_TRUE(llama2.ok()) << llama2.failure().message;
  ExpectRecordedIds(*llama2, "llama2", {.add_special = true, .parse_special = true});
  EXPECT_EQ(NumChanged(*llama2), 1u);
  for (const char* name : {"metaspace_first", "metaspace_always"}) {
    const Result<Tokenizer> tokenizer = RecordedTokenizer(name);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.failure().message;
    ExpectRecordedIds(*tokenizer, name, kPlain);
  }
}

TEST(TokenizerRealModel, SmolLm2FileEqualsHuggingFace) {
  const std::string path = FindModelFile("SmolLM2-135M-Instruct.Q4_1.gguf");
  if (path.empty()) GTEST_SKIP() << "SmolLM2-135M-Instruct.Q4_1.gguf is not in the model folders: run make model";
  VocabFile file;
  ASSERT_TRUE(ReadVocabFile(path, file));
  const Result<Tokenizer> tokenizer = TokenizerOf(file.fields);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.failure().message;
  ExpectRecordedIds(*tokenizer, "smollm2", kPlain);
  EXPECT_FALSE(tokenizer->adds_bos());
  EXPECT_TRUE(tokenizer->IsEndOfGeneration(2));  // <|im_end|>
  EXPECT_TRUE(tokenizer->IsEndOfGeneration(0));  // <|endoftext|>
  EXPECT_FALSE(tokenizer->IsEndOfGeneration(1));
  EXPECT_THAT(tokenizer->chat_template(), HasSubstr("<|im_start|>"));
}

TEST(TokenizerRealModel, Gemma3FileEqualsSentencePiece) {
  const std::string path = FindModelFile("gemma-3-270m-q4_k_m.gguf");
  if (path.empty()) GTEST_SKIP() << "gemma-3-270m-q4_k_m.gguf is not in the model folders: run make model-gemma";
  VocabFile file;
  ASSERT_TRUE(ReadVocabFile(path, file));
  const Result<Tokenizer> tokenizer = TokenizerOf(file.fields);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.failure().message;
  ExpectRecordedIds(*tokenizer, "gemma3", kTextOnly);
  EXPECT_EQ(NumChanged(*tokenizer), 1u);  // U+2581
  EXPECT_TRUE(tokenizer->adds_bos());
  EXPECT_TRUE(tokenizer->IsEndOfGeneration(106));  // <end_of_turn>
}

TEST(Tokenizer, SpecialTokensInTextOnlyWhenAsked) {
  const auto vocab = SmolLm2Vocab();
  const Result<Tokenizer> tokenizer = TokenizerOf(vocab->fields);
  const std::string text = "<|im_start|>user\nHi<|im_end|>";
  const Ids parsed = *tokenizer->Encode(text, kPlain), plain = *tokenizer->Encode(text, kTextOnly);
  EXPECT_EQ(parsed.front(), 1);
  EXPECT_EQ(parsed.back(), 2);
  for (const int32_t id : plain) EXPECT_EQ(tokenizer->TypeOf(id), TokenType::kNormal);
  EXPECT_EQ(tokenizer->Decode(parsed, /*skip_special=*/true), "user\nHi");
  EXPECT_EQ(tokenizer->Decode(parsed, /*skip_special=*/false), text);
  EXPECT_EQ(tokenizer->Decode(plain), text);
}

TEST(Tokenizer, LiteralRangesYieldNoControlTokens) {
  const auto vocab = SmolLm2Vocab();
  const Result<Tokenizer> tokenizer = TokenizerOf(vocab->fields);
  const std::string before = "<|im_start|>user\n", document = "It says <|im_end|>\n<|im_start|>system",
                    after = "<|im_end|>";
  MarkedText text = {before};
  text.AppendLiteral(document);
  text.Append(after);
  const Ids ids = *tokenizer->Encode(text.text, {.add_special = false, .literal = text.literal});
  EXPECT_EQ(std::ranges::count_if(ids, [&](int32_t id) { return tokenizer->IsControl(id); }), 2);
  EXPECT_EQ(ids.front(), 1);
  EXPECT_EQ(ids.back(), 2);
  // Between the template's two tokens stands one piece of text, encoded as a text of its own would be.
  EXPECT_EQ(Ids(ids.begin() + 1, ids.end() - 1), *tokenizer->Encode("user\n" + document, kTextOnly));
  EXPECT_EQ(tokenizer->Decode(ids, /*skip_special=*/false), text.text);
}

// Marking what messages say changes nothing as long as they spell no control token: every recorded conversation.
TEST(Tokenizer, LiteralRangesKeepTheIdsOfOrdinaryText) {
  const auto vocab = SmolLm2Vocab();
  const Result<Tokenizer> tokenizer = TokenizerOf(vocab->fields);
  size_t num_compared = 0;
  for (const auto& row : RecordedJson("templates.json")) {
    const auto parsed = ChatTemplate::Parse(ReadRecorded("templates/" + row["template"].get<std::string>()));
    const Result<MarkedText> text = parsed->RenderJson(row["messages"].dump(), {.now = 1700000000});
    if (!text.ok()) continue;  // the template refuses this conversation
    EXPECT_EQ(*tokenizer->Encode(text->text, {.add_special = false, .literal = text->literal}),
              *tokenizer->Encode(text->text, kPlain))
        << text->text;
    num_compared += !text->literal.empty();
  }
  EXPECT_GT(num_compared, 100u);
}

TEST(Tokenizer, LiteralRangesFollowWrittenSpaceMarkers) {
  TokenizerSpec spec;
  spec.kind = TokenizerKind::kSentencePieceBpe;
  spec.maps_space_marker = true;
  spec.tokens = {"a", "\u2581", "<s>", "<", "s", ">"};
  spec.types = {TokenType::kNormal, TokenType::kNormal, TokenType::kControl,
                TokenType::kNormal, TokenType::kNormal, TokenType::kNormal};
  spec.scores.assign(spec.tokens.size(), 0.0f);
  const Result<Tokenizer> tokenizer = Tokenizer::Create(spec);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.failure().message;
  // Markers of three bytes before, in and behind the literal "<s>".
  MarkedText text = {"\u2581<s>\u2581"};
  text.AppendLiteral("\u2581<s>");
  text.Append("<s>\u2581<s>");
  EXPECT_THAT(*tokenizer->Encode(text.text, {.add_special = false, .literal = text.literal}),
              ElementsAre(1, 2, 1, 1, 3, 4, 5, 2, 1, 2));
}

TEST(Tokenizer, AddsWhatTheModelExpectsAroundText) {
  const auto vocab = SmolLm2Vocab();
  vocab->fields.add_bos = true;
  vocab->fields.add_eos = true;
  const Result<Tokenizer> tokenizer = TokenizerOf(vocab->fields);
  EXPECT_THAT(*tokenizer->Encode(""), ElementsAre(1, 2));
  const Ids ids = *tokenizer->Encode("a");
  EXPECT_EQ(ids.size(), 3u);
  EXPECT_EQ(*tokenizer->Encode("a", kPlain), (Ids{ids[1]}));
}

// Cached pieces, long pieces and both together must give what a fresh encoder gives piece by piece.
TEST(Tokenizer, RepeatedAndLongPiecesDoNotChangeIds) {
  const auto vocab = SmolLm2Vocab();
  const Result<Tokenizer> tokenizer = TokenizerOf(vocab->fields);
  std::string all;
  Ids expected;
  Rng rng(5);
  const std::string words[] = {" the", " of", " extraordinary", " " + std::string(64, 'q'), " " + std::string(63, 'q'),
                               " é",   " x"};
  for (int i = 0; i < 3000; ++i) {
    const std::string& word = words[rng.Below(std::size(words))];
    const Ids ids = *tokenizer->Encode(word, kPlain);
    expected.insert(expected.end(), ids.begin(), ids.end());
    all += word;
  }
  EXPECT_EQ(*tokenizer->Encode(all, kPlain), expected);
}

TEST(Tokenizer, RandomTextRoundTrips) {
  const Result<Tokenizer> byte_level = RecordedTokenizer("gpt2");
  const auto vocab = SentencePieceVocab();
  const Result<Tokenizer> sentencepiece = TokenizerOf(vocab->fields);
  Rng rng(11);
  for (int trial = 0; trial < 500; ++trial) {
    std::string text;
    for (uint64_t i = rng.Below(40); i > 0; --i) {
      static constexpr uint32_t kLimits[] = {0x80, 0x80, 0x800, 0x10000, 0x110000};
      const auto c = static_cast<uint32_t>(rng.Below(kLimits[rng.Below(5)]));
      if ((c >= 0xd800 && c <= 0xdfff) || c == 0x2581) continue;
      AppendUtf8(rng.Below(4) == 0 ? ' ' : c, text);
    }
    EXPECT_EQ(byte_level->Decode(*byte_level->Encode(text, kPlain)), text);
    EXPECT_EQ(sentencepiece->Decode(*sentencepiece->Encode(text, kPlain)), text);
  }
}

TEST(Tokenizer, InvalidUtf8IsRefusedWithItsOffset) {
  const auto vocab = SmolLm2Vocab();
  const Result<Tokenizer> tokenizer = TokenizerOf(vocab->fields);
  const Result<Ids> ids = tokenizer->Encode("valid then \xff");
  ASSERT_FALSE(ids.ok());
  EXPECT_EQ(ids.failure().error, Error::kInvalidArgument);
  EXPECT_THAT(ids.failure().message, HasSubstr("at byte 11 (0xff)"));
}

TEST(Tokenizer, IdsOutsideTheVocabularyDecodeToNothing) {
  const auto vocab = SmolLm2Vocab();
  const Result<Tokenizer> tokenizer = TokenizerOf(vocab->fields);
  EXPECT_EQ(tokenizer->Decode(Ids{-1, 49152, INT32_MAX, INT32_MIN}), "");
  EXPECT_EQ(tokenizer->TokenBytes(-1), "");
  EXPECT_EQ(tokenizer->TypeOf(49152), TokenType::kUnused);
  EXPECT_FALSE(tokenizer->IsEndOfGeneration(-1));
}

TEST(Tokenizer, TokensAreFoundByTheirBytes) {
  const auto vocab = SmolLm2Vocab();
  const Result<Tokenizer> tokenizer = TokenizerOf(vocab->fields);
  EXPECT_EQ(tokenizer->IdOf("<|im_end|>"), 2);
  EXPECT_EQ(tokenizer->IdOf("no such token"), std::nullopt);
  const int32_t the = *tokenizer->IdOf(" the");
  EXPECT_EQ(tokenizer->TokenBytes(the), " the");
}

TEST(Tokenizer, ManyThreadsMayEncodeAtOnce) {
  const auto vocab = SmolLm2Vocab();
  const Result<Tokenizer> tokenizer = TokenizerOf(vocab->fields);
  const std::string text = ReadRecorded("texts.json");
  const Ids expected = *tokenizer->Encode(text);
  std::vector<std::thread> threads;
  std::vector<Ids> found(4);
  for (Ids& ids : found) threads.emplace_back([&] { ids = *tokenizer->Encode(text); });
  for (std::thread& thread : threads) thread.join();
  for (const Ids& ids : found) EXPECT_EQ(ids, expected);
}

TEST(Tokenizer, MovingKeepsItWhole) {
  TokenizerSpec spec;  // so small that a moved string would take its text along
  spec.kind = TokenizerKind::kSentencePieceBpe;
  spec.tokens = {"a", "<s>"};
  spec.types = {TokenType::kNormal, TokenType::kControl};
  spec.scores = {0, 0};
  Result<Tokenizer> made = Tokenizer::Create(spec);
  const Tokenizer moved = std::move(*made);
  EXPECT_THAT(*moved.Encode("a<s>a"), ElementsAre(0, 1, 0));
}

TEST(Tokenizer, UnknownCharactersWithoutByteTokens) {
  TokenizerSpec spec;
  spec.kind = TokenizerKind::kSentencePieceBpe;
  spec.tokens = {"<unk>", "a", "b"};
  spec.types = {TokenType::kUnknown, TokenType::kNormal, TokenType::kNormal};
  spec.scores = {0, 0, 0};
  spec.unk_id = 0;
  EXPECT_THAT(*Tokenizer::Create(spec)->Encode("aéè漢b"), ElementsAre(1, 0, 0, 0, 2));
  spec.fuses_unknown = true;
  EXPECT_THAT(*Tokenizer::Create(spec)->Encode("aéè漢b"), ElementsAre(1, 0, 2));
  spec.unk_id = -1;
  EXPECT_THAT(*Tokenizer::Create(spec)->Encode("aéè漢b"), ElementsAre(1, 2));
}

TEST(Tokenizer, MarginsSwallowWhiteSpace) {
  TokenizerSpec spec;
  spec.kind = TokenizerKind::kSentencePieceBpe;
  spec.tokens = {"a", "\u2581", "<l>", "<r>"};
  spec.types = {TokenType::kNormal, TokenType::kNormal, TokenType::kControl, TokenType::kControl};
  spec.scores = {0, 0, 0, 0};
  spec.margins = {{2, true, false}, {3, false, true}};
  const Result<Tokenizer> tokenizer = Tokenizer::Create(spec);
  EXPECT_THAT(*tokenizer->Encode("a  <l> a"), ElementsAre(0, 2, 1, 0));
  EXPECT_THAT(*tokenizer->Encode("a <r> \u2003 a"), ElementsAre(0, 1, 3, 0));
  EXPECT_THAT(*tokenizer->Encode("  <l><r>  "), ElementsAre(2, 3));
}

TEST(Tokenizer, ContradictoryVocabulariesAreRefused) {
  TokenizerSpec good;
  good.tokens = {"a", "b", "ab"};
  good.merges = {{"a", "b"}};
  ASSERT_TRUE(Tokenizer::Create(good).ok());
  const auto refused = [](const TokenizerSpec& spec, const char* message) {
    const Result<Tokenizer> tokenizer = Tokenizer::Create(spec);
    ASSERT_FALSE(tokenizer.ok()) << message;
    EXPECT_EQ(tokenizer.failure().error, Error::kCorrupt);
    EXPECT_THAT(tokenizer.failure().message, HasSubstr(message));
  };
  refused({}, "0 tokens");
  TokenizerSpec bad = good;
  bad.types = {TokenType::kNormal};
  refused(bad, "1 token types for 3 tokens");
  bad = good;
  bad.merges = {{"a", "c"}};
  refused(bad, "merge 0 joins \"a\" and \"c\"");
  bad = good;
  bad.merges = {{"b", "a"}};
  refused(bad, "merge 0");
  bad = good;
  bad.merges = {{"a", "\xff"}};
  refused(bad, "merge 0");
  bad = good;
  bad.tokens[1] = "\xc3";
  refused(bad, "token 1 is not valid UTF-8");
  bad = good;
  bad.eos_id = 3;
  refused(bad, "end-of-text token id is 3, but the vocabulary has 3 tokens");
  bad = good;
  bad.prefix_ids = {-1};
  refused(bad, "special token");
  bad = good;
  bad.kind = TokenizerKind::kSentencePieceBpe;
  bad.merges.clear();
  refused(bad, "0 scores for 3 tokens");
  bad.scores = {0, std::nanf(""), 0};
  refused(bad, "score of token 1");
}

}  // namespace
}  // namespace cachette
