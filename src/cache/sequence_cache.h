#pragma once
// The KV cache of one sequence: a HeadStream per layer and KV head, and its ledger.

#include <compare>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "cache/head_stream.h"
#include "cache/ledger.h"
#include "cache/pass.h"
#include "cache/record_store.h"
#include "cache/tier.h"
#include "cache/unit_table.h"
#include "tensor/context.h"

namespace cachette {

// How keys meet RoPE. kOriginal: stored rotated by their token's position. kCacheIndex: stored un-rotated and rotated
// at attention time by their index in the list, the query by the list's length (StreamingLLM's re-rotation).
enum class RopePositions : uint8_t { kOriginal, kCacheIndex };

// What a cache needs to know of a recipe that moves entries to a slow tier.
struct UnitShape {
  int num_index_vectors = 0;            // of a unit; 0: entries never leave the fast tier
  std::vector<bool> whole_layers = {};  // that keep all entries in the fast tier; layers past its end do not
  int64_t local_entries = 0;            // that a KV head of the others keeps in its stream between passes, at most
  int64_t least_blocks = 0;  // of units that a KV head can make resident at any decode step, however full the tier is
  bool KeepsAll(int layer) const {
    const auto at = static_cast<size_t>(layer);
    return num_index_vectors == 0 || (at < whole_layers.size() && whole_layers[at]);
  }
};

struct CacheShape {
  int num_layers = 0;
  int num_kv_heads = 0;
  ops::KvFormat format;
  RopePositions rope_positions = RopePositions::kOriginal;
  bool has_scores = false;  // every entry carries a float of the recipe
  KvCodec codec = {};
  UnitShape units = {};
};

// What attention reads of one KV head instead of the whole stream.
struct AttentionView {
  std::vector<const std::byte*> blocks;
  std::vector<uint16_t> live_masks;  // as blocks
  int64_t num_slots = 0;
  bool has_holes = false;  // dead slots before num_slots; known once the view is sealed
  void Add(const std::byte* block, uint16_t live_mask) {
    blocks.push_back(block);
    live_masks.push_back(live_mask);
  }
};

// Entries that Offload wrote to the slow tier: one reference to each of consecutive records is the caller's.
struct OffloadedEntries {
  int64_t first_record = 0;
  std::vector<int32_t> positions;
};

// How entries become units, unit by unit: unit u gets entries[ends[u - 1]] ... entries[ends[u] - 1], ascending.
struct UnitSplit {
  std::vector<int32_t> entries;  // each entry once
  std::vector<int32_t> ends;     // [num_units]
};

class SequenceCache {
 public:
  // slow: needed with shape.units, and outlives the cache.
  SequenceCache(Tier& tier, const CacheShape& shape, RecordStore* slow = nullptr);

  ~SequenceCache();
  SequenceCache(SequenceCache&&) noexcept = default;
  SequenceCache& operator=(SequenceCache&&) = delete;

  // A copy that goes its own way from here, between passes, without the guesses and what was read ahead. Errors:
  // kOutOfMemory.
  Result<SequenceCache> Clone() const;

  // Opens a pass: from here to EndPass every stream takes pass.num_tokens appended entries and pass.num_transient more
  // that RemoveTransient takes back. BytesForPass are checked against the tier's limit first; from then on they are
  // promised, until they are allocated or the pass ends. Errors: kOutOfMemory; nothing has changed then.
  Result<void> BeginPass(const PassInfo& pass);
  void EndPass();
  // Bytes of the blocks that num_tokens more per stream would allocate now.
  size_t BytesToAppend(int64_t num_tokens) const;
  // What a pass may have to allocate: BytesToAppend and, at decode, what units need to fill every KV head's least
  // blocks. Sequences that share a pass are checked together by their sum.
  size_t BytesForPass(const PassInfo& pass) const;
  // Blocks of units that this KV head can make resident at a decode step: UnitShape's, or those that its entries fill.
  int64_t least_blocks(int layer, int kv_head) const;
  // The layer chooses its units now: what it was promised for them is room like any other.
  void OpenRecall(int layer);

  // Appends the pass's keys and values [num_tokens + num_transient][num_kv_heads][head_dim] f32 of one layer (row
  // strides in elements).
  Result<void> Append(Context& cx, int layer, const float* keys, int64_t key_stride, const float* values,
                      int64_t value_stride);

  // Takes the pass's transient entries of a layer back. Call it before anything of that layer is evicted.
  void RemoveTransient(int layer);

  // Evicts the live slots of sorted, disjoint ranges of one stream for good; the ledger hears of it.
  void Evict(int layer, int kv_head, std::span<const SlotRange> ranges, EvictTime time = EvictTime::kBeforeAttention);

  // Encodes what a layer's KV heads hold over the codec's residual, in whole blocks; the ledger hears of it as
  // kAfterAttention. Errors: as HeadStream::ReplaceByCoded.
  Result<void> EncodeTail(Context& cx, int layer);

  // Moves num_entries live entries of a stream, from the first_rank-th on, to the slow tier: packed into whole blocks
  // in order, the last one padded. The ledger hears of it. Errors: those of RecordStore; nothing has changed then.
  Result<OffloadedEntries> Offload(Context& cx, int layer, int kv_head, int64_t first_rank, int64_t num_entries,
                                   EvictTime time = EvictTime::kAfterAttention);

  struct UnitRef {
    int kv_head = 0;
    int64_t unit_idx = 0;
    auto operator<=>(const UnitRef&) const = default;
  };
  // Copies units into the fast tier: takes those that were read ahead and drops the others that were, then allocates
  // what lacks and reads it together. Errors: kOutOfMemory, when a unit had no room (those before it are resident, none
  // is read); those of RecordStore. The sequence must be dropped then.
  Result<void> Recall(int layer, std::span<const UnitRef> units);

  // Starts to copy units that the layer's Recall is likely to name, in a pass before the layer's Append: the first of
  // them for which there is room beside all that the pass was promised. They become resident when Recall names them,
  // so nothing reads or drops them meanwhile. One layer's at a time, in place of what was read ahead before. Returns
  // their number. Errors: those of RecordStore; the sequence must be dropped then.
  struct Ahead {
    int layer = -1;  // none
    std::map<UnitRef, std::vector<Block>> units;
    int64_t num_blocks = 0;  // room for the layer's Recall, whichever units it names
    ReadTicket reading;
  };
  Result<int64_t> ReadAhead(int layer, std::span<const UnitRef> units);
  void DropAhead();
  const Ahead& ahead() const { return ahead_; }
  bool IsAhead(int layer, const UnitRef& unit) const { return ahead_.layer == layer && ahead_.units.contains(unit); }

  // Between BeginView and EndView the layer's attention reads what is added in between: the first num_sink_blocks of
  // each stream, what was added, the rest of the stream.
  void BeginView(int layer, int64_t num_sink_blocks);
  AttentionView& view(int kv_head) { return views_[static_cast<size_t>(kv_head)]; }
  const AttentionView& view(int kv_head) const { return views_[static_cast<size_t>(kv_head)]; }
  void ViewResident(int layer, int kv_head, int64_t unit_idx);
  // Every unit and page of the layer: in place where the slow tier can be read so, else copied until EndView.
  Result<void> ViewEverything(int layer);
  size_t BytesToStage(int layer) const;  // of those copies
  void SealView();
  void EndView();
  bool has_view(int layer) const { return viewed_layer_ == layer; }
  // The row that attention reads: the view where there is one, else the stream.
  ops::KvRow AttentionRow(int layer, int kv_head) const;

  // Makes units of the layer's first num_pages pending pages of a KV head, as split says of their entries. keys: what
  // LoadPendingKeys read of them. keeps_pages: as UnitTable::SettlePending. Errors: those of RecordStore.
  Result<void> MakeUnits(Context& cx, int layer, int kv_head, int64_t num_pages, const UnitSplit& split,
                         std::span<const float> keys, bool keeps_pages);
  // The same, of runs of run_entries neighbours: their pages are not copied.
  void MakeRunUnits(int layer, int kv_head, int64_t num_pages, int64_t run_entries, bool keeps_pages);
  // Keys of the first num_pages pending pages as f32 [num_pages * kBlockTokens][head_dim].
  Result<void> LoadPendingKeys(Context& cx, int layer, int kv_head, int64_t num_pages, std::vector<float>& keys) const;

  // Pages that may be useful at the next step, in place of the guesses before: those that are not among them are
  // copied to the fast tier, which StartGuesses begins; without room there, fewer. Errors: those of RecordStore.
  struct Guess {
    Block block;
    int32_t first_position = 0;
    uint16_t wanted = 0;  // slots
  };
  struct GuessRef {
    int kv_head = 0;
    Page page;
    uint16_t wanted = 0;
  };
  struct GuessesRead {
    int64_t num_pages = 0;
    int64_t num_entries = 0;  // wanted of them
  };
  Result<GuessesRead> StartGuesses(int layer, std::span<const GuessRef> guesses);
  void DropGuesses(int layer);
  // Waits for what StartGuesses began.
  Result<void> SettleGuesses(int layer);
  std::span<const Guess> guesses(int layer, int kv_head) const { return guesses_[StreamIdx(layer, kv_head)]; }

  std::span<const Block> staged() const { return staged_; }  // copies that the view holds

  // Books copies in the fast tier and indexes in the ledger, after they have changed.
  void BookHeld();

  bool has_units() const { return !tables_.empty(); }
  UnitTable& units(int layer, int kv_head) { return tables_[StreamIdx(layer, kv_head)]; }
  const UnitTable& units(int layer, int kv_head) const { return tables_[StreamIdx(layer, kv_head)]; }
  RecordStore* slow() const { return slow_; }

  HeadStream& stream(int layer, int kv_head) { return streams_[StreamIdx(layer, kv_head)]; }
  const HeadStream& stream(int layer, int kv_head) const { return streams_[StreamIdx(layer, kv_head)]; }
  const CacheShape& shape() const { return shape_; }
  Ledger& ledger() { return ledger_; }
  const Ledger& ledger() const { return ledger_; }
  Tier& tier() { return *tier_; }
  const Tier& tier() const { return *tier_; }
  int64_t num_tokens() const { return ledger_.num_tokens(); }  // seen, not kept
  int64_t HeldBytes() const;                                   // blocks of all streams

 private:
  size_t StreamIdx(int layer, int kv_head) const {
    return static_cast<size_t>(int64_t{layer} * shape_.num_kv_heads + kv_head);
  }

  Guess* HeldGuess(int layer, const GuessRef& guess);
  Result<void> AddEverythingToView(int layer);
  Result<int64_t> WriteNew(Context& cx, int64_t num_records, const RecordStore::RecordMaker& make);
  Result<std::vector<const std::byte*>> PendingBlocks(Context& cx, int layer, int kv_head, int64_t num_pages) const;
  template <class Body>
  void ForUnitRecords(int layer, const Body& body) const;
  int64_t StayingBlocks(int layer, int kv_head, int64_t num_tokens) const;
  int64_t BlocksToRecall(int layer) const;
  Result<void> TakeAhead(int layer, std::span<const UnitRef> wanted);
  void BookRewrite(int layer, int kv_head, int64_t first_slot);

  Tier* tier_;
  RecordStore* slow_;
  CacheShape shape_;
  std::vector<HeadStream> streams_;          // [num_layers][num_kv_heads]
  std::vector<UnitTable> tables_;            // as streams_; empty without units
  std::vector<std::vector<Guess>> guesses_;  // as streams_
  std::vector<ReadTicket> guess_reads_;      // [num_layers]
  Ahead ahead_;
  std::vector<AttentionView> views_;  // [num_kv_heads], of viewed_layer_
  std::vector<Block> staged_;         // that the view holds until EndView
  int viewed_layer_ = -1;
  int64_t num_sink_blocks_ = 0;
  Ledger ledger_;
  RoomPromise promise_;
  std::vector<size_t> bytes_to_come_;    // [num_layers + 1] promised to this layer and those after it, in this pass
  std::vector<int32_t> pass_positions_;  // of the pass under way, transient tokens last
  std::vector<int32_t> evicted_;         // positions, kept from call to call
  int64_t num_transient_ = 0;
  bool is_decode_ = false;  // the pass under way
};

// Every broken invariant of a tier and the sequences that share it, one sentence each; empty when all hold:
// free + owned = total per pool, no block owned twice, live slots in position order, ledger = streams and units = bytes
// held, entries in one place each, records referenced as often as they are named.
std::vector<std::string> CheckInvariants(const Tier& tier, std::span<const SequenceCache* const> sequences);

}  // namespace cachette
