#include "io/json_file.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <vector>

#include "io/mapped_file.h"
#include "io/quoted.h"

namespace cachette {
namespace {

// The part of the library's message after "[...] parse error at line 1, column 5: ", without bytes of the file that
// a terminal should not see.
std::string Reason(std::string_view what) {
  const size_t colon = what.find(": ");
  if (colon != std::string_view::npos) what.remove_prefix(colon + 2);
  std::string reason;
  for (const char c : what.substr(0, 200)) reason += c >= 0x20 && c < 0x7f ? c : '?';
  return reason;
}

// Remembers the keys of every open object and the first that comes twice.
class KeyWatcher {
 public:
  using Event = nlohmann::json::parse_event_t;

  bool operator()(Event event, const nlohmann::json& parsed) {
    if (event == Event::object_start) open_.emplace_back();
    if (event == Event::object_end) open_.pop_back();
    if (event == Event::key && !repeated_) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!open_.back().insert(key).second) repeated_ = key;
    }
    return true;
  }
  const std::optional<std::string>& repeated() const { return repeated_; }

 private:
  std::vector<std::set<std::string>> open_;
  std::optional<std::string> repeated_;
};

}  // namespace

Result<nlohmann::json> ParseJson(std::string_view text, const std::string& name, RepeatedKeys repeated_keys) {
  KeyWatcher watcher;
  nlohmann::json::parser_callback_t callback;
  if (repeated_keys == RepeatedKeys::kRefuse)
    callback = [&](int, KeyWatcher::Event event, nlohmann::json& parsed) { return watcher(event, parsed); };
  try {
    nlohmann::json json = nlohmann::json::parse(text.begin(), text.end(), callback);
    if (watcher.repeated())
      return Fail(Error::kCorrupt, fmt::format("{}: the JSON key {} occurs twice", name, Quoted(*watcher.repeated())));
    return json;
  } catch (const nlohmann::json::parse_error& e) {
    return Fail(Error::kCorrupt, fmt::format("{}: not valid JSON at byte {}: {}", name, e.byte, Reason(e.what())));
  } catch (const nlohmann::json::exception& e) {  // a number out of range
    return Fail(Error::kCorrupt, fmt::format("{}: not usable JSON: {}", name, Reason(e.what())));
  }
}

Result<nlohmann::json> ReadJsonFile(const std::string& path) {
  CACHETTE_TRY(const MappedFile file, MappedFile::Open(path));
  return ParseJson({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}, path);
}

}  // namespace cachette
