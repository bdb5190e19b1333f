// Linear at the shapes of SmolLM2-135M: the weights of a whole token or chunk, laid out as the model has them, so the
// caches are as cold as in use. Reported: bytes of weights per second against a plain read of as many bytes
// (share_of_read), or operations per second; both as seen by the wall clock.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <vector>

#include "base/rng.h"
#include "ops/linear/linear.h"

namespace cachette::ops {
namespace {

constexpr int kNumThreads = 2;
constexpr int kNumLayers = 30;
constexpr int64_t kHidden = 576, kFfn = 1536, kKv = 192, kVocab = 49152;

double Seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Random bits with finite scales.
std::vector<std::byte> RandomBytes(Dtype dtype, int64_t rows, int64_t cols) {
  Rng rng(static_cast<uint64_t>(rows * cols));
  std::vector<std::byte> bytes(static_cast<size_t>(rows) * RowBytes(dtype, cols));
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    const uint64_t v =
        (rng.Next() & 0x0b0b0b0b0b0b0b0bull) | 0x3030303030303030ull;  // any two bytes: a small positive f16 or bf16
    std::memcpy(&bytes[i], &v, 8);
  }
  return bytes;
}

Context& Cx() {
  static Context cx(*FindBackend("auto"), kNumThreads);
  return cx;
}

struct Layer {
  Weight q, k, v, o, gate, up, down;
};

struct Model {
  std::vector<Layer> layers;
  Weight lm_head;
  size_t read_bytes = 0;
  int64_t num_weights = 0;

  Weight Make(Dtype dtype, int64_t rows, int64_t cols) {
    const std::vector<std::byte> bytes = RandomBytes(dtype, rows, cols);
    Weight w = std::move(*Weight::Bind(Cx(), {bytes.data(), dtype, rows, cols}));
    read_bytes += w.read_bytes();
    num_weights += rows * cols;
    return w;
  }

  Model(Dtype dtype, bool has_head) {
    for (int i = 0; i < kNumLayers; ++i)
      layers.push_back({Make(dtype, kHidden, kHidden), Make(dtype, kKv, kHidden), Make(dtype, kKv, kHidden),
                        Make(dtype, kHidden, kHidden), Make(dtype, kFfn, kHidden), Make(dtype, kFfn, kHidden),
                        Make(dtype, kHidden, kFfn)});
    if (has_head) lm_head = Make(Dtype::kQ8_0, kVocab, kHidden);
  }

  void Forward(int64_t num_rows, LinearMode mode, GemmDtype gemm) {
    static std::vector<float> x, y[4];
    x.resize(static_cast<size_t>(num_rows * kFfn), 0.5f);
    for (auto& out : y) out.resize(static_cast<size_t>(num_rows * kFfn));
    const auto run = [&](std::span<const LinearOutput> outputs) {
      Linear(Cx(), outputs, x.data(), num_rows, mode, gemm);
    };
    for (const Layer& l : layers) {
      run(std::array{LinearOutput{&l.q, y[0].data(), kHidden}, LinearOutput{&l.k, y[1].data(), kKv},
                     LinearOutput{&l.v, y[2].data(), kKv}});
      run(std::array{LinearOutput{&l.o, y[3].data(), kHidden, nullptr, true}});
      run(std::array{LinearOutput{&l.gate, y[0].data(), kFfn}, LinearOutput{&l.up, y[1].data(), kFfn}});
      run(std::array{LinearOutput{&l.down, y[3].data(), kHidden, nullptr, true}});
    }
    if (lm_head.rows() > 0) {
      static std::vector<float> logits(static_cast<size_t>(kVocab));
      const LinearOutput out{&lm_head, logits.data(), kVocab};
      Linear(Cx(), {&out, 1}, x.data(), 1, LinearMode::kDecode, gemm);
    }
  }
};

// Bytes per second of reading num_bytes with all threads, best of 10.
double ReadBandwidth(size_t num_bytes) {
  const std::vector<uint64_t> words(num_bytes / 8, 1);
  double best = 1e9;
  for (int run = 0; run < 10; ++run) {
    const double begin = Seconds();
    constexpr int64_t kTasks = kNumThreads;
    std::array<uint64_t, kTasks * 8> sums{};
    const int64_t per_task = static_cast<int64_t>(words.size()) / kTasks;
    Cx().ParallelFor(kTasks, [&](int64_t task) {
      uint64_t sum[8] = {};
      const uint64_t* p = words.data() + task * per_task;
      for (int64_t i = 0; i + 8 <= per_task; i += 8) {
        for (int j = 0; j < 8; ++j) sum[j] += p[i + j];
      }
      for (int j = 0; j < 8; ++j) sums[static_cast<size_t>(task * 8)] += sum[j];
    });
    benchmark::DoNotOptimize(sums);
    best = std::min(best, Seconds() - begin);
  }
  return static_cast<double>(num_bytes) / best;
}

void ReadOnly(benchmark::State& state) {
  double best = 0;
  for (auto _ : state) best = std::max(best, ReadBandwidth(96u << 20));
  state.counters["GB/s_best"] = best * 1e-9;
}

// Dtype, rows of x: one decode step of the whole model (q4_1: with the q8_0 head, as the file has it).
void DecodeToken(benchmark::State& state) {
  const auto dtype = static_cast<Dtype>(state.range(0));
  Model model(dtype, dtype == Dtype::kQ4_1);
  const double bandwidth = ReadBandwidth(model.read_bytes);
  double best = 1e9;
  for (auto _ : state) {
    const double begin = Seconds();
    model.Forward(state.range(1), LinearMode::kDecode, GemmDtype::kF32);
    best = std::min(best, Seconds() - begin);
  }
  state.SetLabel(InfoOf(dtype).name);
  const auto bytes = static_cast<double>(model.read_bytes);
  state.counters["MB"] = bytes * 1e-6;
  state.counters["ms_best"] = best * 1e3;
  state.counters["GB/s_best"] = bytes / best * 1e-9;
  state.counters["share_of_read"] = bytes / best / bandwidth;
}

// Dtype, rows of x, GEMM type: one prefill chunk through the layers.
void PrefillChunk(benchmark::State& state) {
  const auto dtype = static_cast<Dtype>(state.range(0));
  const auto gemm = static_cast<GemmDtype>(state.range(2));
  Model model(dtype, false);
  model.Forward(state.range(1), LinearMode::kPrefill, gemm);  // compiles the primitives
  double best = 1e9;
  for (auto _ : state) {
    const double begin = Seconds();
    model.Forward(state.range(1), LinearMode::kPrefill, gemm);
    best = std::min(best, Seconds() - begin);
  }
  state.SetLabel(std::string(InfoOf(dtype).name) + (gemm == GemmDtype::kBF16 ? " bf16" : " f32"));
  const double operations = 2.0 * static_cast<double>(model.num_weights) * static_cast<double>(state.range(1));
  state.counters["ms_best"] = best * 1e3;
  state.counters["TFLOP/s_best"] = operations / best * 1e-12;
}

// All weights of the model from (warm) file bytes.
void BindModel(benchmark::State& state) {
  double best = 1e9;
  size_t num_bytes = 0;
  const std::vector<std::byte> small = RandomBytes(Dtype::kQ4_1, kFfn, kHidden);
  const std::vector<std::byte> head = RandomBytes(Dtype::kQ8_0, kVocab, kHidden);
  std::vector<std::vector<std::byte>> layers(kNumLayers * 4, small);  // 4 x 1536 x 576 = the 7 matrices of a layer
  for (auto _ : state) {
    Context cx(*FindBackend("auto"), kNumThreads);
    const double begin = Seconds();
    std::vector<Weight> weights;
    weights.push_back(std::move(*Weight::Bind(cx, {head.data(), Dtype::kQ8_0, kVocab, kHidden})));
    for (size_t i = 0; i < kNumLayers * 4; ++i)
      weights.push_back(std::move(*Weight::Bind(cx, {layers[i].data(), Dtype::kQ4_1, kFfn, kHidden})));
    best = std::min(best, Seconds() - begin);
    num_bytes = 0;
    for (const Weight& w : weights) num_bytes += w.owned_bytes();
  }
  state.counters["MB"] = static_cast<double>(num_bytes) * 1e-6;
  state.counters["ms_best"] = best * 1e3;
}

BENCHMARK(ReadOnly)->Unit(benchmark::kMillisecond)->Iterations(3);
BENCHMARK(BindModel)->Unit(benchmark::kMillisecond)->Iterations(10);
BENCHMARK(DecodeToken)
    ->ArgsProduct({{static_cast<int>(Dtype::kQ4_1)}, {1, 2, 4, 8}})
    ->Args({static_cast<int>(Dtype::kQ8_0), 1})
    ->Args({static_cast<int>(Dtype::kQ4_0), 1})
    ->Args({static_cast<int>(Dtype::kQ5_0), 1})
    ->Args({static_cast<int>(Dtype::kF16), 1})
    ->Args({static_cast<int>(Dtype::kBF16), 1})
    ->Unit(benchmark::kMillisecond)
    ->MinTime(0.5);
BENCHMARK(PrefillChunk)
    ->ArgsProduct({{static_cast<int>(Dtype::kQ4_1)}, {16, 128, 512, 1024, 2048, 4096}, {1}})
    ->Args({static_cast<int>(Dtype::kQ4_1), 512, 0})
    ->Args({static_cast<int>(Dtype::kF16), 512, 1})
    ->Unit(benchmark::kMillisecond)
    ->MinTime(0.8);

}  // namespace
}  // namespace cachette::ops
