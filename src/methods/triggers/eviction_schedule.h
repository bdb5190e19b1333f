#pragma once

#include <fmt/format.h>

#include "methods/part.h"

namespace cachette {

// Evicts once the prompt is in (post_fill), or after every prefill chunk so that the peak stays low (chunked), and
// every n decoded tokens where the method goes on during generation. A patch lets the end of the prompt, where the
// question usually stands, vote on every chunk: its rows attend like the chunk's own and are taken back. Source: "Cache
// Me If You Can", arXiv:2506.17121, section 4 (chunked eviction, patching).
class EvictionSchedule final : public Trigger {
 public:
  explicit EvictionSchedule(int64_t every = 0) : decode_every(every) {}
  const char* name() const override { return "eviction_schedule"; }

  void VisitOptions(OptionVisitor& v) override {
    v(prefill, "prefill",
      "when prompt entries are evicted: post_fill (once, at its end) or chunked (after each chunk)");
    v(patch, "patch", "last prompt tokens appended to each prefill chunk but the last to score with, 0: none");
    v(decode_every, "decode_every", "decoded tokens between evictions during generation, 0: never");
  }

  Result<void> Prepare(const CacheShape&) override {
    if (prefill != "post_fill" && prefill != "chunked")
      return Fail(Error::kInvalidArgument,
                  fmt::format("option trigger.prefill: '{}' is neither post_fill nor chunked", prefill));
    if (patch < 0 || decode_every < 0)
      return Fail(Error::kInvalidArgument,
                  fmt::format("trigger.patch {} and trigger.decode_every {} must be 0 or more", patch, decode_every));
    if (patch > 0 && prefill != "chunked")
      return Fail(
          Error::kInvalidArgument,
          fmt::format("trigger.patch {} needs trigger.prefill=chunked: post_fill sees the prompt's end anyway", patch));
    return Ok();
  }

  bool FiresAfter(const Moment& moment) const override {
    if (moment.pass.phase == Phase::kPrefill) return acts_per_chunk() || moment.pass.is_last_prefill_chunk;
    return decode_every > 0 && moment.num_decoded % decode_every == 0;
  }
  int64_t num_patch_tokens() const override { return patch; }
  bool acts_per_chunk() const override { return prefill == "chunked"; }
  bool acts_in_decode() const override { return decode_every > 0; }

  std::string prefill = "post_fill";
  int64_t patch = 0;
  int64_t decode_every;
};

}  // namespace cachette
