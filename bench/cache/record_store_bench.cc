#include "cache/record_store.h"

#include <benchmark/benchmark.h>

#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/rng.h"

namespace cachette {
namespace {

constexpr size_t kRecordBytes = 4096;      // 16 entries of SmolLM2: head_dim 64, K and V, f16
constexpr int64_t kNumRecords = 128 << 8;  // 128 MiB: past the processor's caches

// Random batches from a full store, as a decode step of a layer asks for them: started and waited for at once. The file
// is in the folder for temporary files (TMPDIR).
void BM_ReadBatch(benchmark::State& state, const char* kind) {
  std::string spec = kind;
  if (const size_t at = spec.find('F'); at != std::string::npos)
    spec.replace(at, 1, std::filesystem::temp_directory_path().string());
  auto made = RecordStore::Create(spec, kRecordBytes);
  if (!made.ok()) return state.SkipWithError(made.failure().message.c_str());
  RecordStore& store = **made;

  Rng rng(1);
  std::vector<uint64_t> data(kRecordBytes / sizeof(uint64_t) * 256);
  if (!store.Allocate(kNumRecords).ok()) return state.SkipWithError("no room");
  for (int64_t first = 0; first < kNumRecords; first += 256) {
    for (uint64_t& word : data) word = rng.Next();
    if (!store.Write(first, std::as_bytes(std::span(data))).ok()) return state.SkipWithError("cannot write");
  }

  const auto num_reads = static_cast<size_t>(state.range(0));
  auto* const places = static_cast<std::byte*>(std::aligned_alloc(kRecordBytes, num_reads * kRecordBytes));
  std::vector<RecordRead> reads(num_reads);
  for (auto _ : state) {
    for (size_t i = 0; i < num_reads; ++i)
      reads[i] = {static_cast<int64_t>(rng.Below(kNumRecords)), places + i * kRecordBytes};
    if (const auto outcome = store.Read(reads); !outcome.ok()) {
      state.SkipWithError(outcome.failure().message.c_str());
      break;
    }
  }
  std::free(places);
  state.SetBytesProcessed(store.traffic().bytes_read);
  state.SetLabel(std::string(store.reader_name()));
}

void BatchSizes(benchmark::internal::Benchmark* bench) {
  bench->Arg(16)->Arg(64)->ArgName("records")->UseRealTime()->Unit(benchmark::kMicrosecond);
}

BENCHMARK_CAPTURE(BM_ReadBatch, ram, "ram")->Apply(BatchSizes);
BENCHMARK_CAPTURE(BM_ReadBatch, ram_verify, "ram,verify")->Apply(BatchSizes);
BENCHMARK_CAPTURE(BM_ReadBatch, disk_cached_uring, "disk:F,uring")->Apply(BatchSizes);
BENCHMARK_CAPTURE(BM_ReadBatch, disk_cached_threads, "disk:F,threads")->Apply(BatchSizes);
BENCHMARK_CAPTURE(BM_ReadBatch, disk_direct_uring, "disk:F,uring,direct")->Apply(BatchSizes);
BENCHMARK_CAPTURE(BM_ReadBatch, disk_direct_threads, "disk:F,threads,direct")->Apply(BatchSizes);

}  // namespace
}  // namespace cachette
