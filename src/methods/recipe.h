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

namespace cachette {

// Options that belong to no single part.
struct RecipeOptions {
  int64_t budget = 0;
  std::string positions = "original";

  void VisitOptions(OptionVisitor& v) {
    v(budget, "budget", "most entries a KV head holds at a decode step; 0: as the parts' own options say");
    v(positions, "positions", "what RoPE sees: original (the token's) or cache (the entry's index in the list)");
  }
};

// The parts of one recipe; absent ones are null (no trigger: nothing is ever evicted).
struct RecipeParts {
  std::unique_ptr<Trigger> trigger;
  std::unique_ptr<Protect> protect;
  std::unique_ptr<Allocator> allocator;
  std::unique_ptr<Scorer> scorer;
  std::unique_ptr<Fate> fate;
};

// One row of the table.
struct RecipeRow {
  const char* name;
  const char* paper;    // arXiv identifier, or "-"
  const char* summary;  // one line: what is kept
  const char* frees;    // what is freed and when
  const char* deviations;
  bool allows_cache_positions;
  RecipeParts (*make_parts)();
  // Turns --budget into the parts' options; null: the recipe has no budget.
  Result<void> (*apply_budget)(RecipeParts&, int64_t budget);
};

std::span<const RecipeRow> AllRecipes();

class Recipe {
 public:
  // Builds the named recipe. options: "protect.sinks" -> "4", or the last part of the name alone where that is unique;
  // '-' and '_' are the same. Errors: kInvalidArgument with the nearest name.
  static Result<Recipe> Create(std::string_view name, const std::map<std::string, std::string>& options);

  // Checks the options against a cache's shape and loads what they name. Call once, before the first pass.
  Result<void> Prepare(const CacheShape& shape);

  // Evicts what the recipe does not keep, before a pass of the sequence. Thread-safe after Prepare.
  void BeforePass(Context& cx, SequenceCache& cache, const PassInfo& pass) const;

  const RecipeRow& row() const { return *row_; }
  RopePositions rope_positions() const;
  std::vector<OptionInfo> Options() const;  // all in force, recipe's own first
  // Part kind and name, in table order: {"trigger", "every_pass"}, ...
  std::vector<std::pair<std::string, std::string>> PartNames() const;

 private:
  Recipe() = default;
  std::vector<std::pair<std::string, Part*>> PartList() const;
  void ApplyToHead(Context& cx, SequenceCache& cache, int layer, int kv_head) const;

  const RecipeRow* row_ = nullptr;
  RecipeOptions options_;
  RecipeParts parts_;
};

}  // namespace cachette
