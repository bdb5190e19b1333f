#include "cache/ledger.h"

#include <benchmark/benchmark.h>

#include <memory>

namespace cachette {
namespace {

// What the ledger adds to one decode step: every stream appends one entry and, sliding, evicts one; a codec rewrites
// one in 32. Arguments: streams (layers x KV heads), whether the full list is recorded.
void BM_LedgerDecodeStep(benchmark::State& state) {
  const auto num_streams = static_cast<int>(state.range(0));
  constexpr int64_t kWindow = 1024, kEntryBytes = 256;
  constexpr int64_t kMostSteps = 1 << 16;  // of one sequence: the recorded list grows with it
  auto ledger = std::make_unique<Ledger>(num_streams);
  for (auto _ : state) {
    if (ledger->num_tokens() % kMostSteps == 0) {
      state.PauseTiming();
      ledger = std::make_unique<Ledger>(num_streams);
      ledger->set_recording(state.range(1) != 0);
      ledger->BeginPass(0, kWindow);
      for (int stream = 0; stream < num_streams; ++stream) ledger->Append(stream, 0, kWindow, kEntryBytes);
      ledger->EndPass();
      state.ResumeTiming();
    }
    const int64_t token = ledger->num_tokens();
    for (int stream = 0; stream < num_streams; ++stream) ledger->Evict(stream, token - kWindow, 1, kEntryBytes);
    ledger->BeginPass(token, 1);
    for (int stream = 0; stream < num_streams; ++stream) {
      ledger->Append(stream, token, 1, kEntryBytes);
      if (token % 32 == 0) ledger->Rewrite(stream, token, 1, kEntryBytes, kEntryBytes, EvictTime::kAfterAttention);
    }
    ledger->SetMetadataBytes(num_streams * kWindow * 4);
    ledger->EndPass();
    benchmark::DoNotOptimize(ledger->Area());
  }
  state.SetItemsProcessed(state.iterations() * num_streams);
}

// SmolLM2 135M: 30 layers of 3 KV heads; Llama 3.1 8B: 32 of 8.
BENCHMARK(BM_LedgerDecodeStep)
    ->ArgsProduct({{90, 256}, {0, 1}})
    ->ArgNames({"streams", "recording"})
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace cachette
