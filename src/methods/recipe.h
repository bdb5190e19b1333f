#pragma once
// A recipe: parts put together under a published name. Rows live in recipes.cc; nothing branches on a name.

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/options.h"
#include "base/result.h"
#include "methods/part.h"
#include "methods/protects/sink_window.h"
#include "methods/retrieval/retrieval_part.h"
#include "methods/retrieval/working_set.h"

namespace cachette {

// Options that belong to no single part.
struct RecipeOptions {
  int64_t budget = 0;
  double keep_fraction = 0.0;
  int64_t keep_extra = 0;
  std::string positions = "original";
  std::string codec = "plain";
  int64_t codec_residual = 128;

  void VisitOptions(OptionVisitor& v) {
    v(budget, "budget", "most entries a KV head keeps, on average over the heads; 0: as the other options say");
    v(keep_fraction, "keep_fraction", "fraction of the prompt's entries a KV head keeps, in (0, 1]; 0: as budget says");
    v(keep_extra, "keep_extra", "entries kept beyond keep_fraction of each prefill chunk (or of the prompt)");
    v(positions, "positions", "what RoPE sees: original (the token's) or cache (the entry's index in the list)");
    v(codec, "codec",
      "how kept entries are stored once they are old: plain, or kivi8, kivi4, kivi2 (bits per element)");
    v(codec_residual, "codec_residual", "newest entries of a KV head that stay plain, and up to 63 more");
  }
};

// The parts of a recipe that retrieves; all present.
struct RetrievalParts {
  std::unique_ptr<SinkWindow> protect;  // what never leaves the fast tier
  std::unique_ptr<Choice<UnitBuilder>> units;
  std::unique_ptr<Choice<UnitBuilder>> output_units;
  std::unique_ptr<Choice<UnitIndex>> index;
  std::unique_ptr<Choice<RetrievalTrigger>> trigger;
  std::unique_ptr<WorkingSet> working_set;
};

// The parts of one recipe; absent ones are null (no trigger: nothing is ever evicted).
struct RecipeParts {
  std::unique_ptr<Trigger> trigger;
  std::unique_ptr<Protect> protect;
  std::unique_ptr<Allocator> allocator;
  std::unique_ptr<Scorer> scorer;
  std::unique_ptr<Select> select;
  std::unique_ptr<Fate> fate;
  std::unique_ptr<RetrievalParts> retrieval = nullptr;
};

// What a user limits a recipe by when no number is given. Recipes without a scorer keep what their parts say.
struct DefaultPlaces {
  double keep_fraction = 0.0;
  int64_t budget = 0;
};

// One row of the table.
struct RecipeRow {
  const char* name;
  const char* paper;    // arXiv identifier, or "-"
  const char* summary;  // one line: what is kept
  const char* needs;    // what of the forward pass it looks at
  const char* frees;    // what is freed and when
  const char* deviations;
  bool allows_cache_positions;
  DefaultPlaces places;
  RecipeParts (*make_parts)();
  // Turns --budget into options of the parts; null where entries compete for the budget, and where there is none.
  Result<void> (*apply_budget)(RecipeParts&, int64_t budget);

  bool takes_budget(const RecipeParts& parts) const {
    return apply_budget != nullptr || parts.scorer != nullptr || parts.retrieval != nullptr;
  }
};

std::span<const RecipeRow> AllRecipes();

// Immutable once prepared; sequences run it through a RecipeRun each.
class Recipe {
 public:
  // Builds the named recipe. options: "protect.sinks" -> "4", or the last part of the name alone where that is unique;
  // '-' and '_' are the same. Errors: kInvalidArgument with the nearest name.
  static Result<Recipe> Create(std::string_view name, const std::map<std::string, std::string>& options);

  // Checks the options against a cache's shape and loads what they name. Call once, before the first pass.
  Result<void> Prepare(const CacheShape& shape);

  const RecipeRow& row() const { return *row_; }
  const RecipeOptions& options() const { return options_; }
  const RecipeParts& parts() const { return parts_; }
  RopePositions rope_positions() const;
  // KIVI (arXiv:2402.02750) on what the recipe keeps: nothing is evicted once it is coded. Where the paper leaves the
  // newest n mod r keys and exactly the last r values in f16, here both leave r to r + 63.
  KvCodec codec() const;
  bool takes_budget() const { return row_->takes_budget(parts_); }
  bool has_running_score() const { return parts_.scorer != nullptr && parts_.scorer->has_running_score(); }
  int64_t num_patch_tokens() const { return parts_.trigger == nullptr ? 0 : parts_.trigger->num_patch_tokens(); }
  bool retrieves() const { return parts_.retrieval != nullptr; }
  // Of a recipe that retrieves: blocks of sinks, entries of the recent window, and what the cache has to know.
  int64_t num_sink_blocks() const { return parts_.retrieval->protect->num_sinks / ops::kBlockTokens; }
  int64_t recent_window() const { return parts_.retrieval->protect->recent_window; }
  UnitShape unit_shape() const;
  // Blocks of resident units of a KV head at which a retrieval drops idle ones, and those that it can always have: the
  // pool's and the budget's entries in full blocks, or the longest unit.
  int64_t pool_blocks() const;
  int64_t least_blocks() const;
  std::vector<OptionInfo> Options() const;  // all in force, recipe's own first
  // Part kind and name, in table order: {"trigger", "every_pass"}, ...
  std::vector<std::pair<std::string, std::string>> PartNames() const;

 private:
  Recipe() = default;
  std::vector<std::pair<std::string, Part*>> PartList() const;
  Result<void> SettlePlaces();
  Result<void> CheckCodec() const;
  Result<void> SettleRetrieval();

  const RecipeRow* row_ = nullptr;
  RecipeOptions options_;
  RecipeParts parts_;
};

}  // namespace cachette
