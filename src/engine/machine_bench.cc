#include "engine/machine_bench.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "base/half.h"
#include "ops/linear/gemm.h"
#include "ops/linear/linear_prefill.h"
#include "tensor/context.h"

namespace cachette {
namespace {

constexpr int64_t kReadBytes = int64_t{1} << 30;  // 1 GiB: several times the largest last-level caches
constexpr double kSecondsPerMeasure = 0.5;
constexpr int64_t kChunkRows = 512;  // of prefill, its default
constexpr int64_t kWeightRows = 4096, kWeightCols = 1024;

// Repeats body for kSecondsPerMeasure, at least twice; the shortest time of one call.
template <class Body>
double BestSeconds(const Body& body) {
  double best = 1e30;
  const Clock::time_point start = Clock::now();
  for (int i = 0; i < 2 || SecondsSince(start) < kSecondsPerMeasure; ++i) {
    const Clock::time_point begin = Clock::now();
    body();
    best = std::min(best, SecondsSince(begin));
  }
  return best;
}

// Sum of words, eight independent lanes so that loads, not additions, set the pace.
uint64_t SumWords(const uint64_t* words, int64_t count) {
  uint64_t lanes[8] = {};
  for (int64_t i = 0; i + 8 <= count; i += 8)
    for (int lane = 0; lane < 8; ++lane) lanes[lane] += words[i + lane];
  uint64_t sum = 0;
  for (const uint64_t lane : lanes) sum += lane;
  return sum;
}

double MeasureRead(int threads, int64_t num_bytes) {
  const int64_t words_per_thread = num_bytes / 8 / threads;
  // Not value-initialised: each thread touches its own part first, so that it lies in its memory node.
  const std::unique_ptr<uint64_t[]> words(new uint64_t[static_cast<size_t>(words_per_thread * threads)]);
#pragma omp parallel num_threads(threads)
  {
    uint64_t* own = words.get() + omp_get_thread_num() * words_per_thread;
    std::fill(own, own + words_per_thread, 1);
  }
  volatile uint64_t sink = 0;
  const double seconds = BestSeconds([&] {
    uint64_t sum = 0;
#pragma omp parallel num_threads(threads) reduction(+ : sum)
    sum += SumWords(words.get() + omp_get_thread_num() * words_per_thread, words_per_thread);
    sink = sum;
  });
  return static_cast<double>(words_per_thread * threads * 8) / seconds / 1e9;
}

// What prefill does with a chunk of kChunkRows rows, less unpacking and storing: every thread multiplies row tile by
// row tile with a slice of the weight that stays in its cache, in the operand layout that the library chose.
GemmRate MeasureGemm(ops::GemmCache& cache, int threads, bool is_bf16) {
  const size_t element_bytes = is_bf16 ? 2 : 4;
  const ops::GemmShape shape = ops::PrefillGemm(kWeightRows, kWeightCols, is_bf16, threads);
  const ops::Gemm& gemm = cache.Get(shape);
  const size_t tile_bytes = static_cast<size_t>(shape.m * shape.k) * element_bytes;
  const int64_t num_tiles = kChunkRows / shape.m;
  const auto filled = [&](size_t num_bytes) {  // with ones: what is multiplied must not be denormal
    std::vector<std::byte> bytes(num_bytes);
    const float one = 1.0f;
    const BF16 brain_one(one);
    const void* value = is_bf16 ? static_cast<const void*>(&brain_one) : &one;
    for (size_t i = 0; i + element_bytes <= num_bytes; i += element_bytes)
      std::memcpy(bytes.data() + i, value, element_bytes);
    return bytes;
  };
  const std::vector<std::byte> x = filled(tile_bytes * static_cast<size_t>(num_tiles));
  const std::vector<std::byte> w = filled(cache.Operand(shape.n, shape.k, is_bf16).num_bytes);
  std::vector<ScratchArena> arenas(static_cast<size_t>(threads));
  constexpr int kRuns = 8;  // per pass, so that starting the threads does not count
  const double seconds = BestSeconds([&] {
#pragma omp parallel num_threads(threads)
    {
      ScratchArena& arena = arenas[static_cast<size_t>(omp_get_thread_num())];
      const ScratchScope scope(arena);
      std::byte* own_w = arena.Allocate(w.size());
      std::memcpy(own_w, w.data(), w.size());
      std::byte* scratch = arena.Allocate(gemm.scratch_bytes());
      float* y = arena.Array<float>(static_cast<size_t>(shape.m * shape.n)).data();
      for (int run = 0; run < kRuns; ++run)
        for (int64_t tile = 0; tile < num_tiles; ++tile)
          gemm.Run(x.data() + static_cast<size_t>(tile) * tile_bytes, own_w, y, scratch);
    }
  });
  const double operations = 2.0 * kRuns * threads * static_cast<double>(num_tiles * shape.m * shape.n * shape.k);
  return {is_bf16 ? "bf16" : "f32", shape.m, shape.n, shape.k, operations / seconds / 1e9};
}

}  // namespace

MachineBench MeasureMachine(int threads) {
  MachineBench out;
  out.machine = DescribeMachine();
  out.threads = threads > 0 ? threads : out.machine.available_cores;
  omp_set_num_threads(out.threads);
  out.read_bytes = std::min(kReadBytes, out.machine.available_bytes / 4);
  out.read_gbps = MeasureRead(out.threads, out.read_bytes);
  ops::GemmCache cache;
  out.gemms.push_back(MeasureGemm(cache, out.threads, false));
  if (CpuHasNativeBf16() && cache.SupportsBF16()) out.gemms.push_back(MeasureGemm(cache, out.threads, true));
  return out;
}

}  // namespace cachette
