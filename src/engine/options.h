#pragma once
// Options of an engine and of a generation, declared once: flags, JSON, help and the man page derive from these.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/options.h"

namespace cachette {

struct EngineOptions {
  std::string model;               // path or "synthetic:..."; empty: the default model where `make model` puts it
  std::vector<std::string> loras;  // adapters, merged in order
  int64_t threads = 0;
  std::string backend = "auto";
  std::string compute = "auto";
  std::string kv_dtype = "f16";
  int64_t fast_kv_bytes = 0;
  std::string slow_tier = "ram";
  int64_t slow_kv_bytes = 0;
  double rope_scale = 1.0;

  void VisitOptions(OptionVisitor& v) {
    v(model, "model", "model: a .gguf file, a folder with config.json and safetensors, or synthetic:SHAPE");
    v(threads, "threads", "threads; 0: one per available core");
    v(backend, "backend", "kernels: auto, ref, avx2, avx512, avx512vnni or avx512bf16");
    v(compute, "compute",
      "prefill products: auto, f32 or bf16 (bf16 inputs, f32 sums); auto: bf16 where the CPU has it");
    v(kv_dtype, "kv_dtype", "storage of KV entries: f16, f32 or bf16");
    v(fast_kv_bytes, "fast_kv_bytes",
      "most bytes of KV cache in fast memory; 0: 90 % of what is available after loading");
    v(slow_tier, "slow_tier",
      "where a recipe that retrieves keeps entries: ram, or disk:FOLDER (disk:FOLDER,direct past the file cache)");
    v(slow_kv_bytes, "slow_kv_bytes", "most bytes of KV cache in the slow tier; 0: no limit");
    v(rope_scale, "rope_scale", "stretch RoPE linearly by this factor to go past the model's context");
  }
};

struct GenerateOptions {
  int64_t max_new_tokens = 256;
  int64_t prefill_chunk = 512;
  bool ignore_eos = false;
  double temperature = 0.0;
  int64_t top_k = 0;
  double top_p = 1.0;
  double min_p = 0.0;
  double repetition_penalty = 1.0;
  int64_t seed = 0;

  void VisitOptions(OptionVisitor& v) {
    v(max_new_tokens, "max_new_tokens", "most tokens to generate");
    v(prefill_chunk, "prefill_chunk", "prompt tokens per prefill pass");
    v(ignore_eos, "ignore_eos", "go on past the model's end-of-text tokens");
    v(temperature, "temperature", "softmax temperature; 0: greedy");
    v(top_k, "top_k", "sample among the k likeliest tokens; 0: all");
    v(top_p, "top_p", "sample among the likeliest tokens that make up this probability");
    v(min_p, "min_p", "drop tokens below this fraction of the likeliest one's probability");
    v(repetition_penalty, "repetition_penalty", "divide the positive logits of tokens already seen by this; 1: off");
    v(seed, "seed", "of the sampler: the same seed gives the same text");
  }
};

// Errors: kInvalidArgument, naming the option, its value and its range.
Result<void> Validate(const EngineOptions& options);
Result<void> Validate(const GenerateOptions& options);

}  // namespace cachette
