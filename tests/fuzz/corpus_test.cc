// Feeds every fuzz target its corpus and fixed mutations of it, without libFuzzer. To add a target: include it below
// and give it a row in kTargets.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "../../fuzz/fuzz_chat_template.cc"
#include "../../fuzz/fuzz_gguf.cc"
#include "../../fuzz/fuzz_safetensors.cc"
#include "../../fuzz/fuzz_tokenizer.cc"
#include "base/rng.h"

namespace cachette::fuzz {
namespace {

struct Target {
  const char* name;  // of its corpus folder
  void (*run)(std::span<const std::byte>);
};
constexpr Target kTargets[] = {
    {"chat_template", chat_template::Run},
    {"gguf", gguf::Run},
    {"safetensors", safetensors::Run},
    {"tokenizer", tokenizer::Run},
};
constexpr int kNumMutations = 20'000;  // per target

using Input = std::vector<std::byte>;

std::vector<Input> ReadCorpus(const char* name) {
  std::vector<std::string> paths;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(CACHETTE_TEST_DATA "/../../fuzz/corpus/") + name))
    paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());  // the same order on every machine
  std::vector<Input> corpus;
  for (const std::string& path : paths) {
    std::ifstream stream(path, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(stream), {}};
    const auto bytes = std::as_bytes(std::span(text));
    corpus.emplace_back(bytes.begin(), bytes.end());
  }
  return corpus;
}

// One small damage: a bit, a byte, a number of 1 to 8 bytes replaced by an extreme one, bytes cut out, repeated, or
// taken from another input, or the end lost.
void Mutate(Rng& rng, const std::vector<Input>& corpus, Input& input) {
  const auto below = [&](size_t bound) { return static_cast<size_t>(rng.Below(bound)); };
  if (input.empty()) {
    input.push_back(static_cast<std::byte>(below(256)));
    return;
  }
  const size_t at = below(input.size());
  const size_t num_bytes = std::min(input.size() - at, size_t{1} << below(6));
  const auto begin = input.begin() + static_cast<std::ptrdiff_t>(at),
             end = begin + static_cast<std::ptrdiff_t>(num_bytes);
  switch (below(7)) {
    case 0: input[at] ^= static_cast<std::byte>(1 << below(8)); break;
    case 1: input[at] = static_cast<std::byte>(below(256)); break;
    case 2: {
      constexpr uint64_t kExtremes[] = {0,
                                        1,
                                        0x7f,
                                        0x80,
                                        0xff,
                                        0x7fffffff,
                                        0x80000000,
                                        0xffffffff,
                                        uint64_t{1} << 61,
                                        uint64_t{1} << 62,
                                        ~uint64_t{0} >> 1,
                                        uint64_t{1} << 63,
                                        ~uint64_t{0}};
      const uint64_t value = kExtremes[below(std::size(kExtremes))];
      for (size_t i = 0; i < std::min<size_t>(num_bytes, 8); ++i)
        input[at + i] = static_cast<std::byte>(value >> (8 * i) & 0xff);
      break;
    }
    case 3: input.erase(begin, end); break;
    case 4: {
      const Input copy(begin, end);
      input.insert(begin, copy.begin(), copy.end());
      break;
    }
    case 5: {
      const Input& other = corpus[below(corpus.size())];
      if (!other.empty()) {
        const size_t from = below(other.size());
        std::copy_n(other.begin() + static_cast<std::ptrdiff_t>(from), std::min(num_bytes, other.size() - from), begin);
      }
      break;
    }
    default: input.resize(at);
  }
}

// From a block of exactly its size, so that the sanitizers see any step beyond.
void RunExact(const Target& target, const Input& input) {
  const auto copy = std::make_unique<std::byte[]>(input.size());
  std::copy(input.begin(), input.end(), copy.get());
  target.run({copy.get(), input.size()});
}

TEST(FuzzCorpus, EveryTargetSurvivesItsCorpusAndMutationsOfIt) {
  for (const Target& target : kTargets) {
    SCOPED_TRACE(target.name);
    const std::vector<Input> corpus = ReadCorpus(target.name);
    ASSERT_FALSE(corpus.empty());
    for (const Input& input : corpus) RunExact(target, input);
    RunExact(target, {});
    Rng rng(1);
    for (int i = 0; i < kNumMutations; ++i) {
      Input input = corpus[static_cast<size_t>(rng.Below(corpus.size()))];
      for (uint64_t n = rng.Below(4) + 1; n > 0; --n) Mutate(rng, corpus, input);
      RunExact(target, input);
    }
  }
}

TEST(FuzzCorpus, EveryCorpusFolderHasATarget) {
  for (const auto& entry : std::filesystem::directory_iterator(CACHETTE_TEST_DATA "/../../fuzz/corpus"))
    EXPECT_TRUE(std::any_of(std::begin(kTargets), std::end(kTargets),
                            [&](const Target& target) { return entry.path().filename() == target.name; }))
        << entry.path() << " is not run";
}

}  // namespace
}  // namespace cachette::fuzz
