#include "methods/retrieval/resident_room.h"

#include <algorithm>
#include <tuple>
#include <vector>

namespace cachette {
namespace {

struct Leaver {
  bool is_selected;
  int64_t last_used;
  int layer, head;
  int32_t unit_idx;
  auto order() const { return std::tie(is_selected, last_used, layer, head, unit_idx); }
};

}  // namespace

int64_t LackingBlocks(const SequenceCache& cache, size_t num_bytes) {
  const size_t room = cache.tier().room_bytes();
  const size_t block_bytes = cache.shape().format.block_bytes();
  return num_bytes <= room ? 0 : static_cast<int64_t>((num_bytes - room + block_bytes - 1) / block_bytes);
}

void MakeRoom(SequenceCache& cache, const PassInfo& pass, size_t num_bytes, std::span<UnitSelection> selections) {
  if (LackingBlocks(cache, num_bytes) == 0) return;
  for (int layer = 0; layer < cache.shape().num_layers; ++layer) cache.DropGuesses(layer);
  int64_t lacking = LackingBlocks(cache, num_bytes);
  if (lacking == 0) return;
  const int num_kv_heads = cache.shape().num_kv_heads;
  const auto selection_of = [&](int layer, int head) -> UnitSelection& {
    return selections[static_cast<size_t>(int64_t{layer} * num_kv_heads + head)];
  };
  std::vector<Leaver> leavers;
  for (int layer = 0; layer < cache.shape().num_layers; ++layer)
    for (int head = 0; head < num_kv_heads; ++head) {
      UnitTable& table = cache.units(layer, head);
      for (const int32_t unit_idx : table.residents())
        leavers.push_back(
            {selection_of(layer, head).Holds(unit_idx), table.last_used(unit_idx), layer, head, unit_idx});
    }
  std::sort(leavers.begin(), leavers.end(), [](const Leaver& a, const Leaver& b) { return a.order() < b.order(); });
  for (const Leaver& leaver : leavers) {
    if (lacking <= 0) return;
    UnitTable& table = cache.units(leaver.layer, leaver.head);
    const int64_t least = pass.phase == Phase::kDecode ? cache.least_blocks(leaver.layer, leaver.head) : 0;
    const int64_t spare = table.resident_blocks() - least;
    if (spare <= 0) continue;
    // Of a unit that goes below the promise, the part below it is to be promised again.
    lacking -= std::min<int64_t>(spare, table.unit(leaver.unit_idx).num_blocks);
    table.DropResident(leaver.unit_idx);
    selection_of(leaver.layer, leaver.head).Remove(leaver.unit_idx);
  }
}

}  // namespace cachette
