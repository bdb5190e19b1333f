#include "io/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <memory>

#include "io/bytes.h"
#include "io/gguf_builder.h"
#include "io/temp_folder.h"

namespace cachette {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr uint32_t kF32 = 0, kF16 = 1, kQ4_1 = 3, kQ8_0 = 8;

// One value of every type, two tensors.
GgufBuilder Sample() {
  GgufBuilder b;
  b.String("general.architecture", "llama")
      .Scalar("u8", GgufType::kU8, uint8_t{200})
      .Scalar("i8", GgufType::kI8, int8_t{-100})
      .Scalar("u16", GgufType::kU16, uint16_t{60000})
      .Scalar("i16", GgufType::kI16, int16_t{-30000})
      .Scalar("u32", GgufType::kU32, uint32_t{4000000000u})
      .Scalar("i32", GgufType::kI32, int32_t{-2000000000})
      .Scalar("u64", GgufType::kU64, uint64_t{1} << 63)
      .Scalar("i64", GgufType::kI64, std::numeric_limits<int64_t>::min())
      .Scalar("f32", GgufType::kF32, 0.5f)
      .Scalar("f64", GgufType::kF64, 1e300)
      .Scalar("yes", GgufType::kBool, uint8_t{1})
      .Scalar("no", GgufType::kBool, uint8_t{0})
      .Strings("tokens", {"a", "", "long token"})
      .Strings("no tokens", {})
      .Array<float>("scores", GgufType::kF32, {1.5f, -2.0f})
      .Array<int32_t>("types", GgufType::kI32, {3, -1, 7})
      .Array<uint8_t>("pattern", GgufType::kBool, {1, 0, 1})
      .Array<uint64_t>("big", GgufType::kU64, {uint64_t{1} << 63})
      .Tensor("a", kF32, {3, 2}, Bytes(24))
      .Tensor("b", kQ8_0, {64, 1, 2, 1}, Bytes(4 * 34));
  return b;
}

Result<GgufFile> ParseBytes(std::span<const std::byte> bytes) { return GgufFile::Parse(bytes, "test.gguf"); }

// Builds, parses and returns the failure; bytes live in an exactly sized block, so that ASan sees any step beyond.
Failure GgufFailureOf(std::span<const std::byte> bytes) {
  const auto copy = std::make_unique<std::byte[]>(bytes.size());
  std::copy(bytes.begin(), bytes.end(), copy.get());
  const auto file = ParseBytes({copy.get(), bytes.size()});
  if (file.ok()) {
    ADD_FAILURE() << "parsed";
    return Fail(Error::kIo, "");
  }
  return file.failure();
}
Failure GgufFailureOf(const GgufBuilder& builder) { return GgufFailureOf(builder.Build()); }

#define EXPECT_FAILURE(builder, kind, text)                      \
  do {                                                           \
    const Failure f = GgufFailureOf(builder);                    \
    EXPECT_EQ(ErrorName(f.error), ErrorName(kind)) << f.message; \
    EXPECT_THAT(f.message, HasSubstr(text));                     \
    EXPECT_THAT(f.message, HasSubstr("test.gguf"));              \
  } while (false)

TEST(Gguf, ReadsEveryTypeOfMetadata) {
  const auto bytes = Sample().Build();
  const auto file = ParseBytes(bytes);
  ASSERT_TRUE(file.ok()) << file.failure().message;
  EXPECT_EQ(*file->GetString("general.architecture"), "llama");
  EXPECT_EQ(*file->GetInt("u8"), 200);
  EXPECT_EQ(*file->GetInt("i8"), -100);
  EXPECT_EQ(*file->GetInt("u16"), 60000);
  EXPECT_EQ(*file->GetInt("i16"), -30000);
  EXPECT_EQ(*file->GetInt("u32"), 4000000000);
  EXPECT_EQ(*file->GetInt("i32"), -2000000000);
  EXPECT_EQ(*file->GetInt("i64"), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(*file->GetFloat("f32"), 0.5);
  EXPECT_EQ(*file->GetFloat("f64"), 1e300);
  EXPECT_EQ(*file->GetFloat("u8"), 200.0);
  EXPECT_TRUE(*file->GetBool("yes"));
  EXPECT_FALSE(*file->GetBool("no"));
  EXPECT_THAT(*file->GetStrings("tokens"), ElementsAre("a", "", "long token"));
  EXPECT_TRUE(file->GetStrings("no tokens")->empty());
  EXPECT_THAT(*file->GetFloats("scores"), ElementsAre(1.5f, -2.0f));
  EXPECT_THAT(*file->GetFloats("types"), ElementsAre(3.0f, -1.0f, 7.0f));
  EXPECT_THAT(*file->GetInts("types"), ElementsAre(3, -1, 7));
  EXPECT_THAT(*file->GetInts("pattern"), ElementsAre(1, 0, 1));
  EXPECT_THAT(*file->GetInts("u8"), ElementsAre(200));
  EXPECT_THAT(*file->GetFloats("f32"), ElementsAre(0.5f));
  EXPECT_EQ(file->metadata().size(), 19u);
  // Strings are views, not copies.
  const auto* text = reinterpret_cast<const std::byte*>(file->GetString("general.architecture")->data());
  EXPECT_TRUE(text >= bytes.data() && text < bytes.data() + bytes.size());
}

TEST(Gguf, GettersSayWhatIsWrong) {
  const auto bytes = Sample().Build();
  const auto file = ParseBytes(bytes);
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(*file->GetInt("absent", 32), 32);
  EXPECT_EQ(*file->GetFloat("absent", 0.25), 0.25);
  EXPECT_TRUE(*file->GetBool("absent", true));
  EXPECT_EQ(*file->GetString("absent", "x"), "x");
  EXPECT_EQ(*file->GetInt("u8", 32), 200);

  const auto expect = [](const auto& result, Error error, const char* text) {
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.failure().error, error);
    EXPECT_THAT(result.failure().message, HasSubstr(text));
  };
  expect(file->GetInt("absent"), Error::kNotFound, "test.gguf: has no metadata 'absent'");
  expect(file->GetStrings("absent"), Error::kNotFound, "absent");
  expect(file->GetInt("f32"), Error::kCorrupt, "'f32' is the number 0.5; expected an integer");
  expect(file->GetInt("f32", 3), Error::kCorrupt, "expected an integer");
  expect(file->GetInt("u64"), Error::kCorrupt, "9223372036854775808");
  expect(file->GetInts("big"), Error::kCorrupt, "an array of 1 u64 elements");
  expect(file->GetInts("scores"), Error::kCorrupt, "expected integers");
  expect(file->GetInts("tokens"), Error::kCorrupt, "an array of 3 string elements");
  expect(file->GetFloats("pattern"), Error::kCorrupt, "expected numbers");
  expect(file->GetFloat("yes"), Error::kCorrupt, "the bool true");
  expect(file->GetBool("u8"), Error::kCorrupt, "expected a bool");
  expect(file->GetString("u8"), Error::kCorrupt, "expected a string");
  expect(file->GetString("tokens", "x"), Error::kCorrupt, "expected a string");
  expect(file->GetStrings("types"), Error::kCorrupt, "expected an array of strings");
}

TEST(Gguf, PlacesTensors) {
  const auto bytes = Sample().Build();
  const auto file = ParseBytes(bytes);
  ASSERT_TRUE(file.ok());
  ASSERT_EQ(file->tensors().size(), 2u);
  const TensorInfo& a = **file->Get("a");
  EXPECT_EQ(a.dtype, Dtype::kF32);
  EXPECT_THAT(a.shape, ElementsAre(2, 3));
  EXPECT_EQ(a.num_elements(), 6);
  EXPECT_TRUE(std::ranges::equal(a.bytes, Bytes(24)));
  const TensorInfo& b = **file->Get("b");
  EXPECT_EQ(b.dtype, Dtype::kQ8_0);
  EXPECT_THAT(b.shape, ElementsAre(1, 2, 1, 64));
  EXPECT_TRUE(std::ranges::equal(b.bytes, Bytes(136)));
  EXPECT_EQ((b.bytes.data() - bytes.data()) % 32, 0);
  EXPECT_EQ(file->Get("c").failure().error, Error::kNotFound);
  EXPECT_THAT(file->Get("bb").failure().message, HasSubstr("nearest is 'b'"));
  file->Drop(a);  // from memory: nothing to do, nothing to break
}

TEST(Gguf, KnowsEveryDtypeOfTheProgram) {
  constexpr std::pair<uint32_t, Dtype> kPairs[] = {{0, Dtype::kF32},   {1, Dtype::kF16},  {30, Dtype::kBF16},
                                                   {8, Dtype::kQ8_0},  {2, Dtype::kQ4_0}, {3, Dtype::kQ4_1},
                                                   {6, Dtype::kQ5_0},  {7, Dtype::kQ5_1}, {12, Dtype::kQ4_K},
                                                   {13, Dtype::kQ5_K}, {14, Dtype::kQ6_K}};
  static_assert(std::size(kPairs) == kNumDtypes);
  for (const auto& [number, dtype] : kPairs) {
    GgufBuilder b;
    b.Tensor("t", number, {256, 3}, Bytes(3 * RowBytes(dtype, 256)));
    const auto bytes = b.Build();
    const auto file = ParseBytes(bytes);
    ASSERT_TRUE(file.ok()) << file.failure().message;
    EXPECT_EQ((*file->Get("t"))->dtype, dtype);
    EXPECT_EQ((*file->Get("t"))->bytes.size(), 3 * RowBytes(dtype, 256));
  }
}

TEST(Gguf, ReadsVersion2AndAnEmptyFileAndOtherAlignments) {
  GgufBuilder empty;
  empty.version = 2;
  const auto empty_bytes = empty.Build();
  const auto file = ParseBytes(empty_bytes);
  ASSERT_TRUE(file.ok()) << file.failure().message;
  EXPECT_EQ(file->version(), 2u);
  EXPECT_TRUE(file->tensors().empty());
  for (const uint32_t alignment : {8u, 16u, 64u, 4096u}) {
    GgufBuilder b;
    b.alignment_bytes = alignment;
    b.Scalar("general.alignment", GgufType::kU32, alignment)
        .Tensor("t", kF32, {1}, Bytes(4))
        .Tensor("u", kF16, {1}, Bytes(2));
    const auto bytes = b.Build();
    const auto aligned = ParseBytes(bytes);
    ASSERT_TRUE(aligned.ok()) << aligned.failure().message;
    EXPECT_EQ(aligned->alignment_bytes(), alignment);
    EXPECT_EQ(static_cast<size_t>((*aligned->Get("u"))->bytes.data() - bytes.data()) % alignment, 0u);
  }
}

TEST(Gguf, TruncationAtEveryByteIsNoticed) {
  const auto bytes = Sample().Build();
  for (size_t keep = 0; keep < bytes.size(); ++keep) {
    const Failure f = GgufFailureOf(std::span(bytes).first(keep));
    ASSERT_EQ(f.error, Error::kCorrupt) << keep << ": " << f.message;
  }
  ASSERT_TRUE(ParseBytes(bytes).ok());
}

TEST(Gguf, EveryByteOfTheHeaderMayBeAnyValue) {  // must parse or fail, never crash; the sanitizers watch
  const GgufBuilder sample = Sample();
  auto bytes = sample.Build();
  for (size_t at = 0; at < sample.header_bytes(); ++at) {
    const std::byte before = bytes[at];
    for (const unsigned value : {0u, 1u, 0x7fu, 0x80u, 0xffu}) {
      bytes[at] = static_cast<std::byte>(value);
      const auto file = ParseBytes(bytes);
      if (file.ok()) continue;
      EXPECT_TRUE(file.failure().error == Error::kCorrupt || file.failure().error == Error::kUnsupported);
    }
    bytes[at] = before;
  }
}

TEST(Gguf, WrongMagicVersionAndByteOrder) {
  GgufBuilder b = Sample();
  b.magic = "ggjt";
  EXPECT_FAILURE(b, Error::kCorrupt, "starts with 'ggjt' instead of 'GGUF'");
  b = Sample();
  b.version = 1;
  EXPECT_FAILURE(b, Error::kUnsupported, "GGUF version 1; versions 2 and 3 are read");
  b.version = 4;
  EXPECT_FAILURE(b, Error::kUnsupported, "GGUF version 4");
  b.version = 0x03000000;
  EXPECT_FAILURE(b, Error::kUnsupported, "big-endian");
}

TEST(Gguf, CountsBeyondTheFile) {
  for (const int64_t extra : {int64_t{1}, int64_t{1} << 40, std::numeric_limits<int64_t>::min(), int64_t{-1} << 20}) {
    GgufBuilder b = Sample();
    b.extra_pairs = extra;
    EXPECT_EQ(GgufFailureOf(b).error, Error::kCorrupt) << extra;
    b.extra_pairs = 0;
    b.extra_tensors = extra;
    EXPECT_EQ(GgufFailureOf(b).error, Error::kCorrupt) << extra;
  }
  GgufBuilder b = Sample();
  b.extra_pairs = int64_t{1} << 40;
  EXPECT_FAILURE(b, Error::kCorrupt, "more than its");
}

TEST(Gguf, BadNames) {
  EXPECT_FAILURE(GgufBuilder().Scalar("", GgufType::kU32, uint32_t{1}), Error::kCorrupt, "a metadata key of 0 bytes");
  EXPECT_FAILURE(GgufBuilder().Scalar(std::string(65536, 'k'), GgufType::kU8, uint8_t{1}), Error::kCorrupt,
                 "65536 bytes");
  EXPECT_FAILURE(GgufBuilder().Tensor("", kF32, {1}, Bytes(4)), Error::kCorrupt, "a tensor name of 0 bytes");
  EXPECT_FAILURE(GgufBuilder().Scalar("k", GgufType::kU8, uint8_t{1}).Scalar("k", GgufType::kU8, uint8_t{1}),
                 Error::kCorrupt, "'k': this metadata key occurs twice");
  EXPECT_FAILURE(GgufBuilder().Tensor("t", kF32, {1}, Bytes(4)).Tensor("t", kF32, {1}, Bytes(4)), Error::kCorrupt,
                 "two tensors named 't'");
}

std::vector<std::byte> Raw(std::initializer_list<uint32_t> words) {
  std::vector<std::byte> bytes;
  for (const uint32_t word : words) GgufBuilder::Put(bytes, word);
  return bytes;
}

TEST(Gguf, BadMetadataValues) {
  EXPECT_FAILURE(GgufBuilder().RawPair("k", Raw({13, 0, 0})), Error::kCorrupt,
                 "'k': its type is 13; metadata types are 0 to 12");
  EXPECT_FAILURE(GgufBuilder().RawPair("k", Raw({0xffffffff, 0})), Error::kCorrupt, "its type is 4294967295");
  EXPECT_FAILURE(GgufBuilder().Scalar("k", GgufType::kBool, uint8_t{2}), Error::kCorrupt, "holds the bool 2");
  EXPECT_FAILURE(GgufBuilder().Array<uint8_t>("k", GgufType::kBool, {1, 3}), Error::kCorrupt, "holds the bool 3");
  // A string whose length is the largest number, or just one too long.
  EXPECT_FAILURE(GgufBuilder().RawPair("k", Raw({8, 0xffffffff, 0xffffffff})), Error::kCorrupt,
                 "needs 18446744073709551615 bytes");
  EXPECT_FAILURE(GgufBuilder().RawPair("k", Raw({8, 5, 0, 0})), Error::kCorrupt, "needs 5 bytes");
  // Arrays: type, count, nesting. 2^61 elements of 8 bytes overflow 64 bits.
  EXPECT_FAILURE(GgufBuilder().RawPair("k", Raw({9, 99, 0, 0})), Error::kCorrupt, "the type of its elements is 99");
  EXPECT_FAILURE(GgufBuilder().RawPair("k", Raw({9, 10, 0, 1u << 29, 1, 1})), Error::kCorrupt,
                 "claims 2305843009213693952 elements");
  EXPECT_FAILURE(GgufBuilder().RawPair("k", Raw({9, 8, 0xffffffff, 0xffffffff, 0, 0})), Error::kCorrupt,
                 "claims 18446744073709551615");
  EXPECT_FAILURE(GgufBuilder().RawPair("k", Raw({9, 8, 1, 0, 9, 0})), Error::kCorrupt, "an element of it");
  EXPECT_FAILURE(GgufBuilder().RawPair("k", Raw({9, 9, 1, 0, 0, 0, 0})), Error::kUnsupported, "array of arrays");
}

TEST(Gguf, BadAlignmentAndSplitFiles) {
  for (const uint32_t alignment : {0u, 1u, 4u, 24u, 33u, 0xffffffffu})
    EXPECT_FAILURE(GgufBuilder().Scalar("general.alignment", GgufType::kU32, alignment), Error::kCorrupt,
                   "power of two");
  EXPECT_FAILURE(GgufBuilder().String("general.alignment", "32"), Error::kCorrupt, "expected an integer");
  EXPECT_FAILURE(GgufBuilder().Scalar("general.alignment", GgufType::kI64, std::numeric_limits<int64_t>::min()),
                 Error::kCorrupt, "power of two");
  // The largest allowed one: the data starts beyond the file.
  EXPECT_FAILURE(
      GgufBuilder().Scalar("general.alignment", GgufType::kU64, uint64_t{1} << 62).TensorAt("t", kF32, {1}, 0),
      Error::kCorrupt, "truncated");
  EXPECT_FAILURE(GgufBuilder().Scalar("split.count", GgufType::kU16, uint16_t{3}), Error::kUnsupported,
                 "one of 3 parts");
}

TEST(Gguf, BadTensorDescriptions) {
  EXPECT_FAILURE(GgufBuilder().Tensor("t", kF32, {}, Bytes(64)), Error::kCorrupt, "'t': has 0 dimensions");
  EXPECT_FAILURE(GgufBuilder().Tensor("t", kF32, {1, 1, 1, 1, 1}, Bytes(64)), Error::kCorrupt, "has 5 dimensions");
  EXPECT_FAILURE(GgufBuilder().Tensor("t", kF32, {4, 0}, Bytes(64)), Error::kCorrupt, "a dimension of 0");
  EXPECT_FAILURE(GgufBuilder().Tensor("t", kF32, {uint64_t{1} << 63}, Bytes(64)), Error::kCorrupt,
                 "a dimension of -9223372036854775808");
  EXPECT_FAILURE(GgufBuilder().Tensor("t", kF32, {uint64_t{1} << 32, uint64_t{1} << 32}, Bytes(64)), Error::kCorrupt,
                 "overflow");
  EXPECT_FAILURE(GgufBuilder().Tensor("t", kF32, {uint64_t{1} << 62}, Bytes(64)), Error::kCorrupt, "overflow");
  EXPECT_FAILURE(GgufBuilder().Tensor("t", kQ4_1, {33, 2}, Bytes(64)), Error::kCorrupt,
                 "rows of 33 elements, not a multiple of the 32 of a q4_1");
  EXPECT_FAILURE(GgufBuilder().Tensor("t", 16, {256}, Bytes(300)), Error::kUnsupported,
                 "'t': has tensor type 16 (IQ2_XXS), which is not read; supported are f32");
  EXPECT_FAILURE(GgufBuilder().Tensor("t", 4, {256}, Bytes(300)), Error::kUnsupported, "type 4 (unknown)");
  EXPECT_FAILURE(GgufBuilder().Tensor("t", 0xffffffffu, {256}, Bytes(300)), Error::kUnsupported,
                 "type 4294967295 (unknown)");
}

TEST(Gguf, BadOffsets) {
  const auto two = [](uint64_t offset) {
    return GgufBuilder().Tensor("t", kF32, {16}, Bytes(64)).TensorAt("u", kF32, {16}, offset);
  };
  EXPECT_FAILURE(two(16), Error::kCorrupt, "'u': its offset 16 is not a multiple of the alignment 32");
  EXPECT_FAILURE(two(0), Error::kCorrupt, "bytes overlap those of");
  EXPECT_FAILURE(two(32), Error::kCorrupt, "needs 64 bytes at offset 32 but the file has 64 bytes of tensors");
  EXPECT_FAILURE(two(64), Error::kCorrupt, "truncated");
  EXPECT_FAILURE(two(~uint64_t{31}), Error::kCorrupt, "truncated");
}

TEST(Gguf, OpensAFileAndKeepsItMapped) {
  const TempFolder folder;
  const std::string path = folder.Write("a.gguf", Sample().Build());
  auto opened = GgufFile::Open(path);
  ASSERT_TRUE(opened.ok()) << opened.failure().message;
  const GgufFile file = std::move(*opened);
  EXPECT_EQ(file.name(), path);
  const TensorInfo& b = **file.Get("b");
  file.WillNeed(b);
  file.Drop(b);
  EXPECT_TRUE(std::ranges::equal(b.bytes, Bytes(136)));  // read back from the file
  EXPECT_THAT(*file.GetStrings("tokens"), ElementsAre("a", "", "long token"));
  EXPECT_EQ(GgufFile::Open(folder / "b.gguf").failure().error, Error::kNotFound);
}

}  // namespace
}  // namespace cachette
