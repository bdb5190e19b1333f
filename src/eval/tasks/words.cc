#include "eval/tasks/words.h"

#include <fmt/format.h>

#include <numeric>

#include "base/result.h"

namespace cachette {
namespace {

constexpr const char* kAdjectives[] = {
    "able",   "agile",  "amber", "ample", "ancient", "bitter", "black",  "blue",   "bold",    "brave",  "bright",
    "brisk",  "broad",  "calm",  "cheap", "clean",   "clear",  "clever", "cold",   "common",  "cool",   "crisp",
    "curly",  "dark",   "deep",  "dense", "distant", "dry",    "dusty",  "eager",  "early",   "empty",  "exact",
    "faint",  "fancy",  "fast",  "fine",  "firm",    "flat",   "fond",   "fresh",  "gentle",  "giant",  "glad",
    "golden", "grand",  "great", "green", "happy",   "heavy",  "hidden", "high",   "hollow",  "honest", "huge",
    "humble", "icy",    "jolly", "keen",  "kind",    "large",  "late",   "light",  "little",  "local",  "lonely",
    "long",   "loose",  "loud",  "loyal", "lucky",   "mellow", "mild",   "modern", "narrow",  "neat",   "new",
    "nimble", "noble",  "noisy", "odd",   "old",     "open",   "orange", "pale",   "plain",   "polite", "proud",
    "purple", "quick",  "quiet", "rapid", "rare",    "red",    "rich",   "ripe",   "rough",   "round",  "royal",
    "rusty",  "safe",   "salty", "sharp", "short",   "shy",    "silent", "silver", "simple",  "slow",   "small",
    "smart",  "smooth", "soft",  "solid", "sour",    "steady", "steep",  "stern",  "strange", "strong", "sunny",
    "sweet",  "swift",  "tall",  "tame",  "tender",  "thick",  "thin",   "tidy",   "tiny",    "vast",   "warm",
    "weak",   "wet",    "white", "wide",  "wild",    "wise",   "yellow", "young"};

constexpr const char* kNouns[] = {
    "acorn",   "anchor", "apple",   "arrow",  "badge",  "banjo",  "barn",     "basket", "beach",  "bell",     "bench",
    "bird",    "boat",   "book",    "bottle", "branch", "bread",  "brick",    "bridge", "broom",  "brush",    "bucket",
    "button",  "cabin",  "cake",    "camel",  "camera", "candle", "canyon",   "carpet", "castle", "chair",    "cherry",
    "circle",  "clock",  "cloud",   "coat",   "coin",   "comet",  "copper",   "corner", "cotton", "crown",    "curtain",
    "desert",  "desk",   "door",    "dragon", "drum",   "eagle",  "engine",   "fabric", "falcon", "farm",     "feather",
    "fence",   "field",  "flame",   "flower", "flute",  "forest", "fountain", "fox",    "garden", "gate",     "glass",
    "glove",   "goat",   "grape",   "guitar", "hammer", "harbor", "hat",      "hill",   "honey",  "horse",    "house",
    "island",  "jacket", "jar",     "jungle", "kettle", "key",    "kite",     "knife",  "ladder", "lake",     "lamp",
    "lantern", "leaf",   "lemon",   "letter", "lion",   "market", "meadow",   "mirror", "moon",   "mountain", "needle",
    "nest",    "ocean",  "orchard", "owl",    "paint",  "paper",  "pearl",    "pencil", "piano",  "pillow",   "planet",
    "plate",   "pocket", "pond",    "quarry", "rabbit", "rain",   "ribbon",   "ring",   "river",  "road",     "rocket",
    "roof",    "rope",   "rose",    "saddle", "sail",   "school", "shell",    "ship",   "spoon",  "spring",   "station",
    "stone",   "storm",  "summer",  "table",  "temple", "tiger",  "tower",    "train",  "tree",   "tunnel",   "valley",
    "violin",  "wagon",  "water",   "whale",  "wheel",  "window", "winter",   "wolf"};

constexpr const char* kOnsets[] = {"B", "D", "F", "G", "H", "K", "L", "M", "N", "P", "R", "S", "T", "V", "W", "Z"};
constexpr const char* kMiddles[] = {"b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z"};
constexpr const char* kVowels[] = {"a", "e", "i", "o", "u"};
constexpr const char* kEndings[] = {"", "l", "n", "r", "s"};

template <size_t N>
const char* Pick(const char* const (&list)[N], Rng& rng) {
  return list[rng.Below(N)];
}

}  // namespace

template <class F>
std::string WordSource::New(F make) {
  for (int num_tries = 0;; ++num_tries) {
    std::string text = make(num_tries);
    if (used_.insert(text).second) return text;
    CACHETTE_CHECK(num_tries < 100000);  // more texts were asked for than there are
  }
}

std::string WordSource::NumberedKey() {
  return New([&](int) {
    const char* adjective = Pick(kAdjectives, *rng_);
    const char* noun = Pick(kNouns, *rng_);
    return fmt::format("{}-{}-{}", adjective, noun, rng_->Below(1000));
  });
}

std::string WordSource::WordKey() {
  // Two words give some 20,000 keys; a longer list than that takes three.
  return New([&](int num_tries) {
    std::string key = num_tries < 50 ? "" : std::string(Pick(kAdjectives, *rng_)) + "-";
    key += Pick(kAdjectives, *rng_);
    return key + "-" + Pick(kNouns, *rng_);
  });
}

std::string WordSource::Name() {
  return New([&](int num_tries) {
    std::string name = Pick(kOnsets, *rng_);  // one draw a statement: operands have no order
    name += Pick(kVowels, *rng_);
    const int num_more = num_tries < 50 ? 1 : 2;  // syllables
    for (int i = 0; i < num_more; ++i) {
      name += Pick(kMiddles, *rng_);
      name += Pick(kVowels, *rng_);
    }
    return name + Pick(kEndings, *rng_);
  });
}

std::string WordSource::Number(int num_digits) {
  uint64_t smallest = 1;
  for (int i = 1; i < num_digits; ++i) smallest *= 10;
  return New([&](int) { return fmt::format("{}", smallest + rng_->Below(9 * smallest)); });
}

std::string WordSource::Uuid() {
  return New([&](int) {
    const uint64_t high = (rng_->Next() & ~0xf000ull) | 0x4000ull;       // version 4
    const uint64_t low = (rng_->Next() & ~(3ull << 62)) | (1ull << 63);  // variant 10
    return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", high >> 32, (high >> 16) & 0xffff, high & 0xffff,
                       low >> 48, low & 0xffffffffffffull);
  });
}

std::vector<int64_t> DrawDistinct(int64_t bound, int64_t count, Rng& rng) {
  CACHETTE_CHECK(count <= bound);
  std::vector<int64_t> all(static_cast<size_t>(bound));
  std::iota(all.begin(), all.end(), int64_t{0});
  for (int64_t i = 0; i < count; ++i)
    std::swap(all[static_cast<size_t>(i)], all[static_cast<size_t>(i) + rng.Below(static_cast<uint64_t>(bound - i))]);
  all.resize(static_cast<size_t>(count));
  return all;
}

}  // namespace cachette
