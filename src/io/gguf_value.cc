#include "io/gguf_value.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cstring>

#include "base/result.h"
#include "io/quoted.h"

namespace cachette {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers of the file are copied as they are");

struct TypeInfo {
  const char* name;
  uint32_t num_bytes;  // 0: not of fixed size
};
constexpr std::array<TypeInfo, kNumGgufTypes> kTypes = {{{"u8", 1},
                                                         {"i8", 1},
                                                         {"u16", 2},
                                                         {"i16", 2},
                                                         {"u32", 4},
                                                         {"i32", 4},
                                                         {"f32", 4},
                                                         {"bool", 1},
                                                         {"string", 0},
                                                         {"array", 0},
                                                         {"u64", 8},
                                                         {"i64", 8},
                                                         {"f64", 8}}};

bool IsFloat(GgufType type) { return type == GgufType::kF32 || type == GgufType::kF64; }

bool IsSigned(GgufType type) {
  return type == GgufType::kI8 || type == GgufType::kI16 || type == GgufType::kI32 || type == GgufType::kI64;
}

template <class Out, class Stored>
Out Load(const std::byte* at) {
  Stored value;
  std::memcpy(&value, at, sizeof(value));
  return static_cast<Out>(value);
}

// The number or bool at at, converted to Out as C++ converts.
template <class Out>
Out LoadNumber(GgufType type, const std::byte* at) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kBool: return Load<Out, uint8_t>(at);
    case GgufType::kI8: return Load<Out, int8_t>(at);
    case GgufType::kU16: return Load<Out, uint16_t>(at);
    case GgufType::kI16: return Load<Out, int16_t>(at);
    case GgufType::kU32: return Load<Out, uint32_t>(at);
    case GgufType::kI32: return Load<Out, int32_t>(at);
    case GgufType::kU64: return Load<Out, uint64_t>(at);
    case GgufType::kI64: return Load<Out, int64_t>(at);
    case GgufType::kF32: return Load<Out, float>(at);
    case GgufType::kF64: return Load<Out, double>(at);
    case GgufType::kString:
    case GgufType::kArray: break;
  }
  CACHETTE_CHECK(false);
  return Out{};
}

template <class Out>
std::vector<Out> LoadAll(const GgufArray& array) {
  std::vector<Out> numbers(array.num_elements);
  const size_t element_bytes = GgufTypeBytes(array.type);
  for (size_t i = 0; i < numbers.size(); ++i)
    numbers[i] = LoadNumber<Out>(array.type, array.bytes.data() + i * element_bytes);
  return numbers;
}

}  // namespace

const char* GgufTypeName(GgufType type) { return kTypes[static_cast<size_t>(type)].name; }
uint32_t GgufTypeBytes(GgufType type) { return kTypes[static_cast<size_t>(type)].num_bytes; }

GgufValue GgufScalar(GgufType type, const std::byte* at) {
  if (type == GgufType::kBool) return *at != std::byte{0};
  if (IsFloat(type)) return LoadNumber<double>(type, at);
  if (IsSigned(type)) return LoadNumber<int64_t>(type, at);
  return LoadNumber<uint64_t>(type, at);
}

std::optional<int64_t> AsInt(const GgufValue& value) {
  if (const auto* v = std::get_if<int64_t>(&value)) return *v;
  if (const auto* v = std::get_if<uint64_t>(&value); v && *v <= INT64_MAX) return static_cast<int64_t>(*v);
  return std::nullopt;
}

std::optional<double> AsFloat(const GgufValue& value) {
  if (const auto* v = std::get_if<double>(&value)) return *v;
  if (const auto* v = std::get_if<int64_t>(&value)) return static_cast<double>(*v);
  if (const auto* v = std::get_if<uint64_t>(&value)) return static_cast<double>(*v);
  return std::nullopt;
}

std::optional<std::vector<int64_t>> AsInts(const GgufValue& value) {
  if (const auto* is_set = std::get_if<bool>(&value)) return std::vector<int64_t>{*is_set};
  if (const auto number = AsInt(value)) return std::vector<int64_t>{*number};
  const auto* array = std::get_if<GgufArray>(&value);
  if (!array || array->type == GgufType::kString || IsFloat(array->type)) return std::nullopt;
  std::vector<int64_t> numbers = LoadAll<int64_t>(*array);
  if (array->type == GgufType::kU64)  // 2^63 and above came out negative
    for (const int64_t number : numbers)
      if (number < 0) return std::nullopt;
  return numbers;
}

std::optional<std::vector<float>> AsFloats(const GgufValue& value) {
  if (const auto number = AsFloat(value)) return std::vector<float>{static_cast<float>(*number)};
  const auto* array = std::get_if<GgufArray>(&value);
  if (!array || array->type == GgufType::kString || array->type == GgufType::kBool) return std::nullopt;
  return LoadAll<float>(*array);
}

std::string Describe(const GgufValue& value) {
  struct Visitor {
    std::string operator()(uint64_t v) const { return fmt::format("the integer {}", v); }
    std::string operator()(int64_t v) const { return fmt::format("the integer {}", v); }
    std::string operator()(double v) const { return fmt::format("the number {}", v); }
    std::string operator()(bool v) const { return v ? "the bool true" : "the bool false"; }
    std::string operator()(std::string_view v) const { return "the string " + Quoted(v); }
    std::string operator()(const GgufArray& v) const {
      return fmt::format("an array of {} {} elements", v.num_elements, GgufTypeName(v.type));
    }
  };
  return std::visit(Visitor{}, value);
}

}  // namespace cachette
