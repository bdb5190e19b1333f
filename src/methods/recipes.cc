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
#include "methods/retrieval/indexes/cuboid_mean.h"
#include "methods/retrieval/indexes/mean_key.h"
#include "methods/retrieval/indexes/min_max.h"
#include "methods/retrieval/triggers/coverage.h"
#include "methods/retrieval/triggers/every_step.h"
#include "methods/retrieval/triggers/query_cosine.h"
#include "methods/retrieval/triggers/stride.h"
#include "methods/retrieval/units/clusters.h"
#include "methods/retrieval/units/pages.h"
#include "methods/retrieval/units/segments.h"
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

// What distinguishes one recipe that retrieves from another: all have the same parts, so every cross is an option away.
struct RetrievalDefaults {
  const char* units;  // of the prompt
  const char* output_units;
  const char* index;
  const char* trigger;
  int64_t page_entries = 16;
  Clusters::Defaults clusters = {};
  double least_coverage = 0.8;
  WorkingSet::Defaults working_set = {};
};

RecipeParts Retrieved(const RetrievalDefaults& d) {
  const auto builders = [&](bool is_output) {
    std::vector<std::unique_ptr<UnitBuilder>> list;
    list.push_back(std::make_unique<Pages>(d.page_entries));
    list.push_back(std::make_unique<Clusters>(d.clusters));
    if (is_output) list.push_back(std::make_unique<Segments>());
    return list;
  };
  std::vector<std::unique_ptr<UnitIndex>> indexes;
  indexes.push_back(std::make_unique<MinMax>());
  indexes.push_back(std::make_unique<CuboidMean>());
  indexes.push_back(std::make_unique<MeanKey>(ops::GroupReduce::kMean));
  indexes.push_back(std::make_unique<MeanKey>(ops::GroupReduce::kMeanSoftmax));
  std::vector<std::unique_ptr<RetrievalTrigger>> triggers;
  triggers.push_back(std::make_unique<EveryStep>());
  triggers.push_back(std::make_unique<Stride>());
  triggers.push_back(std::make_unique<QueryCosine>(QueryCosine::Against::kPrevious));
  triggers.push_back(std::make_unique<QueryCosine>(QueryCosine::Against::kLast));
  triggers.push_back(std::make_unique<Coverage>(d.least_coverage));
  RecipeParts parts;
  parts.retrieval = std::make_unique<RetrievalParts>();
  parts.retrieval->protect = std::make_unique<SinkWindow>(16, 128);
  parts.retrieval->units = std::make_unique<Choice<UnitBuilder>>(
      "what of the prompt is retrieved together: pages or clusters", d.units, builders(false));
  parts.retrieval->output_units = std::make_unique<Choice<UnitBuilder>>(
      "what of the output is retrieved together: pages, clusters or segments", d.output_units, builders(true));
  parts.retrieval->index = std::make_unique<Choice<UnitIndex>>(
      "what stands for a unit: min_max, cuboid_mean, mean_key or mean_key_softmax", d.index, std::move(indexes));
  parts.retrieval->trigger = std::make_unique<Choice<RetrievalTrigger>>(
      "when the working set is chosen anew: every, stride, prev, last or coverage", d.trigger, std::move(triggers));
  parts.retrieval->working_set = std::make_unique<WorkingSet>(d.working_set);
  return parts;
}

constexpr const char* kPromptLosers = "prompt entries that lose, after the prompt or after each prefill chunk";
constexpr const char* kPromptAndOutputLosers =
    "prompt entries that lose, after the prompt or after each prefill chunk, and one entry per generated token";
constexpr const char* kLastQueries = "the last queries of the prompt, or of each chunk";
constexpr DefaultPlaces kQuarter = {.keep_fraction = 0.25};

constexpr const char* kOffloaded =
    "nothing; entries leave the fast tier for the slow one, sinks, recent window and working set stay";

const std::array<RecipeRow, 17> kRows = {{
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
    {.name = "quest",
     .paper = "arXiv:2406.10774",
     .summary = "pages whose keys may match, by their minima and maxima, chosen for every token (Quest)",
     .needs = "the query before attention",
     .frees = kOffloaded,
     .deviations = "one list per KV head, the largest bound over its query heads; sinks and a recent window are always "
                   "read; pages rest in the slow tier, where the paper leaves them in the device",
     .allows_cache_positions = false,
     .places = {.budget = 512},
     .make_parts =
         [] {
           return Retrieved({.units = "pages",
                             .output_units = "pages",
                             .index = "min_max",
                             .trigger = "every",
                             .working_set = {.dense_layers = 2}});
         },
     .apply_budget = nullptr},
    {.name = "arkvale",
     .paper = "NeurIPS 2024 (ArkVale)",
     .summary = "pages by a box around their keys, recalled for every token into the places of the lowest (ArkVale)",
     .needs = "the query before attention",
     .frees = kOffloaded,
     .deviations = "one list per KV head instead of one for the layer; the oldest page in use goes, not the lowest "
                   "score; sinks and recent window in entries",
     .allows_cache_positions = false,
     .places = {.budget = 512},
     .make_parts =
         [] {
           return Retrieved({.units = "pages",
                             .output_units = "pages",
                             .index = "cuboid_mean",
                             .trigger = "every",
                             .page_entries = 32,
                             .working_set = {.attend = "all", .selected = 0.5, .dense_layers = 2}});
         },
     .apply_budget = nullptr},
    {.name = "clusterkv",
     .paper = "arXiv:2412.03213",
     .summary = "clusters of similar keys by the query's product with their means, chosen for every token (ClusterKV)",
     .needs = "the query before attention",
     .frees = kOffloaded,
     .deviations = "one list per KV head, the mean over its query heads; k-means of cells first (two_level); a cluster "
                   "longer than the blocks of the budget is cut",
     .allows_cache_positions = false,
     .places = {.budget = 512},
     .make_parts =
         [] {
           return Retrieved({.units = "clusters",
                             .output_units = "clusters",
                             .index = "mean_key",
                             .trigger = "every",
                             .clusters = {.keys = 80, .cap = 0},
                             .working_set = {.cuts_last = true, .dense_layers = 2}});
         },
     .apply_budget = nullptr},
    {.name = "louis",
     .paper = "arXiv:2510.11292",
     .summary = "clusters of the prompt and segments of the output, chosen where the query turns (LouisKV)",
     .needs = "the query before attention, and the previous token's",
     .frees = kOffloaded,
     .deviations = "tau for all layers unless calibrated per layer (cachette calibrate); k-means of cells first "
                   "(two_level)",
     .allows_cache_positions = false,
     .places = {.budget = 512},
     .make_parts =
         [] {
           return Retrieved(
               {.units = "clusters", .output_units = "segments", .index = "mean_key_softmax", .trigger = "prev"});
         },
     .apply_budget = nullptr},
    {.name = "louis+",
     .paper = "arXiv:2510.11292",
     .summary = "as louis, chosen when the working set covers too little, from a larger pool, neighbours ahead",
     .needs = "the query before attention",
     .frees = kOffloaded,
     .deviations = "our composition: coverage trigger, partial refresh, a pool of two and a half budgets of which "
                   "attention reads "
                   "the best, guesses of the next positions",
     .allows_cache_positions = false,
     .places = {.budget = 512},
     .make_parts =
         [] {
           return Retrieved({.units = "clusters",
                             .output_units = "pages",
                             .index = "mean_key_softmax",
                             .trigger = "coverage",
                             .clusters = {.cap = 1},
                             .least_coverage = 0.95,
                             .working_set = {.attend = "best", .pool = 2.5, .until = 0.98, .next_keys = 4}});
         },
     .apply_budget = nullptr},
}};

}  // namespace

std::span<const RecipeRow> AllRecipes() { return kRows; }

}  // namespace cachette
