#pragma once
// Metadata values of GGUF files and their conversion to the few types that readers ask for.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace cachette {

// Types of metadata values, numbered as in the file.
enum class GgufType : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };
inline constexpr uint32_t kNumGgufTypes = 13;

const char* GgufTypeName(GgufType type);  // "u32", "string", ...
uint32_t GgufTypeBytes(GgufType type);    // of one element; 0 for kString and kArray

// An array of the metadata, still in the file.
struct GgufArray {
  GgufType type = GgufType::kU8;  // of its elements; never kArray
  uint64_t num_elements = 0;
  std::span<const std::byte> bytes;       // numbers and bools: the elements as stored, unaligned; empty for strings
  std::vector<std::string_view> strings;  // [num_elements] for strings, else empty
};

// A scalar is widened: u8 to u64 -> uint64_t, i8 to i64 -> int64_t, f32 and f64 -> double.
using GgufValue = std::variant<uint64_t, int64_t, double, bool, std::string_view, GgufArray>;

// The number or bool (byte 0 or not) of that type at at.
GgufValue GgufScalar(GgufType type, const std::byte* at);

// Nothing when the value is of another kind. AsInt and AsInts: integers below 2^63; AsFloat and AsFloats: any number.
// AsInts and AsFloats read a scalar as one element, and AsInts reads bools as 0 and 1.
std::optional<int64_t> AsInt(const GgufValue& value);
std::optional<double> AsFloat(const GgufValue& value);
std::optional<std::vector<int64_t>> AsInts(const GgufValue& value);
std::optional<std::vector<float>> AsFloats(const GgufValue& value);

// For messages: "the integer 7", "an array of 3 f32 elements".
std::string Describe(const GgufValue& value);

}  // namespace cachette
