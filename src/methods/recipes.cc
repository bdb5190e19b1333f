// The table of recipes: the only place that binds a published name to parts. To add a method: write its part in the
// folder of its kind, include it here, add a row.

#include <fmt/format.h>

#include <array>

#include "methods/allocators/head_class.h"
#include "methods/allocators/protected_only.h"
#include "methods/fates/drop.h"
#include "methods/protects/sink_window.h"
#include "methods/recipe.h"
#include "methods/triggers/every_pass.h"

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

constexpr std::array<RecipeRow, 3> kRows = {{
    {.name = "full",
     .paper = "-",
     .summary = "every entry of every KV head",
     .frees = "nothing",
     .deviations = "",
     .allows_cache_positions = false,
     .make_parts = [] { return RecipeParts{}; },
     .apply_budget = nullptr},
    {.name = "streaming",
     .paper = "arXiv:2309.17453",
     .summary = "attention sinks and a recent window per KV head (StreamingLLM)",
     .frees = "the middle, before every prefill chunk and decode step",
     .deviations = "original positions by default (positions=cache re-rotates as published); a prefill chunk sees the "
                   "sinks and window before the chunk plus the whole chunk, causally",
     .allows_cache_positions = true,
     .make_parts =
         [] {
           return RecipeParts{.trigger = std::make_unique<EveryPass>(),
                              .protect = std::make_unique<SinkWindow>(),
                              .allocator = std::make_unique<ProtectedOnly>(),
                              .scorer = nullptr,
                              .fate = std::make_unique<Drop>()};
         },
     .apply_budget = WindowFromBudget},
    {.name = "heads",
     .paper = "arXiv:2410.10819, arXiv:2506.17121",
     .summary =
         "retrieval heads keep every entry, streaming heads sinks and window, by a mask file (DuoAttention, PruLong)",
     .frees = "the middle of the streaming heads, before every prefill chunk and decode step",
     .deviations = "training of the mask is not part of this recipe",
     .allows_cache_positions = false,
     .make_parts =
         [] {
           return RecipeParts{.trigger = std::make_unique<EveryPass>(),
                              .protect = std::make_unique<SinkWindow>(),
                              .allocator = std::make_unique<HeadClass>(),
                              .scorer = nullptr,
                              .fate = std::make_unique<Drop>()};
         },
     .apply_budget = WindowFromBudget},
}};

}  // namespace

std::span<const RecipeRow> AllRecipes() { return kRows; }

}  // namespace cachette
