#include "text/unicode_nfc.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <vector>

#include "text/utf8.h"

namespace cachette {
namespace {

struct CombiningRange {
  uint32_t first, last;
  uint8_t combining_class;
};

struct Decomposition {
  uint32_t code_point, first, second;
  bool composes;
};

#include "text/unicode_nfc_table.inc"

// Hangul syllables decompose by arithmetic (Unicode 15, section 3.12).
constexpr uint32_t kSyllables = 0xac00, kLeads = 0x1100, kVowels = 0x1161, kTrails = 0x11a7;
constexpr uint32_t kNumLeads = 19, kNumVowels = 21, kNumTrails = 28;
constexpr uint32_t kNumSyllables = kNumLeads * kNumVowels * kNumTrails;

uint8_t CombiningClass(uint32_t c) {
  if (c < 0x300) return 0;
  const auto* range = std::ranges::lower_bound(kCombining, c, {}, &CombiningRange::last);
  return range != std::end(kCombining) && c >= range->first ? range->combining_class : 0;
}

const Decomposition* FindDecomposition(uint32_t c) {
  const auto* found = std::ranges::lower_bound(kDecompositions, c, {}, &Decomposition::code_point);
  return found != std::end(kDecompositions) && found->code_point == c ? found : nullptr;
}

void Decompose(uint32_t c, std::vector<uint32_t>& out) {
  if (c - kSyllables < kNumSyllables) {
    const uint32_t syllable = c - kSyllables;
    out.push_back(kLeads + syllable / (kNumVowels * kNumTrails));
    out.push_back(kVowels + syllable / kNumTrails % kNumVowels);
    if (syllable % kNumTrails != 0) out.push_back(kTrails + syllable % kNumTrails);
  } else if (const Decomposition* parts = c < 0xc0 ? nullptr : FindDecomposition(c)) {
    Decompose(parts->first, out);  // depth at most 3 in Unicode's data
    if (parts->second != 0) Decompose(parts->second, out);
  } else {
    out.push_back(c);
  }
}

// The code point that first and second compose to, 0 when they do not.
uint32_t Compose(uint32_t first, uint32_t second) {
  if (first - kLeads < kNumLeads && second - kVowels < kNumVowels) {
    return kSyllables + ((first - kLeads) * kNumVowels + (second - kVowels)) * kNumTrails;
  }
  if (first - kSyllables < kNumSyllables && (first - kSyllables) % kNumTrails == 0 && second > kTrails &&
      second < kTrails + kNumTrails) {
    return first + (second - kTrails);
  }
  static const std::vector<const Decomposition*> kByParts = [] {
    std::vector<const Decomposition*> sorted;
    for (const Decomposition& entry : kDecompositions) {
      if (entry.composes) sorted.push_back(&entry);
    }
    std::ranges::sort(sorted, {}, [](const Decomposition* d) { return std::array{d->first, d->second}; });
    return sorted;
  }();
  const std::array wanted{first, second};
  const auto found = std::ranges::lower_bound(kByParts, wanted, {}, [](const Decomposition* d) {
    return std::array{d->first, d->second};
  });
  const bool matches = found != kByParts.end() && (*found)->first == first && (*found)->second == second;
  return matches ? (*found)->code_point : 0;
}

// True when something in front of c may compose with it.
bool IsSecondPart(uint32_t c) {
  static const std::vector<uint32_t> kSecondParts = [] {
    std::vector<uint32_t> sorted;
    for (const Decomposition& entry : kDecompositions) {
      if (entry.composes) sorted.push_back(entry.second);
    }
    std::ranges::sort(sorted);
    return sorted;
  }();
  return std::ranges::binary_search(kSecondParts, c);
}

// Marks in order of their class, between characters of class 0; equal classes keep their order.
void OrderMarks(std::vector<uint32_t>& text) {
  for (size_t begin = 0; begin < text.size();) {
    if (CombiningClass(text[begin]) == 0) {
      ++begin;
      continue;
    }
    size_t end = begin;
    while (end < text.size() && CombiningClass(text[end]) != 0) ++end;
    std::stable_sort(text.begin() + static_cast<ptrdiff_t>(begin), text.begin() + static_cast<ptrdiff_t>(end),
                     [](uint32_t a, uint32_t b) { return CombiningClass(a) < CombiningClass(b); });
    begin = end;
  }
}

}  // namespace

bool IsCertainlyNfc(std::string_view text) {
  for (size_t pos = 0; pos < text.size();) {
    if (static_cast<uint8_t>(text[pos]) < 0xcc) {  // below U+0300 nothing combines and nothing decomposes for good
      ++pos;
      continue;
    }
    const uint32_t c = NextCodePoint(text, pos);
    if (c - 0x4e00 < 0x5200 || c - kSyllables < kNumSyllables) continue;  // Han and Hangul: common, and never change
    if (CombiningClass(c) != 0 || c - kVowels < kTrails + kNumTrails - kVowels || IsSecondPart(c)) return false;
    if (const Decomposition* parts = FindDecomposition(c); parts != nullptr && !parts->composes) return false;
  }
  return true;
}

std::string ToNfc(std::string_view text) {
  std::vector<uint32_t> points;
  points.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) Decompose(NextCodePoint(text, pos), points);
  OrderMarks(points);
  // Each mark joins the last starter when nothing of its class or a higher one stands between (UAX 15, D117).
  constexpr size_t kNone = SIZE_MAX;
  size_t starter = kNone, kept = 0;
  int last_class = -1;  // of the character kept last since the starter; -1: none
  for (const uint32_t c : points) {
    const int combining_class = CombiningClass(c);
    if (starter != kNone && last_class < combining_class) {
      if (const uint32_t joined = Compose(points[starter], c)) {
        points[starter] = joined;
        continue;
      }
    }
    if (combining_class == 0) {
      starter = kept;
      last_class = -1;
    } else {
      last_class = combining_class;
    }
    points[kept++] = c;
  }
  points.resize(kept);
  std::string out;
  out.reserve(text.size());
  for (const uint32_t c : points) AppendUtf8(c, out);
  return out;
}

}  // namespace cachette
