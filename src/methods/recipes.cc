// The table of recipes: the only place that binds a published name to parts. To add a method: write its part in the
// folder of its kind, include it here, add a row.

#include <fmt/format.h>

#include <array>

#include "methods/allocators/ada_head.h"
#include "methods/allocators/head_class.h"
#include "methods/allocators/protected_only.h"
#include "methods/allocators/pyramid.h"
#include "methods/allocators/uniform.h"
#include "methods/fates/drop.h"
#include "methods/protects/recent_share.h"
#include "methods/protects/sink_window.h"
#include "methods/recipe.h"
#include "methods/scorers/accumulated_attention.h"
#include "methods/scorers/key_norm.h"
#include "methods/scorers/last_attention.h"
#include "methods/scorers/random_score.h"
#include "methods/scorers/redundancy.h"
#include "methods/scorers/window_attention.h"
#include "methods/selects/top_chunks.h"
#include "methods/triggers/every_pass.h"
#include "methods/triggers/eviction_schedule.h"

namespace cachette {
namespace {

// A budget of B entries at a decode step = sinks + window + the current token.
Result<void> WindowFromBudget(RecipeParts& parts, int64_t budget) {
  auto& protect = static_cast<SinkWindow&>(*parts.protect);
  if (protect.num_sinks < 0) return Ok();  // refused by the part itself
  if (budget - 2 < protect.num_sinks)
    return Fail(Error::kInvalidArgument,
                fmt::format("budget {} entries < {} sinks + 1 recent + the current token; raise --budget or lower "
                            "--protect.sinks",
                            budget, protect.num_sinks));
  protect.recent_window = budget - protect.num_sinks - 1;
  return Ok();
}

// Parts of a recipe whose entries compete by score.
RecipeParts Scored(std::unique_ptr<Scorer> scorer, std::unique_ptr<Allocator> allocator,
                   std::unique_ptr<Protect> protect = nullptr, int64_t decode_every = 0,
                   std::unique_ptr<Select> select = nullptr) {
  return {.trigger = std::make_unique<EvictionSchedule>(decode_every),
          .protect = std::move(protect),
          .allocator = std::move(allocator),
          .scorer = std::move(scorer),
          .select = std::move(select),
          .fate = std::make_unique<Drop>()};
}

// Parts of a recipe whose streaming heads keep sinks and a recent window.
RecipeParts Streamed(std::unique_ptr<Allocator> allocator) {
  return {.trigger = std::make_unique<EveryPass>(),
          .protect = std::make_unique<SinkWindow>(),
          .allocator = std::move(allocator),
          .scorer = nullptr,
          .select = nullptr,
          .fate = std::make_unique<Drop>()};
}

constexpr const char* kPromptLosers = "prompt entries that lose, after the prompt or after each prefill chunk";
constexpr const char* kPromptAndOutputLosers =
    "prompt entries that lose, after the prompt or after each prefill chunk, and one entry per generated token";
constexpr const char* kLastQueries = "the last queries of the prompt, or of each chunk";
constexpr DefaultPlaces kQuarter = {.keep_fraction = 0.25};

const std::array<RecipeRow, 12> kRows = {{
    {.name = "full",
     .paper = "-",
     .summary = "every entry of every KV head",
     .needs = "nothing",
     .frees = "nothing",
     .deviations = "",
     .allows_cache_positions = false,
     .places = {},
     .make_parts = [] { return RecipeParts{}; },
     .apply_budget = nullptr},
    {.name = "streaming",
     .paper = "arXiv:2309.17453",
     .summary = "attention sinks and a recent window per KV head (StreamingLLM)",
     .needs = "nothing",
     .frees = "the middle, before every prefill chunk and decode step",
     .deviations = "original positions by default (positions=cache re-rotates as published); a prefill chunk sees the "
                   "sinks and window before the chunk plus the whole chunk, causally",
     .allows_cache_positions = true,
     .places = {},
     .make_parts = [] { return Streamed(std::make_unique<ProtectedOnly>()); },
     .apply_budget = WindowFromBudget},
    {.name = "heads",
     .paper = "arXiv:2410.10819, arXiv:2506.17121",
     .summary =
         "retrieval heads keep every entry, streaming heads sinks and window, by a mask file (DuoAttention, PruLong)",
     .needs = "nothing",
     .frees = "the middle of the streaming heads, before every prefill chunk and decode step",
     .deviations = "training of the mask is not part of this recipe",
     .allows_cache_positions = false,
     .places = {},
     .make_parts = [] { return Streamed(std::make_unique<HeadClass>()); },
     .apply_budget = WindowFromBudget},
    {.name = "h2o",
     .paper = "arXiv:2306.14048",
     .summary = "the entries with the most accumulated attention and the newest ones, half and half (H2O)",
     .needs = "running column sums of attention",
     .frees = kPromptAndOutputLosers,
     .deviations = "one list per KV head, scores summed over its query heads; the number of places stays what the "
                   "prompt left (or the budget); queries of a patch count",
     .allows_cache_positions = false,
     .places = {.keep_fraction = 0.2},
     .make_parts =
         [] {
           return Scored(std::make_unique<AccumulatedAttention>(), std::make_unique<Uniform>(),
                         std::make_unique<RecentShare>(), 1);
         },
     .apply_budget = nullptr},
    {.name = "tova",
     .paper = "arXiv:2401.06104",
     .summary = "the entries that the newest query attends to, one choice for all KV heads of a layer (TOVA)",
     .needs = "the newest query",
     .frees = kPromptAndOutputLosers,
     .deviations = "softmax over the competing entries: with keep_fraction those of the chunk or prompt",
     .allows_cache_positions = false,
     .places = kQuarter,
     .make_parts = [] { return Scored(std::make_unique<LastAttention>(), std::make_unique<Uniform>(), nullptr, 1); },
     .apply_budget = nullptr},
    {.name = "snapkv",
     .paper = "arXiv:2404.14469, arXiv:2506.17121",
     .summary = "the entries that the prompt's last queries attend to, smoothed over neighbours (SnapKV)",
     .needs = kLastQueries,
     .frees = kPromptLosers,
     .deviations = "one list per KV head, the mean over its query heads; softmax over the competing entries; places of "
                   "a chunk are rounded to the nearest, ties to even, and the window never takes more than there are",
     .allows_cache_positions = false,
     .places = kQuarter,
     .make_parts = [] { return Scored(std::make_unique<WindowAttention>(), std::make_unique<Uniform>()); },
     .apply_budget = nullptr},
    {.name = "pyramidkv",
     .paper = "arXiv:2406.02069, arXiv:2506.17121",
     .summary = "as snapkv, with many places in the lower layers and few in the higher ones (PyramidKV)",
     .needs = kLastQueries,
     .frees = kPromptLosers,
     .deviations = "one list per KV head, the mean over its query heads; places as for snapkv",
     .allows_cache_positions = false,
     .places = kQuarter,
     .make_parts = [] { return Scored(std::make_unique<WindowAttention>(), std::make_unique<Pyramid>()); },
     .apply_budget = nullptr},
    {.name = "adakv",
     .paper = "arXiv:2407.11550",
     .summary = "as snapkv, with more places for the KV heads whose attention is spread wider (AdaKV)",
     .needs = kLastQueries,
     .frees = kPromptLosers,
     .deviations = "rounding differences go to the first heads, so that a layer's sum is exact",
     .allows_cache_positions = false,
     .places = kQuarter,
     .make_parts =
         [] {
           return Scored(std::make_unique<WindowAttention>(WindowAttention::Defaults{
                             .window = 32, .pool = "max", .pool_width = 7, .reduce = "mean", .pools_reduced = true}),
                         std::make_unique<AdaHead>());
         },
     .apply_budget = nullptr},
    {.name = "chunkkv",
     .paper = "arXiv:2502.00299",
     .summary = "whole runs of neighbouring tokens, one choice for all KV heads of two layers (ChunkKV)",
     .needs = kLastQueries,
     .frees = kPromptLosers,
     .deviations = "runs are aligned to the text and score the mean of their entries, so that a short one compares; "
                   "where short ones leave room, the next best is kept too",
     .allows_cache_positions = false,
     .places = kQuarter,
     .make_parts =
         [] {
           return Scored(
               std::make_unique<WindowAttention>(WindowAttention::Defaults{.pool = "none", .shares_heads = true}),
               std::make_unique<Uniform>(), nullptr, 0, std::make_unique<TopChunks>());
         },
     .apply_budget = nullptr},
    {.name = "rkv",
     .paper = "arXiv:2505.24133",
     .summary = "entries that matter to the last queries and do not repeat each other (R-KV)",
     .needs = "the last queries, during generation too",
     .frees = "prompt entries that lose, and those of the output every 128 generated tokens",
     .deviations = "the 128 tokens are counted from the prompt, whether or not the budget was reached then",
     .allows_cache_positions = false,
     .places = {.budget = 1024},
     .make_parts = [] { return Scored(std::make_unique<Redundancy>(), std::make_unique<Uniform>(), nullptr, 128); },
     .apply_budget = nullptr},
    {.name = "knorm",
     .paper = "arXiv:2406.11430",
     .summary = "the entries whose keys have the smallest norm",
     .needs = "nothing but the keys",
     .frees = kPromptLosers,
     .deviations = "",
     .allows_cache_positions = false,
     .places = kQuarter,
     .make_parts = [] { return Scored(std::make_unique<KeyNorm>(), std::make_unique<Uniform>()); },
     .apply_budget = nullptr},
    {.name = "random",
     .paper = "-",
     .summary = "entries drawn at random, beside sinks and a short recent window: the control",
     .needs = "nothing",
     .frees = kPromptLosers,
     .deviations = "",
     .allows_cache_positions = false,
     .places = kQuarter,
     .make_parts =
         [] {
           return Scored(std::make_unique<RandomScore>(), std::make_unique<Uniform>(),
                         std::make_unique<SinkWindow>(4, 32));
         },
     .apply_budget = nullptr},
}};

}  // namespace

std::span<const RecipeRow> AllRecipes() { return kRows; }

}  // namespace cachette
