#include "io/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "io/bytes.h"
#include "io/temp_folder.h"

namespace cachette {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// A file with that header text and data bytes; the length field may lie.
std::vector<std::byte> FileOf(const std::string& header, size_t num_data_bytes, int64_t length_error = 0) {
  const uint64_t num_header_bytes = header.size() + static_cast<uint64_t>(length_error);
  std::vector<std::byte> out(8 + header.size());
  std::memcpy(out.data(), &num_header_bytes, 8);
  std::memcpy(out.data() + 8, header.data(), header.size());
  const auto data = Bytes(num_data_bytes);
  out.insert(out.end(), data.begin(), data.end());
  return out;
}

const char* const kTwoTensors = R"({"__metadata__": {"format": "pt"},
  "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
  "b": {"dtype": "BF16", "shape": [5], "data_offsets": [24, 34]}})";

// In an exactly sized block, so that ASan sees any step beyond.
Failure SafetensorsFailureOf(std::span<const std::byte> bytes) {
  const auto copy = std::make_unique<std::byte[]>(bytes.size());
  std::copy(bytes.begin(), bytes.end(), copy.get());
  const auto file = SafetensorsFile::Parse({copy.get(), bytes.size()}, "test.safetensors");
  if (file.ok()) {
    ADD_FAILURE() << "parsed";
    return Fail(Error::kIo, "");
  }
  return file.failure();
}

#define EXPECT_CORRUPT(bytes, text)                                  \
  do {                                                               \
    const Failure f = SafetensorsFailureOf(bytes);                   \
    EXPECT_STREQ(ErrorName(f.error), "corrupt file") << f.message;   \
    EXPECT_THAT(f.message, HasSubstr(text));                         \
    EXPECT_THAT(f.message, testing::StartsWith("test.safetensors")); \
  } while (false)

// One tensor "t" described by fields.
std::vector<std::byte> OneTensor(const std::string& fields, size_t num_data_bytes) {
  return FileOf(R"({"t": {)" + fields + "}}", num_data_bytes);
}

TEST(Safetensors, ReadsTensorsAndMetadata) {
  const auto bytes = FileOf(kTwoTensors, 34);
  const auto file = SafetensorsFile::Parse(bytes, "f");
  ASSERT_TRUE(file.ok()) << file.failure().message;
  EXPECT_EQ(file->metadata().at("format"), "pt");
  ASSERT_EQ(file->tensors().size(), 2u);
  const TensorInfo& a = **file->Get("a");
  EXPECT_EQ(a.dtype, Dtype::kF32);
  EXPECT_THAT(a.shape, ElementsAre(2, 3));
  const TensorInfo& b = **file->Get("b");
  EXPECT_EQ(b.dtype, Dtype::kBF16);
  EXPECT_EQ(b.bytes.data() - a.bytes.data(), 24);
  EXPECT_EQ(b.bytes.size(), 10u);
  EXPECT_TRUE(std::ranges::equal(a.bytes, Bytes(24)));
  EXPECT_EQ(file->Get("c").failure().error, Error::kNotFound);
}

TEST(Safetensors, ScalarsEmptyTensorsAndEmptyFiles) {
  const auto bytes = FileOf(R"({"scalar": {"dtype": "F16", "shape": [], "data_offsets": [0, 2]},
      "none": {"dtype": "F32", "shape": [0, 4], "data_offsets": [2, 2]}}   )",
                            2);
  const auto file = SafetensorsFile::Parse(bytes, "f");
  ASSERT_TRUE(file.ok()) << file.failure().message;
  EXPECT_EQ((*file->Get("scalar"))->num_elements(), 1);
  EXPECT_EQ((*file->Get("none"))->num_elements(), 0);
  EXPECT_TRUE((*file->Get("none"))->bytes.empty());
  EXPECT_TRUE(SafetensorsFile::Parse(FileOf("{}", 0), "f").ok());
}

TEST(Safetensors, OtherDtypesFailOnlyWhenAskedFor) {
  const auto bytes = FileOf(R"({"ids": {"dtype": "I64", "shape": [2], "data_offsets": [0, 16]},
      "new": {"dtype": "F2_E1M0", "shape": [2], "data_offsets": [16, 17]},
      "w": {"dtype": "F32", "shape": [1], "data_offsets": [17, 21]}})",
                            21);
  const auto file = SafetensorsFile::Parse(bytes, "f");
  ASSERT_TRUE(file.ok()) << file.failure().message;
  EXPECT_EQ(file->tensors().size(), 1u);
  EXPECT_TRUE(file->Get("w").ok());
  EXPECT_EQ(file->Find("ids"), nullptr);
  const auto ids = file->Get("ids");
  EXPECT_EQ(ids.failure().error, Error::kUnsupported);
  EXPECT_THAT(ids.failure().message, HasSubstr("tensor 'ids' is stored as 'I64'; supported are F32, F16 and BF16"));
  EXPECT_THAT(file->Get("new").failure().message, HasSubstr("F2_E1M0"));
}

TEST(Safetensors, TruncationAtEveryByteIsNoticed) {
  const auto bytes = FileOf(kTwoTensors, 34);
  for (size_t keep = 0; keep < bytes.size(); ++keep) {
    const Failure f = SafetensorsFailureOf(std::span(bytes).first(keep));
    ASSERT_EQ(f.error, Error::kCorrupt) << keep << ": " << f.message;
  }
}

TEST(Safetensors, EveryByteOfTheHeaderMayBeAnyValue) {
  auto bytes = FileOf(kTwoTensors, 34);
  for (size_t at = 0; at < bytes.size() - 34; ++at) {
    const std::byte before = bytes[at];
    for (const unsigned value : {0u, 0x22u, 0x2du, 0x39u, 0x5bu, 0x7bu, 0x7du, 0x80u, 0xffu}) {
      bytes[at] = static_cast<std::byte>(value);
      const auto file = SafetensorsFile::Parse(bytes, "f");
      if (file.ok()) continue;
      EXPECT_EQ(file.failure().error, Error::kCorrupt);
    }
    bytes[at] = before;
  }
}

TEST(Safetensors, BadHeaderLength) {
  EXPECT_CORRUPT(Bytes(7), "7 bytes are too few");
  EXPECT_CORRUPT(FileOf("{}", 0, 1), "claims a header of 3 bytes; the file has 2 more");
  EXPECT_CORRUPT(FileOf("{}", 0, -3), "claims a header of 18446744073709551615 bytes");
  EXPECT_CORRUPT(FileOf("{}", 0, -2), "does not start with '{'");
  EXPECT_CORRUPT(FileOf("{}", 0, -1), "not valid JSON at byte 2");
  EXPECT_CORRUPT(FileOf(kTwoTensors, 34, 1), "not valid JSON");  // the first byte of data follows the last brace
  EXPECT_CORRUPT(FileOf("{}", 0, 100'000'000), "100000000 are allowed");
}

TEST(Safetensors, BadJson) {
  EXPECT_CORRUPT(FileOf("[]", 0), "does not start with '{'");
  EXPECT_CORRUPT(FileOf("{\"a\": }", 0), "not valid JSON at byte 7");
  EXPECT_CORRUPT(FileOf("{\"\xff\": 1}", 0), "not valid JSON");
  EXPECT_CORRUPT(FileOf("{\"a\": 1e999}", 0), "not usable JSON");
  EXPECT_CORRUPT(FileOf(std::string(100000, '['), 0), "does not start");
  EXPECT_CORRUPT(FileOf("{\"a\":" + std::string(100000, '['), 0), "not valid JSON");  // depth must not use the stack
  EXPECT_CORRUPT(FileOf(R"({"a": {"dtype": "F16", "shape": [], "data_offsets": [0, 2]},
                            "a": {"dtype": "F16", "shape": [], "data_offsets": [0, 2]}})",
                        2),
                 "the JSON key 'a' occurs twice");
  EXPECT_CORRUPT(FileOf(R"({"__metadata__": []})", 0), "not an object of strings");
  EXPECT_CORRUPT(FileOf(R"({"__metadata__": {"k": 1}})", 0), "__metadata__ 'k' is not a string");
}

TEST(Safetensors, BadTensorFields) {
  EXPECT_CORRUPT(FileOf(R"({"t": 1})", 0), "tensor 't': is not an object of dtype, shape and data_offsets");
  EXPECT_CORRUPT(OneTensor(R"("dtype": "F32", "shape": [1])", 4), "is not an object of");
  EXPECT_CORRUPT(OneTensor(R"("dtype": "F32", "shape": [1], "data_offsets": [0, 4], "more": 1)", 4),
                 "is not an object of");
  EXPECT_CORRUPT(OneTensor(R"("dtype": 1, "shape": [1], "data_offsets": [0, 4])", 4), "dtype is not a string");
  EXPECT_CORRUPT(OneTensor(R"("dtype": "", "shape": [1], "data_offsets": [0, 4])", 4), "dtype is empty");
  for (const char* shape : {"1", "[-1]", "[1.0]", "[\"1\"]", "[[1]]", "null", "[9223372036854775808]"})
    EXPECT_CORRUPT(OneTensor(std::string(R"("dtype": "F32", "shape": )") + shape + R"(, "data_offsets": [0, 4])", 4),
                   "shape is not an array of integers");
  EXPECT_CORRUPT(OneTensor(R"("dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 4])", 4),
                 "overflows");
  EXPECT_CORRUPT(OneTensor(R"("dtype": "F32", "shape": [4294967296, 4294967296, 0], "data_offsets": [0, 0])", 0),
                 "overflows");
  EXPECT_CORRUPT(OneTensor(R"("dtype": "F32", "shape": [4611686018427387904], "data_offsets": [0, 4])", 4),
                 "overflows");
  EXPECT_CORRUPT(OneTensor(R"("dtype": "F32", "shape": [2], "data_offsets": [0, 4])", 4),
                 "span 4 bytes, but 2 elements of F32 take 8");
  EXPECT_CORRUPT(OneTensor(R"("dtype": "I64", "shape": [2], "data_offsets": [0, 4])", 4), "2 elements of I64 take 16");
  EXPECT_CORRUPT(OneTensor(R"("dtype": "F4", "shape": [3], "data_offsets": [0, 1])", 1), "3 elements of F4");
}

TEST(Safetensors, BadOffsets) {
  const auto with = [](const std::string& offsets) {
    return OneTensor(R"("dtype": "F32", "shape": [1], "data_offsets": )" + offsets, 4);
  };
  EXPECT_TRUE(SafetensorsFile::Parse(with("[0, 4]"), "f").ok());
  for (const char* offsets : {"[0]", "[0, 4, 4]", "4", "[0, -4]", "[0.0, 4]", "[\"0\", 4]"})
    EXPECT_CORRUPT(with(offsets), "data_offsets are not two integers");
  EXPECT_CORRUPT(with("[4, 0]"), "4 to 0 are not within the 4 bytes");
  EXPECT_CORRUPT(with("[0, 5]"), "0 to 5 are not within");
  EXPECT_CORRUPT(with("[4, 8]"), "fetch it again");
  EXPECT_CORRUPT(with("[9223372036854775803, 9223372036854775807]"), "not within");
  const auto two = [](const std::string& second, size_t num_data_bytes) {
    return FileOf(R"({"a": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}, "b": {"dtype": "F16", "shape": [1],
        "data_offsets": )" +
                      second + "}}",
                  num_data_bytes);
  };
  EXPECT_CORRUPT(two("[2, 4]", 4), "tensor 'b': its data starts at 2, overlapping");
  EXPECT_CORRUPT(two("[0, 2]", 4), "overlapping");
  EXPECT_CORRUPT(two("[6, 8]", 8), "leaving a gap");
  EXPECT_CORRUPT(two("[4, 6]", 7), "has 7 bytes of data but its tensors end at 6");
}

TEST(SafetensorsWriter, WhatItWritesReadsBack) {
  SafetensorsWriter writer;
  const auto a = Bytes(6, 1), b = Bytes(24, 2), c = Bytes(4, 3);
  ASSERT_TRUE(writer.Add("a \"quoted\" \xc3\xa9", Dtype::kF16, {3, 1}, a).ok());
  ASSERT_TRUE(writer.Add("b", Dtype::kF32, {2, 3}, b).ok());
  ASSERT_TRUE(writer.Add("c", Dtype::kBF16, {2}, c).ok());
  ASSERT_TRUE(writer.Add("empty", Dtype::kF32, {0}, {}).ok());
  ASSERT_TRUE(writer.Add("scalar", Dtype::kF32, {}, c).ok());
  writer.SetMetadata("rank", "16");
  const TempFolder folder;
  const std::string path = folder / "out.safetensors";
  ASSERT_TRUE(writer.Write(path).ok());
  ASSERT_TRUE(writer.Write(path).ok());  // replaces
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.failure().message;
  EXPECT_EQ(file->metadata().at("rank"), "16");
  EXPECT_EQ(file->tensors().size(), 5u);
  EXPECT_TRUE(std::ranges::equal((*file->Get("a \"quoted\" \xc3\xa9"))->bytes, a));
  EXPECT_TRUE(std::ranges::equal((*file->Get("b"))->bytes, b));
  EXPECT_TRUE(std::ranges::equal((*file->Get("c"))->bytes, c));
  EXPECT_THAT((*file->Get("b"))->shape, ElementsAre(2, 3));
  EXPECT_EQ((*file->Get("scalar"))->shape.size(), 0u);
  for (const TensorInfo& tensor : file->tensors())
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.bytes.data()) % static_cast<size_t>(InfoOf(tensor.dtype).block_bytes),
              0u);
  // The writer leaves nothing else behind.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder / ""), {}), 1);
}

TEST(SafetensorsWriter, RefusesWhatTheFormatCannotHold) {
  SafetensorsWriter writer;
  const auto bytes = Bytes(34);
  const auto expect = [&](const Result<void>& result, const char* text) {
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.failure().error, Error::kInvalidArgument);
    EXPECT_THAT(result.failure().message, HasSubstr(text));
  };
  expect(writer.Add("t", Dtype::kQ8_0, {32}, bytes), "not q8_0");
  expect(writer.Add("t", Dtype::kF32, {8}, bytes), "34 bytes do not fill the shape 8 in f32");
  expect(writer.Add("t", Dtype::kF32, {-1}, {}), "dimension -1");
  expect(writer.Add("", Dtype::kF16, {17}, bytes), "not allowed");
  expect(writer.Add("__metadata__", Dtype::kF16, {17}, bytes), "not allowed");
  ASSERT_TRUE(writer.Add("t", Dtype::kF16, {17}, bytes).ok());
  expect(writer.Add("t", Dtype::kF16, {17}, bytes), "added twice");
  EXPECT_EQ(writer.Write("/no such folder/x").failure().error, Error::kIo);
}

// Two shards and their index.
struct Shards {
  TempFolder folder;
  std::vector<std::byte> a = Bytes(8, 1), b = Bytes(8, 2);
  Shards() {
    SafetensorsWriter first, second;
    EXPECT_TRUE(first.Add("a", Dtype::kF32, {2}, a).ok());
    EXPECT_TRUE(first.Add("extra", Dtype::kF32, {2}, a).ok());
    EXPECT_TRUE(second.Add("b", Dtype::kF16, {4}, b).ok());
    EXPECT_TRUE(first.Write(folder / "1.safetensors").ok());
    EXPECT_TRUE(second.Write(folder / "2.safetensors").ok());
    folder.Write("ids.safetensors", FileOf(R"({"ids": {"dtype": "I32", "shape": [1], "data_offsets": [0, 4]}})", 4));
  }
  Result<SafetensorsFile> Open(const std::string& weight_map) {
    return SafetensorsFile::Open(folder.Write("model.safetensors.index.json", R"({"weight_map": )" + weight_map + "}"));
  }
};

TEST(SafetensorsIndex, JoinsShards) {
  Shards shards;
  auto opened = shards.Open(R"({"b": "2.safetensors", "a": "1.safetensors", "ids": "ids.safetensors"})");
  ASSERT_TRUE(opened.ok()) << opened.failure().message;
  const SafetensorsFile file = std::move(*opened);
  EXPECT_EQ(file.tensors().size(), 2u);
  const TensorInfo& b = **file.Get("b");
  file.Drop(b);
  EXPECT_TRUE(std::ranges::equal(b.bytes, shards.b));
  EXPECT_TRUE(std::ranges::equal((*file.Get("a"))->bytes, shards.a));
  EXPECT_EQ(file.Get("extra").failure().error, Error::kNotFound);
  EXPECT_EQ(file.Get("ids").failure().error, Error::kUnsupported);
}

TEST(SafetensorsIndex, SaysWhatIsWrong) {
  Shards shards;
  const auto expect = [](const Result<SafetensorsFile>& file, Error error, const char* text) {
    ASSERT_FALSE(file.ok());
    EXPECT_STREQ(ErrorName(file.failure().error), ErrorName(error));
    EXPECT_THAT(file.failure().message, HasSubstr(text));
  };
  expect(shards.Open("[]"), Error::kCorrupt, "no object weight_map");
  expect(shards.Open(R"({"a": 1})"), Error::kCorrupt, "weight_map 'a' is not a file name");
  expect(shards.Open(R"({"a": "3.safetensors"})"), Error::kNotFound, "3.safetensors: no such file");
  expect(shards.Open(R"({"b": "1.safetensors"})"), Error::kCorrupt, "1.safetensors holds tensor 'b', but it does not");
  for (const char* name : {"../1.safetensors", "/etc/passwd", "..", ""})
    expect(shards.Open(std::string(R"({"a": ")") + name + "\"}"), Error::kCorrupt, "only files of its own folder");
  // An index that names itself must not be followed.
  expect(shards.Open(R"({"a": "model.safetensors.index.json"})"), Error::kCorrupt, "safetensors file");
  expect(SafetensorsFile::Open(shards.folder.Write("x.json", "{")), Error::kCorrupt, "not valid JSON at byte 2");
}

}  // namespace
}  // namespace cachette
