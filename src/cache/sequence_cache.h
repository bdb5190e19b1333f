#pragma once
// The KV cache of one sequence: a HeadStream per layer and KV head, and its ledger.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "cache/head_stream.h"
#include "cache/ledger.h"
#include "cache/pass.h"
#include "cache/tier.h"
#include "tensor/context.h"

namespace cachette {

// How keys meet RoPE. kOriginal: stored rotated by their token's position. kCacheIndex: stored un-rotated and rotated
// at attention time by their index in the list, the query by the list's length (StreamingLLM's re-rotation).
enum class RopePositions : uint8_t { kOriginal, kCacheIndex };

struct CacheShape {
  int num_layers = 0;
  int num_kv_heads = 0;
  ops::KvFormat format;
  RopePositions rope_positions = RopePositions::kOriginal;
  bool has_scores = false;  // every entry carries a float of the recipe
  KvCodec codec = {};
};

class SequenceCache {
 public:
  SequenceCache(Tier& tier, const CacheShape& shape);

  // A copy that goes its own way from here, between passes. Errors: kOutOfMemory.
  Result<SequenceCache> Clone() const;

  // Opens a pass: from here to EndPass every stream takes pass.num_tokens appended entries and pass.num_transient more
  // that RemoveTransient takes back. Blocks for all of them are checked against the tier's limit first.
  // Errors: kOutOfMemory; nothing has changed then.
  Result<void> BeginPass(const PassInfo& pass);
  void EndPass();
  // What BeginPass checks: bytes of the blocks that num_tokens more per stream would allocate now. Sequences that share
  // a pass are checked together by their sum.
  size_t BytesToAppend(int64_t num_tokens) const;

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
  size_t StreamIdx(int layer, int kv_head) const { return static_cast<size_t>(layer * shape_.num_kv_heads + kv_head); }

  void BookRewrite(int layer, int kv_head, int64_t first_slot);

  Tier* tier_;
  CacheShape shape_;
  std::vector<HeadStream> streams_;  // [num_layers][num_kv_heads]
  Ledger ledger_;
  std::vector<int32_t> pass_positions_;  // of the pass under way, transient tokens last
  int64_t num_transient_ = 0;
};

// Every broken invariant of a tier and the sequences that share it, one sentence each; empty when all hold:
// free + owned = total per pool, no block owned twice, live slots in position order, ledger = streams = bytes held.
std::vector<std::string> CheckInvariants(const Tier& tier, std::span<const SequenceCache* const> sequences);

}  // namespace cachette
