#include <fmt/format.h>

#include <map>
#include <set>
#include <utility>

#include "cache/sequence_cache.h"

namespace cachette {
namespace {

// Coded blocks come first, whole, and stand at all four places of their slots.
void CheckCoded(const HeadStream& stream, const std::string& where, std::vector<std::string>& broken) {
  const int64_t num_slots = stream.num_coded_slots();
  if (num_slots % ops::kCodedEntries != 0 || num_slots > stream.num_slots() ||
      (num_slots > 0 && stream.coded_layout().bits == 0)) {
    broken.push_back(fmt::format("{}: {} of {} slots are coded in {} bits", where, num_slots, stream.num_slots(),
                                 stream.coded_layout().bits));
    return;
  }
  for (int64_t b = 0; b < num_slots / ops::kBlockTokens; ++b) {
    const auto place = static_cast<size_t>(b), first = static_cast<size_t>(b / 4 * 4);
    if (stream.live_masks()[place] != 0xffff || stream.blocks()[place] != stream.blocks()[first] ||
        stream.block_ids()[place] != stream.block_ids()[first])
      broken.push_back(fmt::format("{}: place {} of a coded block is not its own or has dead slots", where, b));
  }
}

void CheckStream(const HeadStream& stream, int64_t num_tokens, const std::string& where,
                 std::vector<std::string>& broken) {
  const auto blocks_of = [](int64_t num_slots) { return (num_slots + ops::kBlockTokens - 1) / ops::kBlockTokens; };
  if (stream.num_blocks() != blocks_of(stream.num_slots()) ||
      static_cast<int64_t>(stream.positions().size()) != stream.num_slots() ||
      static_cast<int64_t>(stream.live_masks().size()) != stream.num_blocks() ||
      static_cast<int64_t>(stream.block_ids().size()) != stream.num_blocks()) {
    broken.push_back(fmt::format("{}: {} slots with {} positions in {} blocks with {} masks and {} ids", where,
                                 stream.num_slots(), stream.positions().size(), stream.num_blocks(),
                                 stream.live_masks().size(), stream.block_ids().size()));
    return;  // the slots below could not be read
  }
  CheckCoded(stream, where, broken);
  int64_t live = 0;
  int64_t last_position = -1;
  for (int64_t slot = 0; slot < stream.num_slots(); ++slot) {
    if (!stream.IsLive(slot)) continue;
    ++live;
    const int64_t position = stream.positions()[static_cast<size_t>(slot)];
    if (position <= last_position)
      broken.push_back(fmt::format("{}: slot {} holds position {} after {}", where, slot, position, last_position));
    last_position = position;
  }
  if (last_position >= num_tokens)
    broken.push_back(fmt::format("{}: holds position {} of {} tokens", where, last_position, num_tokens));
  if (live != stream.num_live())
    broken.push_back(fmt::format("{}: counts {} live entries, masks show {}", where, stream.num_live(), live));
  if (stream.num_blocks() > blocks_of(live) + 1)
    broken.push_back(fmt::format("{}: holds {} blocks for {} entries", where, stream.num_blocks(), live));
  for (size_t b = 0; b < stream.live_masks().size(); ++b)
    if (stream.live_masks()[b] == 0) broken.push_back(fmt::format("{}: block {} has no live slot", where, b));
  if (const int64_t tail = stream.num_slots() % ops::kBlockTokens; tail != 0 && stream.live_masks().back() >> tail != 0)
    broken.push_back(fmt::format("{}: a slot past the last of {} is live", where, stream.num_slots()));
}

// Positions of sinks and recent window, of pending pages and of units have no entry in common; what is resident is
// counted right.
void CheckTable(const UnitTable& table, const HeadStream& stream, int64_t num_tokens, const std::string& where,
                std::vector<std::string>& broken) {
  std::set<int32_t> seen;
  const auto add = [&](int32_t position, const char* place) {
    if (position < 0 || position >= num_tokens)
      broken.push_back(fmt::format("{}: {} holds position {} of {} tokens", where, place, position, num_tokens));
    if (!seen.insert(position).second)
      broken.push_back(fmt::format("{}: {} holds position {}, which stands elsewhere too", where, place, position));
  };
  for (int64_t slot = 0; slot < stream.num_slots(); ++slot)
    if (stream.IsLive(slot)) add(stream.positions()[static_cast<size_t>(slot)], "the stream");
  for (const Page& page : table.pending())
    for (int i = 0; i < ops::kBlockTokens; ++i) add(page.first_position + i, "a pending page");
  int64_t entries = 0, blocks = 0;
  for (int64_t u = 0; u < table.num_units(); ++u) {
    const Unit& unit = table.unit(u);
    if (unit.num_blocks != (unit.num_entries + ops::kBlockTokens - 1) / ops::kBlockTokens)
      broken.push_back(
          fmt::format("{}: unit {} has {} entries in {} blocks", where, u, unit.num_entries, unit.num_blocks));
    for (const int32_t position : table.positions(u)) {
      add(position, "a unit");
      if (table.UnitOf(position) != u)
        broken.push_back(
            fmt::format("{}: position {} of unit {} leads to unit {}", where, position, u, table.UnitOf(position)));
    }
    if (!table.IsResident(u)) continue;
    entries += unit.num_entries;
    blocks += static_cast<int64_t>(table.blocks(u).size());
  }
  if (entries != table.resident_entries() || blocks != table.resident_blocks())
    broken.push_back(fmt::format("{}: counts {} resident entries in {} blocks, units show {} in {}", where,
                                 table.resident_entries(), table.resident_blocks(), entries, blocks));
}

// Who names a record of a store. Reads under way hold references too, one per guess or block read ahead.
struct RecordOwners {
  uint32_t num_owners = 0, num_reads = 0;
};
using StoreOwners = std::map<const RecordStore*, std::map<int64_t, RecordOwners>>;

void AddRecords(const SequenceCache& sequence, const UnitTable& table, std::span<const SequenceCache::Guess> guesses,
                StoreOwners& stores) {
  std::map<int64_t, RecordOwners>& of_store = stores[sequence.slow()];
  for (int64_t u = 0; u < table.num_units(); ++u)
    for (const int64_t record : table.records(u)) ++of_store[record].num_owners;
  for (const Page& page : table.pages()) ++of_store[page.record].num_owners;
  for (const SequenceCache::Guess& guess : guesses)
    if (const Page* page = table.Find(guess.first_position)) ++of_store[page->record].num_reads;
}

void CheckRecords(const StoreOwners& stores, std::vector<std::string>& broken) {
  for (const auto& [store, records] : stores) {
    for (const auto& [record, owners] : records)
      if (const uint32_t refs = store->ref_count(record);
          refs < owners.num_owners || refs > owners.num_owners + owners.num_reads)
        broken.push_back(fmt::format("record {}: {} owners, reference count {}", record, owners.num_owners, refs));
    if (records.size() * store->record_bytes() != store->owned_bytes())
      broken.push_back(fmt::format("the slow tier holds {} records, sequences name {}",
                                   store->owned_bytes() / store->record_bytes(), records.size()));
  }
}

}  // namespace

std::vector<std::string> CheckInvariants(const Tier& tier, std::span<const SequenceCache* const> sequences) {
  std::vector<std::string> broken;
  std::map<std::pair<size_t, uint32_t>, uint32_t> owners;  // (block bytes, id) -> streams that hold it
  StoreOwners stores;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const SequenceCache& sequence = *sequences[s];
    for (const Block& block : sequence.staged()) ++owners[{sequence.shape().format.block_bytes(), block.id}];
    for (const auto& [unit, blocks] : sequence.ahead().units) {
      for (const Block& block : blocks) ++owners[{sequence.shape().format.block_bytes(), block.id}];
      for (const int64_t record : sequence.units(sequence.ahead().layer, unit.kv_head).records(unit.unit_idx))
        ++stores[sequence.slow()][record].num_reads;
    }
    int64_t live = 0, live_bytes = 0;
    for (int layer = 0; layer < sequence.shape().num_layers; ++layer) {
      for (int head = 0; head < sequence.shape().num_kv_heads; ++head) {
        const HeadStream& stream = sequence.stream(layer, head);
        const std::string where = fmt::format("sequence {} layer {} KV head {}", s, layer, head);
        CheckStream(stream, sequence.num_tokens(), where, broken);
        const int64_t in_ledger = sequence.ledger().live_entries(layer * sequence.shape().num_kv_heads + head);
        int64_t in_cache = stream.num_live();
        if (sequence.has_units()) {
          const UnitTable& table = sequence.units(layer, head);
          const auto guesses = sequence.guesses(layer, head);
          CheckTable(table, stream, sequence.num_tokens(), where, broken);
          AddRecords(sequence, table, guesses, stores);
          in_cache += table.num_entries();
          const size_t block_bytes = stream.format().block_bytes();
          for (const int32_t unit_idx : table.residents())
            for (const Block& block : table.blocks(unit_idx)) ++owners[{block_bytes, block.id}];
          for (const SequenceCache::Guess& guess : guesses) ++owners[{block_bytes, guess.block.id}];
        }
        if (in_ledger != in_cache)
          broken.push_back(fmt::format("{}: ledger has {} live entries, stream {}", where, in_ledger, in_cache));
        live += in_cache;
        live_bytes += stream.LiveBytes();
        for (int64_t b = 0; b < stream.num_blocks(); ++b) {
          const bool is_coded = b * ops::kBlockTokens < stream.num_coded_slots();
          if (is_coded && b % 4 != 0) continue;  // one block stands at four places
          const size_t block_bytes =
              is_coded ? static_cast<size_t>(stream.coded_layout().block_bytes) : stream.format().block_bytes();
          ++owners[{block_bytes, stream.block_ids()[static_cast<size_t>(b)]}];
        }
      }
    }
    if (live != sequence.ledger().total_live_entries())
      broken.push_back(fmt::format("sequence {}: ledger total {} entries, streams {}", s,
                                   sequence.ledger().total_live_entries(), live));
    if (live_bytes != sequence.ledger().live_bytes())
      broken.push_back(fmt::format("sequence {}: ledger counts {} bytes of entries, streams {}", s,
                                   sequence.ledger().live_bytes(), live_bytes));
  }
  CheckRecords(stores, broken);
  std::map<size_t, int64_t> held;  // block bytes -> distinct blocks held by the sequences
  for (const auto& [key, count] : owners) {
    ++held[key.first];
    const auto pool = tier.pools().find(key.first);
    const uint32_t refs = pool == tier.pools().end() ? 0 : pool->second->ref_count(key.second);
    if (refs != count)
      broken.push_back(
          fmt::format("block {} of {} bytes: {} owners, reference count {}", key.second, key.first, count, refs));
  }
  size_t owned_bytes = 0;
  for (const auto& [block_bytes, pool] : tier.pools()) {
    owned_bytes += static_cast<size_t>(pool->owned_blocks()) * block_bytes;
    if (pool->free_blocks() + pool->owned_blocks() != pool->total_blocks())
      broken.push_back(fmt::format("pool of {} byte blocks: {} free + {} owned != {} total", block_bytes,
                                   pool->free_blocks(), pool->owned_blocks(), pool->total_blocks()));
    if (held[block_bytes] != pool->owned_blocks())
      broken.push_back(fmt::format("pool of {} byte blocks: {} owned, sequences hold {}", block_bytes,
                                   pool->owned_blocks(), held[block_bytes]));
  }
  if (owned_bytes != tier.owned_bytes())
    broken.push_back(fmt::format("tier counts {} bytes owned, its pools {}", tier.owned_bytes(), owned_bytes));
  return broken;
}

}  // namespace cachette
