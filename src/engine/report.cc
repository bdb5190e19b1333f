#include "engine/report.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "engine/version.h"
#include "io/sha256.h"

namespace cachette {
namespace {

using Json = nlohmann::ordered_json;

void AddOptions(const std::vector<OptionInfo>& options, Json& out) {
  for (const OptionInfo& option : options)
    std::visit([&](const auto& value) { out[option.name] = value; }, option.value);
}

// A rate or duration exists once it took time.
Json OrNull(bool exists, double value) { return exists ? Json(value) : Json(nullptr); }

// The last two digits of a context do not matter to a reader.
std::string HumanRate(double tokens_per_s) {
  return tokens_per_s >= 100 ? fmt::format("{:.0f} tokens/s", tokens_per_s)
                             : fmt::format("{:.1f} tokens/s", tokens_per_s);
}

// Of one entry in 16 bit: what byte figures are compared with.
int64_t FullEntryBytes(const Engine& engine) {
  return static_cast<int64_t>(ops::KvFormat{.dtype = Dtype::kF16, .head_dim = engine.config().head_dim}.entry_bytes());
}

std::string FileName(const Engine& engine) {
  const std::string& path = engine.model_path();
  return path.starts_with("synthetic:") ? path : std::filesystem::path(path).filename().string();
}

}  // namespace

std::string HumanBytes(int64_t num_bytes) {
  constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB"};
  if (num_bytes < 1024) return fmt::format("{} B", num_bytes);
  double value = static_cast<double>(num_bytes) / 1024;
  size_t unit = 0;
  for (; value >= 1023.5 && unit + 1 < std::size(kUnits); ++unit) value /= 1024;
  const int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f} {}", value, decimals, kUnits[unit]);
}

Json OptionsJson(const Engine& engine, const Recipe& recipe, const GenerateOptions& generate) {
  EngineOptions own = engine.options();
  own.model = engine.model_path();
  own.fast_kv_bytes = static_cast<int64_t>(engine.kv_tier().limit_bytes());
  GenerateOptions generation = generate;
  std::vector<OptionInfo> list;
  ListOptions(own, "", list);
  ListOptions(generation, "", list);
  Json out = Json::object();
  AddOptions(list, out);
  out["lora"] = own.loras;
  out["recipe"] = recipe.row().name;
  AddOptions(recipe.Options(), out);
  return out;
}

Result<Json> ModelJson(const Engine& engine) {
  Json out;
  out["file"] = engine.weights_file().empty() ? engine.model_path() : engine.weights_file();
  out["sha256"] = nullptr;
  if (!engine.weights_file().empty()) {
    CACHETTE_TRY(out["sha256"], RememberedSha256OfFile(engine.weights_file(), UserCacheFolder()));
  }
  out["name"] = engine.config().name;
  out["family"] = engine.config().family;
  return out;
}

Json MachineJson(const Machine& machine) {
  return {{"cpu", machine.cpu},
          {"available_cores", machine.available_cores},
          {"memory_bytes", machine.memory_bytes},
          {"available_bytes", machine.available_bytes}};
}

Json BuildJson() {
  return {{"version", kVersion}, {"commit", kCommit}, {"build_type", kBuildType}, {"description", DescribeBuild()}};
}

Json TiersJson(const Engine& engine) {
  const Tier& tier = engine.kv_tier();
  Json out;
  out[TierName(tier.kind())] = {
      {"bytes_now", tier.owned_bytes()}, {"bytes_peak", tier.peak_bytes()}, {"bytes_limit", tier.limit_bytes()}};
  if (const RecordStore* const slow = engine.slow_tier(); slow != nullptr) {
    const bool is_limited = slow->limit_bytes() != RecordStore::kUnlimited;
    out[TierName(slow->kind())] = {{"bytes_now", slow->owned_bytes()},
                                   {"bytes_peak", slow->peak_bytes()},
                                   {"bytes_limit", is_limited ? Json(slow->limit_bytes()) : Json(nullptr)},
                                   {"reader", slow->reader_name()},
                                   {"bytes_written", slow->traffic().bytes_written},
                                   {"bytes_read", slow->traffic().bytes_read}};
  }
  return out;
}

Json RetrievalJson(const RetrievalStats& stats) {
  const bool has_steps = stats.num_steps > 0;
  const bool has_choices = stats.num_layer_steps > 0;
  const auto share = [&](double seconds) { return OrNull(stats.decode_seconds > 0, seconds / stats.decode_seconds); };
  const double parts = stats.select_seconds + stats.recall_seconds + stats.attention_seconds + stats.close_seconds;
  return {{"retrievals_per_token", OrNull(has_choices, stats.retrievals_per_token())},
          {"entries_copied_per_token", OrNull(has_choices, stats.entries_copied_per_token())},
          {"entries_copied_after_fill", OrNull(has_choices, stats.entries_copied_after_fill())},
          {"entries_ahead_per_token", OrNull(has_choices, stats.entries_ahead_per_token())},
          {"ahead_hit_rate", OrNull(stats.entries_ahead > 0, stats.ahead_hit_rate())},
          {"entries_left_out", stats.entries_left_out},
          {"bytes_recalled_per_token", OrNull(has_steps, stats.bytes_recalled_per_token())},
          {"reuse_share", OrNull(stats.entries_selected > 0, stats.reuse_share())},
          {"oracle_hit_rate", OrNull(stats.oracle_read > 0, stats.oracle_hit_rate())},
          {"time_share",
           {{"select", share(stats.select_seconds)},
            {"recall", share(stats.recall_seconds)},
            {"attention", share(stats.attention_seconds)},
            {"close", share(stats.close_seconds)},
            {"rest", share(stats.decode_seconds - parts)}}},
          {"build_s", stats.build_seconds},
          {"decode_s", stats.decode_seconds},
          {"steps", stats.num_steps},
          {"units", stats.units_made},
          {"resident_peak_bytes", stats.resident_peak_bytes}};
}

Result<Json> ReportJson(const Engine& engine, const Session& session, const GenerateOptions& options,
                        const RunReport& report) {
  const Generation& g = report.generation;
  const bool has_first = !g.tokens.empty();
  const bool has_second = g.tokens.size() > 1;
  const Ledger& ledger = session.cache().ledger();
  Json out;
  out["text"] = report.text;
  out["stop"] = StopReasonName(g.stop);
  out["prompt_tokens"] = g.prompt_tokens;
  out["generated_tokens"] = g.tokens.size();
  out["ttft_s"] = OrNull(has_first, g.ttft_seconds);
  out["tpot_s"] = OrNull(has_second, g.tpot_seconds());
  out["prefill_tokens_per_s"] = OrNull(g.prompt_tokens > 0, g.prefill_tokens_per_s());
  out["decode_tokens_per_s"] = OrNull(has_second, g.decode_tokens_per_s());
  out["startup_s"] = OrNull(has_first && report.startup_seconds > 0, report.startup_seconds);
  out["footprint"] = ledger.Footprint();
  out["peak"] = ledger.Peak();
  out["transient_peak"] = ledger.TransientPeak();
  const int64_t full_bytes = FullEntryBytes(engine);
  out["byte_footprint"] = ledger.ByteFootprint(full_bytes);
  out["byte_peak"] = ledger.BytePeak(full_bytes);
  out["session_tokens"] = ledger.num_tokens();
  out["tiers"] = TiersJson(engine);
  const auto add_bytes = [&](TierKind tier) {
    out["tiers"][TierName(tier)]["byte_footprint"] = ledger.ByteFootprint(tier, full_bytes);
    out["tiers"][TierName(tier)]["byte_peak"] = ledger.BytePeak(tier, full_bytes);
  };
  add_bytes(ledger.tier());
  if (session.cache().has_units()) add_bytes(session.cache().slow()->kind());
  out["retrieval"] = session.retrieval() == nullptr ? Json(nullptr) : RetrievalJson(session.retrieval()->stats());
  out["peak_resident_bytes"] = PeakResidentBytes();
  out["recipe"] = session.recipe().row().name;
  out["options"] = OptionsJson(engine, session.recipe(), options);
  CACHETTE_TRY(out["model"], ModelJson(engine));
  out["machine"] = MachineJson(DescribeMachine());
  out["build"] = BuildJson();
  return out;
}

std::string DescribeRun(const Engine& engine, const Recipe& recipe) {
  std::string options;
  for (const OptionInfo& option : recipe.Options()) {
    const std::string value = std::visit([](const auto& v) { return fmt::format("{}", v); }, option.value);
    options += fmt::format("{}{}={}", options.empty() ? "" : ", ", option.name, value);
  }
  return fmt::format("model {}, backend {} with {} thread{}, compute {}, kv {}, recipe {} ({})", FileName(engine),
                     engine.options().backend, engine.options().threads, engine.options().threads == 1 ? "" : "s",
                     engine.options().compute, engine.options().kv_dtype, recipe.row().name, options);
}

std::string SummaryText(const Engine& engine, const Session& session, const Generation& generation) {
  const Ledger& ledger = session.cache().ledger();
  std::string text = fmt::format("prompt     {} tokens", generation.prompt_tokens);
  if (generation.prompt_tokens > 0)
    text += fmt::format(" in {:.2f} s, {}", generation.prefill_seconds, HumanRate(generation.prefill_tokens_per_s()));
  text += fmt::format("\ngenerated  {} tokens", generation.tokens.size());
  if (!generation.tokens.empty()) text += fmt::format(", first after {:.2f} s", generation.ttft_seconds);
  if (generation.tokens.size() > 1) text += fmt::format(", then {}", HumanRate(generation.decode_tokens_per_s()));
  text += fmt::format(" (stopped: {})", StopReasonName(generation.stop));
  const Tier& tier = engine.kv_tier();
  text +=
      fmt::format("\nKV cache   footprint {:.3f}, peak {:.3f} of the full cache", ledger.Footprint(), ledger.Peak());
  if (ledger.TransientPeakEntries() > ledger.PeakEntries())
    text += fmt::format(", {:.3f} with transient entries", ledger.TransientPeak());
  const int64_t full_bytes = FullEntryBytes(engine);
  const double byte_footprint = ledger.ByteFootprint(full_bytes);
  if (session.cache().has_units())
    text += fmt::format(", {:.3f} of its bytes in 16 bit ({:.3f} in the fast tier)", byte_footprint,
                        ledger.ByteFootprint(ledger.tier(), full_bytes));
  else if (byte_footprint != ledger.Footprint())
    text += fmt::format(", {:.3f} of its bytes in 16 bit", byte_footprint);
  text += fmt::format("; {} now, {} at most", HumanBytes(static_cast<int64_t>(tier.owned_bytes())),
                      HumanBytes(static_cast<int64_t>(tier.peak_bytes())));
  if (session.retrieval() == nullptr) return text;
  const RetrievalStats& stats = session.retrieval()->stats();
  const RecordStore& slow = *session.cache().slow();
  text += fmt::format(
      "\nretrieval  {:.2f} per token and layer, {:.1f} entries copied per token and KV head, working set "
      "{}, slow tier {} {}",
      stats.retrievals_per_token(), stats.entries_copied_per_token(), HumanBytes(stats.resident_peak_bytes),
      TierName(slow.kind()), HumanBytes(static_cast<int64_t>(slow.owned_bytes())));
  if (stats.entries_ahead > 0)
    text += fmt::format("\n           {:.1f} of them read ahead, of which {:.0f} % were wanted",
                        stats.entries_ahead_per_token(), 100.0 * stats.ahead_hit_rate());
  if (stats.entries_left_out > 0)
    text +=
        fmt::format("\n           {:.0f} % of the entries chosen left out: the fast tier had no room for their blocks",
                    100.0 * static_cast<double>(stats.entries_left_out) /
                        static_cast<double>(stats.entries_left_out + stats.entries_selected));
  return text;
}

}  // namespace cachette
