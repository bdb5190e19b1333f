#include "methods/recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/nearest.h"
#include "methods/selects/top_k.h"

namespace cachette {
namespace {

Result<const RecipeRow*> FindRow(std::string_view name) {
  std::vector<std::string> names;
  for (const RecipeRow& row : AllRecipes()) {
    if (name == row.name) return &row;
    names.emplace_back(row.name);
  }
  const std::string nearest = NearestName(name, names);
  return Fail(Error::kInvalidArgument,
              fmt::format("unknown recipe '{}' ('cachette recipes' lists them all){}", name,
                          nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest)));
}

std::string_view LastComponent(std::string_view name) { return name.substr(name.rfind('.') + 1); }

// The declared option that a user's name means: itself, or the only one that ends in it.
Result<const OptionInfo*> FindOption(std::string wanted, std::span<const OptionInfo> declared, const char* recipe) {
  std::replace(wanted.begin(), wanted.end(), '-', '_');
  const OptionInfo* by_ending = nullptr;
  std::vector<std::string> names;
  for (const OptionInfo& info : declared) {
    if (info.name == wanted) return &info;
    if (LastComponent(info.name) == wanted) {
      if (by_ending != nullptr)
        return Fail(Error::kInvalidArgument, fmt::format("option '{}' of recipe {} is ambiguous: {} or {}", wanted,
                                                         recipe, by_ending->name, info.name));
      by_ending = &info;
    }
    names.push_back(info.name);
    names.emplace_back(LastComponent(info.name));
  }
  if (by_ending != nullptr) return by_ending;
  const std::string nearest = NearestName(wanted, names);
  return Fail(Error::kInvalidArgument,
              fmt::format("recipe {} has no option '{}' ('cachette recipes {}' lists its options){}", recipe, wanted,
                          recipe, nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest)));
}

}  // namespace

Result<Recipe> Recipe::Create(std::string_view name, const std::map<std::string, std::string>& options) {
  Recipe recipe;
  CACHETTE_TRY(recipe.row_, FindRow(name));
  recipe.parts_ = recipe.row_->make_parts();
  if (recipe.parts_.fate != nullptr && recipe.parts_.select == nullptr) recipe.parts_.select = std::make_unique<TopK>();
  const std::vector<OptionInfo> declared = recipe.Options();
  std::map<std::string, std::string> given;  // declared name -> name as the user wrote it
  for (const auto& [key, text] : options) {
    CACHETTE_TRY(const OptionInfo* info, FindOption(key, declared, recipe.row_->name));
    if (const auto [earlier, is_new] = given.emplace(info->name, key); !is_new)
      return Fail(Error::kInvalidArgument,
                  fmt::format("option {} is given twice, as '{}' and '{}'", info->name, earlier->second, key));
    CACHETTE_TRY(const OptionValue value, ParseOption(info->name, text, info->value));
    bool is_set = SetOption(recipe.options_, info->name, value);
    for (const auto& [kind, part] : recipe.PartList())
      if (!is_set && info->name.starts_with(kind + "."))
        is_set = SetOption(*part, info->name.substr(kind.size() + 1), value);
    CACHETTE_CHECK(is_set);
  }
  if (recipe.options_.budget > 0 && recipe.row_->apply_budget != nullptr) {
    const std::vector<OptionInfo> before = recipe.Options();
    CACHETTE_TRY(recipe.row_->apply_budget(recipe.parts_, recipe.options_.budget));
    const std::vector<OptionInfo> after = recipe.Options();
    for (size_t i = 0; i < after.size(); ++i)
      if (after[i].value != before[i].value && given.contains(after[i].name))
        return Fail(Error::kInvalidArgument,
                    fmt::format("budget {} entries contradicts option {}; leave one of them out",
                                recipe.options_.budget, after[i].name));
  }
  CACHETTE_TRY(recipe.SettlePlaces());
  if (recipe.options_.positions != "original" && recipe.options_.positions != "cache")
    return Fail(Error::kInvalidArgument,
                fmt::format("option positions: '{}' is neither original nor cache", recipe.options_.positions));
  if (recipe.options_.positions == "cache" && !recipe.row_->allows_cache_positions)
    return Fail(Error::kInvalidArgument,
                fmt::format("recipe {} cannot use positions=cache: its KV heads differ in length or keep every entry",
                            recipe.row_->name));
  CACHETTE_TRY(recipe.CheckCodec());
  return recipe;
}

Result<void> Recipe::Prepare(const CacheShape& shape) {
  for (const auto& [kind, part] : PartList()) CACHETTE_TRY(part->Prepare(shape));
  return Ok();
}

RopePositions Recipe::rope_positions() const {
  return options_.positions == "cache" ? RopePositions::kCacheIndex : RopePositions::kOriginal;
}

KvCodec Recipe::codec() const {
  const int bits = options_.codec == "kivi8" ? 8 : options_.codec == "kivi4" ? 4 : options_.codec == "kivi2" ? 2 : 0;
  return {bits, options_.codec_residual};
}

// Coded entries can neither be evicted nor scored again.
Result<void> Recipe::CheckCodec() const {
  if (options_.codec == "plain") return Ok();
  const std::string& name = options_.codec;
  if (codec().bits == 0)
    return Fail(Error::kInvalidArgument,
                fmt::format("option codec: '{}' is none of plain, kivi8, kivi4 and kivi2", name));
  if (options_.codec_residual < 0)
    return Fail(Error::kInvalidArgument, fmt::format("codec_residual {} must be 0 or more", options_.codec_residual));
  const auto refuse = [&](std::string_view why) {
    return Fail(Error::kInvalidArgument,
                fmt::format("codec {} cannot rewrite coded entries, and recipe {} {}", name, row_->name, why));
  };
  if (options_.positions == "cache") return refuse("rotates keys again with positions=cache; use positions=original");
  if (retrieves()) return refuse("moves them between tiers; use codec=plain");
  const Trigger* trigger = parts_.trigger.get();
  if (trigger == nullptr) return Ok();
  if (parts_.scorer == nullptr) return refuse("evicts before every pass; use codec=plain or another recipe");
  if (trigger->acts_in_decode()) return refuse("evicts during generation; set trigger.decode_every=0");
  if (has_running_score()) return refuse("adds to the scores of all entries at every pass; use codec=plain");
  if (trigger->acts_per_chunk() && options_.budget > 0)
    return refuse("lets all entries compete after each chunk when given a budget; use keep_fraction or post_fill");
  return Ok();
}

std::vector<std::pair<std::string, Part*>> Recipe::PartList() const {
  std::vector<std::pair<std::string, Part*>> list;
  const auto add = [&](const char* kind, Part* part) {
    if (part != nullptr) list.emplace_back(kind, part);
  };
  add("trigger", parts_.trigger.get());
  add("protect", parts_.protect.get());
  add("allocator", parts_.allocator.get());
  add("scorer", parts_.scorer.get());
  add("select", parts_.select.get());
  add("fate", parts_.fate.get());
  if (parts_.retrieval == nullptr) return list;
  add("protect", parts_.retrieval->protect.get());
  add("units", parts_.retrieval->units.get());
  add("output_units", parts_.retrieval->output_units.get());
  add("index", parts_.retrieval->index.get());
  add("trigger", parts_.retrieval->trigger.get());
  add("working_set", parts_.retrieval->working_set.get());
  return list;
}

std::vector<OptionInfo> Recipe::Options() const {
  std::vector<OptionInfo> list;
  RecipeOptions own = options_;
  ListOptions(own, "", list);
  for (const auto& [kind, part] : PartList()) ListOptions(*part, kind + ".", list);
  return list;
}

std::vector<std::pair<std::string, std::string>> Recipe::PartNames() const {
  std::vector<std::pair<std::string, std::string>> names;
  for (const auto& [kind, part] : PartList()) names.emplace_back(kind, part->name());
  return names;
}

// Checks budget and keep_fraction, and puts the row's default where neither is given.
Result<void> Recipe::SettlePlaces() {
  const char* const name = row_->name;
  const int64_t &budget = options_.budget, &keep_extra = options_.keep_extra;
  const double& keep_fraction = options_.keep_fraction;
  if (budget < 0)
    return Fail(Error::kInvalidArgument, fmt::format("budget {} entries must be 0 (unset) or more", budget));
  if (budget > 0 && !takes_budget())
    return Fail(Error::kInvalidArgument, fmt::format("recipe {} keeps every entry and takes no budget", name));
  if (!(keep_fraction >= 0.0 && keep_fraction <= 1.0))
    return Fail(Error::kInvalidArgument,
                fmt::format("keep_fraction {} is outside (0, 1]: it is the fraction that stays", keep_fraction));
  if (keep_extra < 0) return Fail(Error::kInvalidArgument, fmt::format("keep_extra {} must be 0 or more", keep_extra));
  if (retrieves()) CACHETTE_TRY(SettleRetrieval());
  if (parts_.scorer == nullptr) {
    if (keep_fraction > 0.0 || keep_extra > 0)
      return Fail(Error::kInvalidArgument,
                  fmt::format("recipe {} scores no entries and takes no keep_fraction or keep_extra", name));
    return Ok();
  }
  if (budget > 0 && (keep_fraction > 0.0 || keep_extra > 0))
    return Fail(Error::kInvalidArgument,
                fmt::format("budget {} and keep_fraction {} (+ {}) exclude each other; leave one of them out", budget,
                            keep_fraction, keep_extra));
  if (budget == 0 && keep_fraction == 0.0) {
    if (keep_extra > 0 && row_->places.budget > 0)
      return Fail(Error::kInvalidArgument,
                  fmt::format("keep_extra {} adds to keep_fraction, and recipe {} has a budget of {} unless told; give "
                              "keep_fraction too",
                              keep_extra, name, row_->places.budget));
    options_.budget = row_->places.budget;
    options_.keep_fraction = row_->places.keep_fraction;
  }
  const int64_t least = (parts_.protect == nullptr ? 0 : parts_.protect->least_entries()) +
                        (parts_.scorer->keeps_query_window() ? parts_.scorer->query_window() : 0);
  if (options_.budget > 0 && options_.budget <= least)
    return Fail(Error::kInvalidArgument,
                fmt::format("budget {} entries leaves no place beside the {} that recipe {} always keeps; raise "
                            "--budget or lower the sinks, the recent window or the scorer's window",
                            options_.budget, least, name));
  return Ok();
}

// Checks what the parts of a retrieving recipe ask of each other.
Result<void> Recipe::SettleRetrieval() {
  const RetrievalParts& parts = *parts_.retrieval;
  if (options_.budget == 0) options_.budget = row_->places.budget;
  if (options_.budget < ops::kBlockTokens)
    return Fail(Error::kInvalidArgument, fmt::format("budget {} entries is less than one block of {}; raise --budget",
                                                     options_.budget, ops::kBlockTokens));
  if (parts.protect->num_sinks % ops::kBlockTokens != 0)
    return Fail(Error::kInvalidArgument, fmt::format("protect.sinks {} must be a multiple of {} with recipe {}",
                                                     parts.protect->num_sinks, ops::kBlockTokens, row_->name));
  CACHETTE_TRY(parts.units->Check());
  CACHETTE_TRY(parts.output_units->Check());
  CACHETTE_TRY(parts.index->Check());
  return parts.trigger->Check();
}

UnitShape Recipe::unit_shape() const {
  if (!retrieves()) return {};
  const RetrievalParts& parts = *parts_.retrieval;
  return {.num_index_vectors = ops::NumIndexVectors((*parts.index)->bound()),
          .whole_layers = std::vector<bool>(static_cast<size_t>(parts.working_set->dense_layers), true),
          // What is left of a prompt is less than a page; a stream may hold a block beyond what its entries need.
          .local_entries = parts.protect->least_entries() +
                           std::max<int64_t>((*parts.output_units)->most_open_entries(), ops::kBlockTokens - 1) + 1 +
                           ops::kBlockTokens,
          .least_blocks = least_blocks()};
}

int64_t Recipe::least_blocks() const {
  const RetrievalParts& parts = *parts_.retrieval;
  const int64_t longest = std::max((*parts.units)->longest_unit(), (*parts.output_units)->longest_unit());
  return ops::BlocksFor(std::max(options_.budget, longest));
}

int64_t Recipe::pool_blocks() const {
  const double entries = parts_.retrieval->working_set->pool * static_cast<double>(options_.budget);
  return std::max(least_blocks(), static_cast<int64_t>(std::ceil(entries / ops::kBlockTokens)));
}

}  // namespace cachette
