#include "engine/options.h"

#include <fmt/format.h>

namespace cachette {
namespace {

constexpr int64_t kMaxThreads = 1024;
constexpr int64_t kMaxPrefillChunk = 1 << 20;

Result<void> Require(bool holds, const char* option, auto value, const char* range) {
  if (holds) return Ok();
  return Fail(Error::kInvalidArgument, fmt::format("option {} is {}; it must be {}", option, value, range));
}

}  // namespace

Result<void> Validate(const EngineOptions& o) {
  CACHETTE_TRY(Require(o.threads >= 0 && o.threads <= kMaxThreads, "threads", o.threads, "0 to 1024"));
  CACHETTE_TRY(Require(o.compute == "auto" || o.compute == "f32" || o.compute == "bf16", "compute", o.compute,
                       "auto, f32 or bf16"));
  CACHETTE_TRY(Require(o.kv_dtype == "f16" || o.kv_dtype == "f32" || o.kv_dtype == "bf16", "kv_dtype", o.kv_dtype,
                       "f16, f32 or bf16"));
  CACHETTE_TRY(Require(o.fast_kv_bytes >= 0, "fast_kv_bytes", o.fast_kv_bytes, "0 or more"));
  CACHETTE_TRY(Require(o.slow_kv_bytes >= 0, "slow_kv_bytes", o.slow_kv_bytes, "0 or more"));
  return Require(o.rope_scale >= 1.0 && o.rope_scale <= 1024.0, "rope_scale", o.rope_scale, "1 to 1024");
}

Result<void> Validate(const GenerateOptions& o) {
  CACHETTE_TRY(Require(o.max_new_tokens >= 0, "max_new_tokens", o.max_new_tokens, "0 or more"));
  CACHETTE_TRY(Require(o.prefill_chunk >= 1 && o.prefill_chunk <= kMaxPrefillChunk, "prefill_chunk", o.prefill_chunk,
                       "1 to 1048576"));
  CACHETTE_TRY(Require(o.temperature >= 0.0 && o.temperature <= 100.0, "temperature", o.temperature, "0 to 100"));
  CACHETTE_TRY(Require(o.top_k >= 0, "top_k", o.top_k, "0 or more"));
  CACHETTE_TRY(Require(o.top_p > 0.0 && o.top_p <= 1.0, "top_p", o.top_p, "above 0 and at most 1"));
  CACHETTE_TRY(Require(o.min_p >= 0.0 && o.min_p < 1.0, "min_p", o.min_p, "0 or more and below 1"));
  return Require(o.repetition_penalty > 0.0 && o.repetition_penalty <= 100.0, "repetition_penalty",
                 o.repetition_penalty, "above 0 and at most 100");
}

}  // namespace cachette
