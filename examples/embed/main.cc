// The library in 40 lines: a model reads a prompt with a small KV cache, writes on, and says what the cache cost.
// Usage: embed MODEL PROMPT
#include <cachette.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

namespace {

template <class T>
T OrExit(cachette::Result<T> result) {
  if (!result.ok()) {
    std::fprintf(stderr, "embed: %s\n", result.failure().message.c_str());
    std::exit(1);
  }
  return *std::move(result);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: %s MODEL PROMPT\n", argv[0]), 2;

  cachette::EngineOptions engine_options;
  engine_options.model = argv[1];
  const auto engine = OrExit(cachette::Engine::Load(engine_options));
  const cachette::Tokenizer& tokenizer = *OrExit(engine->tokenizer());

  // Each KV head keeps the first tokens and the most recent ones, 64 entries in all; `cachette recipes` lists the rest.
  const auto recipe = OrExit(engine->MakeRecipe("streaming", {{"budget", "64"}}));
  const auto session = engine->NewSession(recipe);

  cachette::GenerateOptions options;
  options.max_new_tokens = 32;
  const auto answer = OrExit(engine->Generate(*session, OrExit(tokenizer.Encode(argv[2])), options));

  std::printf("%s\n", tokenizer.Decode(answer.tokens).c_str());
  std::printf("footprint %.3f, peak %.3f of the full cache\n", session->cache().ledger().Footprint(),
              session->cache().ledger().Peak());
}
