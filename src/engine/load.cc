// From options to a loaded engine.

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>

#include "engine/engine.h"
#include "engine/find_model.h"
#include "engine/load_tokenizer.h"
#include "engine/machine.h"

namespace cachette {
namespace {

// Part of the memory available after loading that KV may take: the rest is for scratch and for everybody else.
constexpr double kKvMemoryFraction = 0.9;

Result<ops::GemmDtype> ChooseGemm(const std::string& compute, Isa isa) {
  const bool has_bf16 = CpuHasNativeBf16() && isa == Isa::kAvx512Bf16;
  if (compute == "bf16") return ops::GemmDtype::kBF16;
  return compute == "auto" && has_bf16 ? ops::GemmDtype::kBF16 : ops::GemmDtype::kF32;
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::Load(const EngineOptions& options) {
  CACHETTE_TRY(Validate(options));
  std::unique_ptr<Engine> engine(new Engine);
  engine->options_ = options;
  if (engine->options_.threads == 0) engine->options_.threads = DescribeMachine().available_cores;
  CACHETTE_TRY(const Backend backend, FindBackend(options.backend));
  engine->options_.backend = backend.name;
  CACHETTE_TRY(engine->gemm_, ChooseGemm(options.compute, backend.isa));
  engine->options_.compute = engine->gemm_ == ops::GemmDtype::kBF16 ? "bf16" : "f32";
  const int num_threads = static_cast<int>(engine->options_.threads);
  omp_set_num_threads(num_threads);
  engine->cx_ = std::make_unique<Context>(backend, num_threads);

  CACHETTE_TRY(engine->model_path_, FindModel(options.model));
  CACHETTE_TRY(engine->checkpoint_, Checkpoint::Open(engine->model_path_));
  CACHETTE_TRY(StretchContext(engine->checkpoint_->mutable_config(), options.rope_scale));
  const Machine before = DescribeMachine();
  if (engine->checkpoint_->total_bytes() > before.available_bytes)
    return Fail(Error::kOutOfMemory,
                fmt::format("{} needs {:.1f} GiB for its weights, {:.1f} GiB of memory are available; choose a smaller "
                            "or more quantised model",
                            engine->model_path_, static_cast<double>(engine->checkpoint_->total_bytes()) / 0x1p30,
                            static_cast<double>(before.available_bytes) / 0x1p30));
  std::vector<LoraAdapter> adapters;
  for (const std::string& path : options.loras) {
    CACHETTE_TRY(LoraAdapter adapter, LoraAdapter::Open(path));
    adapters.push_back(std::move(adapter));
  }
  CACHETTE_TRY(engine->model_, Transformer::Load(*engine->cx_, *engine->checkpoint_, adapters));

  engine->kv_format_ = {*DtypeFromName(options.kv_dtype), engine->config().head_dim};
  size_t limit = static_cast<size_t>(options.fast_kv_bytes);
  if (limit == 0)
    limit = static_cast<size_t>(static_cast<double>(DescribeMachine().available_bytes) * kKvMemoryFraction);
  engine->tier_ = std::make_unique<Tier>(TierKind::kHost, limit);
  return engine;
}

Result<const Tokenizer*> Engine::tokenizer() {
  if (!tokenizer_.has_value()) tokenizer_.emplace(LoadTokenizer(*checkpoint_));
  if (!tokenizer_->ok()) return tokenizer_->failure();
  return &**tokenizer_;
}

int64_t Engine::kv_bytes_per_token() const {
  return static_cast<int64_t>(kv_format_.entry_bytes()) * config().num_layers * config().num_kv_heads;
}

}  // namespace cachette
