#include "io/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "io/json_file.h"
#include "io/quoted.h"
#include "io/write_file.h"

namespace cachette {
namespace {

using Json = nlohmann::json;
static_assert(std::endian::native == std::endian::little, "the header length is copied as it is");

constexpr uint64_t kMostHeaderBytes = 100'000'000;  // the format's own limit

// dtype is empty for those that are known by width only.
struct StoredType {
  std::string_view name;
  int64_t element_bits;
  std::optional<Dtype> dtype;
};
constexpr StoredType kStoredTypes[] = {
    {"F32", 32, Dtype::kF32},
    {"F16", 16, Dtype::kF16},
    {"BF16", 16, Dtype::kBF16},
    {"F64", 64, {}},
    {"I64", 64, {}},
    {"U64", 64, {}},
    {"C64", 64, {}},
    {"I32", 32, {}},
    {"U32", 32, {}},
    {"I16", 16, {}},
    {"U16", 16, {}},
    {"I8", 8, {}},
    {"U8", 8, {}},
    {"BOOL", 8, {}},
    {"F8_E4M3", 8, {}},
    {"F8_E5M2", 8, {}},
    {"F8_E8M0", 8, {}},
    {"F6_E2M3", 6, {}},
    {"F6_E3M2", 6, {}},
    {"F4", 4, {}},
};

const StoredType* FindStoredType(std::string_view name) {
  const auto* at = std::find_if(std::begin(kStoredTypes), std::end(kStoredTypes),
                                [&](const StoredType& type) { return type.name == name; });
  return at == std::end(kStoredTypes) ? nullptr : at;
}

// A JSON array of integers in [0, 2^63), or nothing.
std::optional<std::vector<int64_t>> NonNegativeIntegers(const Json& json) {
  if (!json.is_array()) return std::nullopt;
  std::vector<int64_t> numbers;
  for (const Json& item : json) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > INT64_MAX) return std::nullopt;
    numbers.push_back(item.get<int64_t>());
  }
  return numbers;
}

}  // namespace

class SafetensorsParser {
 public:
  SafetensorsParser(SafetensorsFile& file, std::span<const std::byte> bytes) : file_(file), bytes_(bytes) {}

  Result<void> Run() {
    CACHETTE_TRY(const Json header, ReadHeader());
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__")
        CACHETTE_TRY(ReadMetadata(entry));
      else
        CACHETTE_TRY(ReadTensor(name, entry));
    }
    CACHETTE_TRY(CheckCoverage());
    for (Range& range : ranges_) {
      if (range.unsupported_dtype.empty())
        CACHETTE_TRY(file_.AddTensor(std::move(range.tensor)));
      else
        CACHETTE_TRY(file_.AddUnsupported(range.tensor.name, range.unsupported_dtype));
    }
    return Ok();
  }

 private:
  struct Range {
    TensorInfo tensor;
    std::string unsupported_dtype;  // "" when tensor is complete
    int64_t begin, end;             // in data_
  };

  Failure Corrupt(const std::string& why) const {
    return Fail(Error::kCorrupt, fmt::format("{}: {}", file_.name_, why));
  }
  Failure CorruptTensor(const std::string& name, const std::string& why) const {
    return Corrupt(fmt::format("tensor {}: {}", Quoted(name), why));
  }

  Result<Json> ReadHeader() {
    uint64_t num_header_bytes = 0;
    if (bytes_.size() < sizeof(num_header_bytes))
      return Corrupt(fmt::format("is not a safetensors file: {} bytes are too few", bytes_.size()));
    std::memcpy(&num_header_bytes, bytes_.data(), sizeof(num_header_bytes));
    const uint64_t num_rest = bytes_.size() - sizeof(num_header_bytes);
    if (num_header_bytes > kMostHeaderBytes || num_header_bytes > num_rest)
      return Corrupt(
          fmt::format("claims a header of {} bytes; the file has {} more and {} are allowed; it is truncated, "
                      "damaged or not a safetensors file",
                      num_header_bytes, num_rest, kMostHeaderBytes));
    data_ = bytes_.subspan(sizeof(num_header_bytes) + num_header_bytes);
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + sizeof(num_header_bytes),
                                num_header_bytes);
    if (!text.starts_with('{')) return Corrupt("its header does not start with '{'; not a safetensors file");
    return ParseJson(text, file_.name_ + " (header)", RepeatedKeys::kRefuse);
  }

  Result<void> ReadMetadata(const Json& metadata) {
    if (!metadata.is_object()) return Corrupt("__metadata__ is not an object of strings");
    for (const auto& [key, value] : metadata.items()) {
      if (!value.is_string()) return Corrupt(fmt::format("__metadata__ {} is not a string", Quoted(key)));
      file_.metadata_.emplace(key, value.get<std::string>());
    }
    return Ok();
  }

  Result<void> ReadTensor(const std::string& name, const Json& entry) {
    if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") || !entry.contains("shape") ||
        !entry.contains("data_offsets"))
      return CorruptTensor(name, "is not an object of dtype, shape and data_offsets");
    if (!entry["dtype"].is_string()) return CorruptTensor(name, "its dtype is not a string");
    auto shape = NonNegativeIntegers(entry["shape"]);
    if (!shape) return CorruptTensor(name, "its shape is not an array of integers from 0 to 2^63 - 1");
    const auto offsets = NonNegativeIntegers(entry["data_offsets"]);
    if (!offsets || offsets->size() != 2) return CorruptTensor(name, "its data_offsets are not two integers");

    Range range{{}, {}, (*offsets)[0], (*offsets)[1]};
    range.tensor.name = name;
    range.tensor.shape = std::move(*shape);
    if (range.begin > range.end || static_cast<uint64_t>(range.end) > data_.size())
      return CorruptTensor(name,
                           fmt::format("its data_offsets {} to {} are not within the {} bytes of data; the file is "
                                       "truncated or damaged, fetch it again",
                                       range.begin, range.end, data_.size()));
    range.tensor.bytes = data_.subspan(static_cast<size_t>(range.begin), static_cast<size_t>(range.end - range.begin));
    CACHETTE_TRY(CheckType(entry["dtype"].get_ref<const std::string&>(), range));
    ranges_.push_back(std::move(range));
    return Ok();
  }

  // Sets the dtype or the reason why there is none, and compares shape and bytes.
  Result<void> CheckType(const std::string& dtype_name, Range& range) {
    const std::string& name = range.tensor.name;
    // Plain one-byte elements stand for "count them without overflow": TensorBytes of f32 is 4 per element.
    const auto four_per_element = TensorBytes(Dtype::kF32, range.tensor.shape);
    if (!four_per_element)
      return CorruptTensor(name, fmt::format("its shape {} overflows", fmt::join(range.tensor.shape, " x ")));
    const StoredType* type = FindStoredType(dtype_name);
    if (!type || !type->dtype) range.unsupported_dtype = dtype_name;
    if (!type) return dtype_name.empty() ? Result<void>(CorruptTensor(name, "its dtype is empty")) : Ok();
    const auto num_bits =
        static_cast<unsigned __int128>(*four_per_element / 4) * static_cast<uint64_t>(type->element_bits);
    if (num_bits != static_cast<unsigned __int128>(range.tensor.bytes.size()) * 8)
      return CorruptTensor(
          name, fmt::format("its data_offsets span {} bytes, but {} elements of {} take {}", range.tensor.bytes.size(),
                            *four_per_element / 4, dtype_name, static_cast<uint64_t>(num_bits / 8)));
    if (type->dtype) range.tensor.dtype = *type->dtype;
    return Ok();
  }

  // Sorts the tensors into file order and checks that they cover the data without gap or overlap.
  Result<void> CheckCoverage() {
    std::sort(ranges_.begin(), ranges_.end(),
              [](const Range& a, const Range& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
    int64_t covered = 0;
    for (const Range& range : ranges_) {
      if (range.begin != covered)
        return CorruptTensor(range.tensor.name,
                             fmt::format("its data starts at {}, {} the {} bytes before it", range.begin,
                                         range.begin < covered ? "overlapping" : "leaving a gap after", covered));
      covered = range.end;
    }
    if (static_cast<uint64_t>(covered) != data_.size())
      return Corrupt(fmt::format("has {} bytes of data but its tensors end at {}", data_.size(), covered));
    return Ok();
  }

  SafetensorsFile& file_;
  std::span<const std::byte> bytes_, data_;
  std::vector<Range> ranges_;
};

Result<SafetensorsFile> SafetensorsFile::Parse(std::span<const std::byte> bytes, std::string name) {
  SafetensorsFile file(std::move(name));
  CACHETTE_TRY(SafetensorsParser(file, bytes).Run());
  return file;
}

Result<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  return path.ends_with(".json") ? OpenIndex(path) : OpenOne(path);
}

Result<SafetensorsFile> SafetensorsFile::OpenOne(const std::string& path) {
  CACHETTE_TRY(MappedFile mapping, MappedFile::Open(path));
  CACHETTE_TRY(SafetensorsFile file, Parse(mapping.bytes(), path));
  file.mappings_.push_back(std::move(mapping));
  return file;
}

Result<SafetensorsFile> SafetensorsFile::OpenIndex(const std::string& path) {
  CACHETTE_TRY(const Json index, ReadJsonFile(path));
  const auto corrupt = [&](const std::string& why) { return Fail(Error::kCorrupt, fmt::format("{}: {}", path, why)); };
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
    return corrupt("has no object weight_map from tensor names to files; not an index of safetensors files");
  std::map<std::string, std::vector<std::string>> names_of_shard;
  for (const auto& [tensor_name, shard] : index["weight_map"].items()) {
    if (!shard.is_string()) return corrupt(fmt::format("weight_map {} is not a file name", Quoted(tensor_name)));
    names_of_shard[shard.get<std::string>()].push_back(tensor_name);
  }
  SafetensorsFile all(path);
  for (const auto& [shard_name, tensor_names] : names_of_shard) {
    if (shard_name.empty() || shard_name == ".." ||
        shard_name.find_first_of(std::string_view("/\0", 2)) != std::string::npos)
      return corrupt(fmt::format("names the file {}; only files of its own folder are read", Quoted(shard_name)));
    CACHETTE_TRY(SafetensorsFile shard, OpenOne(std::filesystem::path(path).replace_filename(shard_name)));
    for (const std::string& tensor_name : tensor_names) CACHETTE_TRY(all.Take(shard, tensor_name));
    for (MappedFile& mapping : shard.mappings_) all.mappings_.push_back(std::move(mapping));
    all.metadata_.merge(shard.metadata_);
  }
  return all;
}

Result<void> SafetensorsFile::Take(const SafetensorsFile& shard, const std::string& tensor_name) {
  if (const TensorInfo* tensor = shard.Find(tensor_name)) return AddTensor(*tensor);
  if (const auto at = shard.unsupported_.find(tensor_name); at != shard.unsupported_.end())
    return AddUnsupported(tensor_name, at->second);
  return Fail(Error::kCorrupt, fmt::format("{}: says that {} holds tensor {}, but it does not", name_, shard.name_,
                                           Quoted(tensor_name)));
}

Result<void> SafetensorsWriter::Add(const std::string& name, Dtype dtype, std::vector<int64_t> shape,
                                    std::span<const std::byte> bytes) {
  const auto invalid = [&](const std::string& why) {
    return Fail(Error::kInvalidArgument, fmt::format("tensor {}: {}", Quoted(name), why));
  };
  if (name.empty() || name == "__metadata__") return invalid("this name is not allowed in safetensors files");
  if (IsQuantized(dtype))
    return invalid(fmt::format("safetensors files hold f32, f16 and bf16, not {}", InfoOf(dtype).name));
  for (const int64_t dimension : shape)
    if (dimension < 0) return invalid(fmt::format("has the dimension {}", dimension));
  const auto num_bytes = TensorBytes(dtype, shape);
  if (!num_bytes || *num_bytes != bytes.size())
    return invalid(fmt::format("{} bytes do not fill the shape {} in {}", bytes.size(), fmt::join(shape, " x "),
                               InfoOf(dtype).name));
  if (!tensors_.emplace(name, TensorInfo{name, dtype, std::move(shape), bytes}).second)
    return invalid("was added twice");
  return Ok();
}

std::vector<std::byte> SafetensorsWriter::Serialise() const {
  std::vector<const TensorInfo*> order;
  for (const auto& [name, tensor] : tensors_) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](const TensorInfo* a, const TensorInfo* b) {
    return InfoOf(a->dtype).block_bytes > InfoOf(b->dtype).block_bytes;
  });
  Json header = Json::object();
  if (!metadata_.empty()) header["__metadata__"] = metadata_;
  uint64_t num_data_bytes = 0;
  for (const TensorInfo* tensor : order) {
    const auto* type = std::find_if(std::begin(kStoredTypes), std::end(kStoredTypes),
                                    [&](const StoredType& t) { return t.dtype == tensor->dtype; });
    const uint64_t end = num_data_bytes + tensor->bytes.size();
    header[tensor->name] = {{"dtype", type->name}, {"shape", tensor->shape}, {"data_offsets", {num_data_bytes, end}}};
    num_data_bytes = end;
  }
  std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.append((8 - text.size() % 8) % 8, ' ');

  std::vector<std::byte> out(8 + text.size() + num_data_bytes);
  const uint64_t num_header_bytes = text.size();
  std::memcpy(out.data(), &num_header_bytes, 8);
  std::memcpy(out.data() + 8, text.data(), text.size());
  std::byte* at = out.data() + 8 + text.size();
  for (const TensorInfo* tensor : order) at = std::copy(tensor->bytes.begin(), tensor->bytes.end(), at);
  return out;
}

Result<void> SafetensorsWriter::Write(const std::string& path) const { return WriteFile(path, Serialise()); }

}  // namespace cachette
