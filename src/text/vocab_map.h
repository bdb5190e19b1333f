#pragma once
// Flat hash maps of the tokenizer: built once at start-up from up to some 260,000 entries, then only read. Open
// addressing over one array: building Gemma's 262,144 entries costs a few ms, std::unordered_map's nodes cost 10x that.

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace cachette {

// 64 bits from bytes; multiply-and-fold over 8-byte words, seeded with the length.
inline uint64_t HashBytes(std::string_view text) {
  const auto fold = [](uint64_t a, uint64_t b) {
    const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  };
  uint64_t hash = 0x9e3779b97f4a7c15ull ^ text.size();
  const char* p = text.data();
  size_t left = text.size();
  for (; left >= 8; left -= 8, p += 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    hash = fold(hash ^ word, 0xd6e8feb86659fd93ull);
  }
  uint64_t word = 0;
  std::memcpy(&word, p, left);
  return fold(hash ^ word, 0xa0761d6478bd642full);
}

// Token text -> id. The texts live with the caller, who hands them in again for comparison.
class TextToId {
 public:
  // Room for num_texts; forgets everything.
  void Reset(size_t num_texts) { slots_.assign(std::bit_ceil(num_texts * 2 + 2), Slot{}); }

  // The id stored for text, -1 when none. text_of(id) must be what was inserted.
  template <class TextOf>
  int32_t Find(std::string_view text, const TextOf& text_of) const {
    return slots_[SlotOf(text, static_cast<uint32_t>(HashBytes(text)), text_of)].id;
  }
  // Stores id for text; replaces the id an equal text had.
  template <class TextOf>
  void Insert(std::string_view text, int32_t id, const TextOf& text_of) {
    const auto hash = static_cast<uint32_t>(HashBytes(text));
    slots_[SlotOf(text, hash, text_of)] = {hash, id};
  }

 private:
  struct Slot {
    uint32_t hash = 0;
    int32_t id = -1;
  };

  template <class TextOf>
  size_t SlotOf(std::string_view text, uint32_t hash, const TextOf& text_of) const {
    const size_t mask = slots_.size() - 1;
    size_t i = hash & mask;
    while (slots_[i].id >= 0 && (slots_[i].hash != hash || text_of(slots_[i].id) != text)) i = (i + 1) & mask;
    return i;
  }

  std::vector<Slot> slots_;
};

// Pair of token ids -> the merge that joins them.
class PairToMerge {
 public:
  struct Merge {
    uint32_t rank = UINT32_MAX;  // UINT32_MAX: these two never join
    int32_t id = -1;             // the token they become
  };

  void Reset(size_t num_pairs) { slots_.assign(std::bit_ceil(num_pairs + num_pairs / 2 + 2), Slot{}); }
  bool empty() const { return slots_.empty(); }
  Merge Find(int32_t left, int32_t right) const { return slots_[SlotOf(Key(left, right))].merge; }
  // Keeps the first merge given for a pair: the lower rank.
  void Insert(int32_t left, int32_t right, Merge merge) {
    Slot& slot = slots_[SlotOf(Key(left, right))];
    if (slot.key == kFree) slot = {Key(left, right), merge};
  }

 private:
  static constexpr uint64_t kFree = UINT64_MAX;  // no pair of ids >= 0 has this key
  struct Slot {
    uint64_t key = kFree;
    Merge merge;
  };

  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t SlotOf(uint64_t key) const {
    const size_t mask = slots_.size() - 1;
    size_t i = (key * 0x9e3779b97f4a7c15ull >> 32) & mask;
    while (slots_[i].key != kFree && slots_[i].key != key) i = (i + 1) & mask;
    return i;
  }

  std::vector<Slot> slots_;
};

}  // namespace cachette
