#include "io/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>

#include "io/quoted.h"

namespace cachette {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers of the file are copied as they are");

// Tensor types by their number in the file; dtype is empty for those that are known by name only.
struct TensorType {
  uint32_t number;
  const char* name;
  std::optional<Dtype> dtype;
};
constexpr TensorType kTensorTypes[] = {
    {0, "F32", Dtype::kF32},
    {1, "F16", Dtype::kF16},
    {2, "Q4_0", Dtype::kQ4_0},
    {3, "Q4_1", Dtype::kQ4_1},
    {6, "Q5_0", Dtype::kQ5_0},
    {7, "Q5_1", Dtype::kQ5_1},
    {8, "Q8_0", Dtype::kQ8_0},
    {9, "Q8_1", {}},
    {10, "Q2_K", {}},
    {11, "Q3_K", {}},
    {12, "Q4_K", Dtype::kQ4_K},
    {13, "Q5_K", Dtype::kQ5_K},
    {14, "Q6_K", Dtype::kQ6_K},
    {15, "Q8_K", {}},
    {16, "IQ2_XXS", {}},
    {17, "IQ2_XS", {}},
    {18, "IQ3_XXS", {}},
    {19, "IQ1_S", {}},
    {20, "IQ4_NL", {}},
    {21, "IQ3_S", {}},
    {22, "IQ2_S", {}},
    {23, "IQ4_XS", {}},
    {24, "I8", {}},
    {25, "I16", {}},
    {26, "I32", {}},
    {27, "I64", {}},
    {28, "F64", {}},
    {29, "IQ1_M", {}},
    {30, "BF16", Dtype::kBF16},
    {34, "TQ1_0", {}},
    {35, "TQ2_0", {}},
    {39, "MXFP4", {}},
    {40, "NVFP4", {}},
    {41, "Q1_0", {}},
};

constexpr uint32_t kMostDims = 4;
constexpr uint64_t kMostNameBytes = 65535;  // the format's limit for keys; names of tensors are shorter
// The least that one key-value pair (name length, 1 byte of name, type, 1 byte) and one tensor (name length, 1 byte,
// number of dimensions, one dimension, type, offset) take: a count above what fits is damage, found before any loop.
constexpr uint64_t kLeastPairBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kLeastTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

template <class T>
T LoadAs(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

}  // namespace

// Walks the header once, front to back. about_ is the key or tensor being read, for messages.
class GgufParser {
 public:
  GgufParser(GgufFile& file, std::span<const std::byte> bytes) : file_(file), bytes_(bytes) {}

  Result<void> Run() {
    CACHETTE_TRY(const uint64_t num_tensors, ReadPreamble());
    CACHETTE_TRY(ReadMetadata());
    CACHETTE_TRY(UseMetadata());
    CACHETTE_TRY(ReadTensors(num_tensors));
    return PlaceTensors();
  }

 private:
  struct Placed {
    TensorInfo tensor;
    uint64_t offset, num_bytes;
  };

  uint64_t remaining() const { return bytes_.size() - at_; }

  Failure Corrupt(const std::string& why) const {
    return Fail(Error::kCorrupt, fmt::format("{}: {}{}{}", file_.name_, about_.empty() ? "" : Quoted(about_),
                                             about_.empty() ? "" : ": ", why));
  }
  Failure Unsupported(const std::string& why) const {
    return Fail(Error::kUnsupported, fmt::format("{}: {}{}{}", file_.name_, about_.empty() ? "" : Quoted(about_),
                                                 about_.empty() ? "" : ": ", why));
  }

  Result<const std::byte*> Take(uint64_t num_bytes, const char* what) {
    if (num_bytes > remaining())
      return Corrupt(fmt::format(
          "{} at byte {} needs {} bytes but the file ends at {}; it is truncated or damaged, fetch it again", what, at_,
          num_bytes, bytes_.size()));
    const std::byte* start = bytes_.data() + at_;
    at_ += num_bytes;
    return start;
  }

  template <class T>
  Result<T> Read(const char* what) {
    CACHETTE_TRY(const std::byte* start, Take(sizeof(T), what));
    return LoadAs<T>(start);
  }

  Result<std::string_view> ReadString(const char* what) {
    CACHETTE_TRY(const uint64_t num_bytes, Read<uint64_t>(what));
    CACHETTE_TRY(const std::byte* start, Take(num_bytes, what));
    return std::string_view(reinterpret_cast<const char*>(start), num_bytes);
  }

  Result<std::string_view> ReadName(const char* what) {
    CACHETTE_TRY(const std::string_view name, ReadString(what));
    if (name.empty() || name.size() > kMostNameBytes)
      return Corrupt(
          fmt::format("{} of {} bytes before byte {}; names have 1 to {}", what, name.size(), at_, kMostNameBytes));
    return name;
  }

  // Magic, version and the two counts. Returns the number of tensors.
  Result<uint64_t> ReadPreamble() {
    CACHETTE_TRY(const std::byte* magic, Take(4, "the magic number"));
    if (std::memcmp(magic, "GGUF", 4) != 0)
      return Corrupt(fmt::format("is not a GGUF file: it starts with {} instead of 'GGUF'",
                                 Quoted({reinterpret_cast<const char*>(magic), 4})));
    CACHETTE_TRY(file_.version_, Read<uint32_t>("the version"));
    if (const uint32_t swapped = __builtin_bswap32(file_.version_); swapped == 2 || swapped == 3)
      return Unsupported("is a big-endian GGUF file; only little-endian files are read");
    if (file_.version_ != 2 && file_.version_ != 3)
      return Unsupported(fmt::format("is GGUF version {}; versions 2 and 3 are read", file_.version_));
    CACHETTE_TRY(const uint64_t num_tensors, Read<uint64_t>("the number of tensors"));
    CACHETTE_TRY(num_pairs_, Read<uint64_t>("the number of metadata keys"));
    if (num_pairs_ > remaining() / kLeastPairBytes)
      return Corrupt(fmt::format("claims {} metadata keys, more than its {} bytes can hold; it is truncated or damaged",
                                 num_pairs_, bytes_.size()));
    if (num_tensors > remaining() / kLeastTensorBytes)
      return Corrupt(fmt::format("claims {} tensors, more than its {} bytes can hold; it is truncated or damaged",
                                 num_tensors, bytes_.size()));
    return num_tensors;
  }

  Result<void> ReadMetadata() {
    for (uint64_t i = 0; i < num_pairs_; ++i) {
      about_ = {};
      CACHETTE_TRY(const std::string_view key, ReadName("a metadata key"));
      about_ = key;
      CACHETTE_TRY(const GgufType type, ReadType("its type"));
      CACHETTE_TRY(GgufValue value, ReadValue(type));
      if (!file_.metadata_.emplace(key, std::move(value)).second) return Corrupt("this metadata key occurs twice");
    }
    about_ = {};
    return Ok();
  }

  Result<GgufType> ReadType(const char* what) {
    CACHETTE_TRY(const uint32_t number, Read<uint32_t>(what));
    if (number >= kNumGgufTypes)
      return Corrupt(fmt::format("{} is {}; metadata types are 0 to {}", what, number, kNumGgufTypes - 1));
    return static_cast<GgufType>(number);
  }

  Result<GgufValue> ReadValue(GgufType type) {
    if (type == GgufType::kString) {
      CACHETTE_TRY(const std::string_view text, ReadString("its text"));
      return GgufValue(text);
    }
    if (type == GgufType::kArray) {
      CACHETTE_TRY(GgufArray array, ReadArray());
      return GgufValue(std::move(array));
    }
    CACHETTE_TRY(const std::byte* start, Take(GgufTypeBytes(type), "its value"));
    if (type == GgufType::kBool) CACHETTE_TRY(CheckBools({start, 1}));
    return GgufScalar(type, start);
  }

  Result<void> CheckBools(std::span<const std::byte> values) const {
    for (const std::byte value : values)
      if (value > std::byte{1}) return Corrupt(fmt::format("holds the bool {}; 0 and 1 are bools", int(value)));
    return Ok();
  }

  Result<GgufArray> ReadArray() {
    GgufArray array;
    CACHETTE_TRY(array.type, ReadType("the type of its elements"));
    if (array.type == GgufType::kArray) return Unsupported("is an array of arrays, which is not read");
    CACHETTE_TRY(array.num_elements, Read<uint64_t>("its number of elements"));
    // A string takes at least the 8 bytes of its length. The comparison also keeps the product below from overflowing.
    const uint32_t element_bytes = array.type == GgufType::kString ? 8 : GgufTypeBytes(array.type);
    if (array.num_elements > remaining() / element_bytes)
      return Corrupt(fmt::format("claims {} elements at byte {} but the file ends at {}; it is truncated or damaged",
                                 array.num_elements, at_, bytes_.size()));
    if (array.type == GgufType::kString) {
      array.strings.reserve(array.num_elements);
      for (uint64_t i = 0; i < array.num_elements; ++i) {
        CACHETTE_TRY(const std::string_view text, ReadString("an element of it"));
        array.strings.push_back(text);
      }
      return array;
    }
    CACHETTE_TRY(const std::byte* start, Take(array.num_elements * element_bytes, "its elements"));
    array.bytes = {start, array.num_elements * element_bytes};
    if (array.type == GgufType::kBool) CACHETTE_TRY(CheckBools(array.bytes));
    return array;
  }

  // The keys that say how to read the rest of the file.
  Result<void> UseMetadata() {
    CACHETTE_TRY(const int64_t alignment_bytes, file_.GetInt("general.alignment", 32));
    if (alignment_bytes < 8 || !std::has_single_bit(static_cast<uint64_t>(alignment_bytes)))
      return Corrupt(fmt::format("general.alignment is {}; it must be a power of two of at least 8", alignment_bytes));
    file_.alignment_bytes_ = static_cast<uint64_t>(alignment_bytes);
    CACHETTE_TRY(const int64_t num_files, file_.GetInt("split.count", 1));
    if (num_files > 1)
      return Unsupported(
          fmt::format("is one of {} parts; merge them first, for example with llama-gguf-split --merge", num_files));
    return Ok();
  }

  Result<void> ReadTensors(uint64_t num_tensors) {
    placed_.reserve(num_tensors);
    for (uint64_t i = 0; i < num_tensors; ++i) {
      about_ = {};
      CACHETTE_TRY(about_, ReadName("a tensor name"));
      CACHETTE_TRY(Placed placed, ReadTensor());
      placed_.push_back(std::move(placed));
    }
    about_ = {};
    return Ok();
  }

  Result<Placed> ReadTensor() {
    Placed placed{};
    placed.tensor.name = about_;
    CACHETTE_TRY(const uint32_t num_dims, Read<uint32_t>("its number of dimensions"));
    if (num_dims < 1 || num_dims > kMostDims)
      return Corrupt(fmt::format("has {} dimensions; tensors have 1 to {}", num_dims, kMostDims));
    for (uint32_t i = 0; i < num_dims; ++i) {
      CACHETTE_TRY(const int64_t dimension, Read<int64_t>("a dimension"));
      if (dimension < 1) return Corrupt(fmt::format("has a dimension of {}; dimensions are positive", dimension));
      placed.tensor.shape.insert(placed.tensor.shape.begin(), dimension);  // the file puts the fastest first
    }
    CACHETTE_TRY(placed.tensor.dtype, ReadTensorType());
    const DtypeInfo& info = InfoOf(placed.tensor.dtype);
    if (placed.tensor.shape.back() % info.block_elements != 0)
      return Corrupt(fmt::format("has rows of {} elements, not a multiple of the {} of a {} block",
                                 placed.tensor.shape.back(), info.block_elements, info.name));
    const std::optional<uint64_t> num_bytes = TensorBytes(placed.tensor.dtype, placed.tensor.shape);
    if (!num_bytes)
      return Corrupt(fmt::format("its dimensions {} overflow 63 bits", fmt::join(placed.tensor.shape, " x ")));
    placed.num_bytes = *num_bytes;
    CACHETTE_TRY(placed.offset, Read<uint64_t>("its offset"));
    return placed;
  }

  Result<Dtype> ReadTensorType() {
    CACHETTE_TRY(const uint32_t number, Read<uint32_t>("its type"));
    const auto* type = std::find_if(std::begin(kTensorTypes), std::end(kTensorTypes),
                                    [&](const TensorType& t) { return t.number == number; });
    if (type != std::end(kTensorTypes) && type->dtype) return *type->dtype;
    return Unsupported(fmt::format("has tensor type {} ({}), which is not read; supported are {}", number,
                                   type == std::end(kTensorTypes) ? "unknown" : type->name, SupportedDtypes()));
  }

  // Turns offsets into spans, now that the end of the header is known.
  Result<void> PlaceTensors() {
    const uint64_t alignment = file_.alignment_bytes_;
    const uint64_t start = (at_ + alignment - 1) & ~(alignment - 1);  // alignment <= 2^62 and at_ is a file size
    const uint64_t num_data_bytes = start < bytes_.size() ? bytes_.size() - start : 0;
    for (Placed& placed : placed_) {
      about_ = placed.tensor.name;
      if (placed.offset % alignment != 0)
        return Corrupt(fmt::format("its offset {} is not a multiple of the alignment {}", placed.offset, alignment));
      if (placed.offset > num_data_bytes || placed.num_bytes > num_data_bytes - placed.offset)
        return Corrupt(
            fmt::format("needs {} bytes at offset {} but the file has {} bytes of tensors; it is truncated or "
                        "damaged, fetch it again",
                        placed.num_bytes, placed.offset, num_data_bytes));
      placed.tensor.bytes = bytes_.subspan(start + placed.offset, placed.num_bytes);
    }
    CACHETTE_TRY(CheckOverlaps());
    about_ = {};
    for (Placed& placed : placed_) CACHETTE_TRY(file_.AddTensor(std::move(placed.tensor)));
    return Ok();
  }

  Result<void> CheckOverlaps() {
    std::vector<const Placed*> order;
    for (const Placed& placed : placed_) order.push_back(&placed);
    std::sort(order.begin(), order.end(), [](const Placed* a, const Placed* b) { return a->offset < b->offset; });
    for (size_t i = 1; i < order.size(); ++i) {
      about_ = order[i]->tensor.name;
      if (order[i]->offset < order[i - 1]->offset + order[i - 1]->num_bytes)
        return Corrupt(fmt::format("its bytes overlap those of {}", Quoted(order[i - 1]->tensor.name)));
    }
    return Ok();
  }

  GgufFile& file_;
  std::span<const std::byte> bytes_;
  uint64_t at_ = 0;
  std::string_view about_;
  uint64_t num_pairs_ = 0;
  std::vector<Placed> placed_;
};

Result<GgufFile> GgufFile::Open(const std::string& path) {
  CACHETTE_TRY(MappedFile mapping, MappedFile::Open(path));
  CACHETTE_TRY(GgufFile file, Parse(mapping.bytes(), path));
  file.mappings_.push_back(std::move(mapping));
  return file;
}

Result<GgufFile> GgufFile::Parse(std::span<const std::byte> bytes, std::string name) {
  GgufFile file(std::move(name));
  CACHETTE_TRY(GgufParser(file, bytes).Run());
  return file;
}

// Typed access. Every getter names what it wanted and what it found.
namespace {

Failure WrongType(const GgufFile& file, std::string_view key, const char* wanted, const GgufValue& found) {
  return Fail(Error::kCorrupt,
              fmt::format("{}: metadata {} is {}; expected {}", file.name(), Quoted(key), Describe(found), wanted));
}

Failure NoKey(const GgufFile& file, std::string_view key) {
  return Fail(Error::kNotFound, fmt::format("{}: has no metadata {}", file.name(), Quoted(key)));
}

}  // namespace

const GgufValue* GgufFile::FindValue(std::string_view key) const {
  const auto at = metadata_.find(key);
  return at == metadata_.end() ? nullptr : &at->second;
}

Result<int64_t> GgufFile::GetInt(std::string_view key) const {
  const GgufValue* value = FindValue(key);
  if (!value) return NoKey(*this, key);
  if (const auto number = AsInt(*value)) return *number;
  return WrongType(*this, key, "an integer below 2^63", *value);
}

Result<double> GgufFile::GetFloat(std::string_view key) const {
  const GgufValue* value = FindValue(key);
  if (!value) return NoKey(*this, key);
  if (const auto number = AsFloat(*value)) return *number;
  return WrongType(*this, key, "a number", *value);
}

Result<bool> GgufFile::GetBool(std::string_view key) const {
  const GgufValue* value = FindValue(key);
  if (!value) return NoKey(*this, key);
  if (const auto* is_set = std::get_if<bool>(value)) return *is_set;
  return WrongType(*this, key, "a bool", *value);
}

Result<std::string_view> GgufFile::GetString(std::string_view key) const {
  const GgufValue* value = FindValue(key);
  if (!value) return NoKey(*this, key);
  if (const auto* text = std::get_if<std::string_view>(value)) return *text;
  return WrongType(*this, key, "a string", *value);
}

Result<int64_t> GgufFile::GetInt(std::string_view key, int64_t fallback) const {
  return FindValue(key) ? GetInt(key) : fallback;
}
Result<double> GgufFile::GetFloat(std::string_view key, double fallback) const {
  return FindValue(key) ? GetFloat(key) : fallback;
}
Result<bool> GgufFile::GetBool(std::string_view key, bool fallback) const {
  return FindValue(key) ? GetBool(key) : fallback;
}
Result<std::string_view> GgufFile::GetString(std::string_view key, std::string_view fallback) const {
  return FindValue(key) ? GetString(key) : fallback;
}

Result<std::vector<int64_t>> GgufFile::GetInts(std::string_view key) const {
  const GgufValue* value = FindValue(key);
  if (!value) return NoKey(*this, key);
  if (auto numbers = AsInts(*value)) return std::move(*numbers);
  return WrongType(*this, key, "integers below 2^63 or bools", *value);
}

Result<std::vector<float>> GgufFile::GetFloats(std::string_view key) const {
  const GgufValue* value = FindValue(key);
  if (!value) return NoKey(*this, key);
  if (auto numbers = AsFloats(*value)) return std::move(*numbers);
  return WrongType(*this, key, "numbers", *value);
}

Result<std::span<const std::string_view>> GgufFile::GetStrings(std::string_view key) const {
  const GgufValue* value = FindValue(key);
  if (!value) return NoKey(*this, key);
  const auto* array = std::get_if<GgufArray>(value);
  if (!array || array->type != GgufType::kString) return WrongType(*this, key, "an array of strings", *value);
  return std::span<const std::string_view>(array->strings);
}

}  // namespace cachette
