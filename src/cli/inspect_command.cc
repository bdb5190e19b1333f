// cachette inspect: a model, its tokenizer and what its cache costs here.

#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/flags.h"
#include "cli/print_json.h"
#include "engine/inspect.h"
#include "engine/report.h"

namespace cachette::cli {
namespace {

using Json = nlohmann::ordered_json;

const char* ScalingName(ops::RopeScaling scaling) {
  switch (scaling) {
    case ops::RopeScaling::kNone: return "none";
    case ops::RopeScaling::kLinear: return "linear";
    case ops::RopeScaling::kLlama3: return "llama3";
    case ops::RopeScaling::kYarn: return "yarn";
    case ops::RopeScaling::kDynamic: return "dynamic";
  }
  return "unknown";
}

Json RopeJson(const ops::RopeConfig& rope) {
  return {{"base", std::round(static_cast<double>(rope.base))},
          {"scaling", ScalingName(rope.scaling)},
          {"factor", rope.factor},
          {"rotary_dim", rope.rotary_dim}};
}

// {attention window -> number of layers}; 0: the whole context.
std::map<int32_t, int> LayersByWindow(const ModelConfig& config) {
  std::map<int32_t, int> counts;
  for (const LayerConfig& layer : config.layers) ++counts[layer.attention_window];
  return counts;
}

bool HasLocalRope(const ModelConfig& config) {
  for (const LayerConfig& layer : config.layers)
    if (layer.uses_local_rope) return true;
  return false;
}

Json ToJson(const ModelSummary& s) {
  const ModelConfig& c = s.config;
  Json out;
  out["file"] = s.path;
  out["name"] = c.name;
  out["family"] = c.family;
  out["parameters"] = s.num_parameters;
  out["weight_bytes"] = s.weight_bytes;
  for (const auto& [dtype, count] : s.tensors)
    out["tensors"][dtype] = {
        {"tensors", count.num_tensors}, {"elements", count.num_elements}, {"bytes", count.num_bytes}};
  out["layers"] = c.num_layers;
  out["hidden_dim"] = c.hidden_dim;
  out["ffn_dim"] = c.ffn_dim;
  out["q_heads"] = c.num_q_heads;
  out["kv_heads"] = c.num_kv_heads;
  out["head_dim"] = c.head_dim;
  out["vocab_size"] = c.vocab_size;
  out["context_tokens"] = c.context_tokens;
  out["rope"] = RopeJson(c.rope);
  if (HasLocalRope(c)) out["rope_local"] = RopeJson(c.rope_local);
  out["attention_windows"] = Json::array();
  for (const auto& [window, layers] : LayersByWindow(c))
    out["attention_windows"].push_back({{"tokens", window}, {"layers", layers}});
  if (s.tokenizer_error.empty()) {
    out["tokenizer"] = {{"kind", s.tokenizer_kind}, {"vocab_size", s.tokenizer_vocab_size},
                        {"bos", s.bos_id},          {"eos", s.eos_id},
                        {"pad", s.pad_id},          {"end", s.end_ids},
                        {"adds_bos", s.adds_bos}};
    out["chat_template"] = {{"status", s.chat_template}};
    if (!s.chat_template_why.empty()) out["chat_template"]["why"] = s.chat_template_why;
  } else {
    out["tokenizer"] = {{"error", s.tokenizer_error}};
  }
  out["kv_dtype"] = s.kv_dtype;
  out["kv_bytes_per_token"] = s.kv_bytes_per_token;
  out["tokens_in_memory"] = s.tokens_in_memory;
  out["machine"] = MachineJson(s.machine);
  return out;
}

void PrintRope(const char* label, const ops::RopeConfig& rope) {
  fmt::print("{:<14}base {:.0f}", label, rope.base);
  if (rope.scaling != ops::RopeScaling::kNone) fmt::print(", {} scaling by {}", ScalingName(rope.scaling), rope.factor);
  fmt::print("\n");
}

void PrintModel(const ModelSummary& s) {
  const ModelConfig& c = s.config;
  fmt::print("{:<14}{}\n", "file", s.path);
  fmt::print("{:<14}{} ({})\n", "model", c.name.empty() ? "unnamed" : c.name, c.family);
  fmt::print("{:<14}{:.1f} million in {}\n", "parameters", static_cast<double>(s.num_parameters) / 1e6,
             HumanBytes(s.weight_bytes));
  for (const auto& [dtype, count] : s.tensors)
    fmt::print("{:<14}{}: {} tensor{}, {}\n", "", dtype, count.num_tensors, count.num_tensors == 1 ? "" : "s",
               HumanBytes(count.num_bytes));
  fmt::print("{:<14}{} of hidden size {}, feed-forward {}\n", "layers", c.num_layers, c.hidden_dim, c.ffn_dim);
  fmt::print("{:<14}{} query heads, {} KV heads of {} elements\n", "attention", c.num_q_heads, c.num_kv_heads,
             c.head_dim);
  for (const auto& [window, layers] : LayersByWindow(c))
    if (window > 0) fmt::print("{:<14}{} layers see the last {} tokens only\n", "", layers, window);
  PrintRope("rope", c.rope);
  if (HasLocalRope(c)) PrintRope("rope, local", c.rope_local);
  fmt::print("{:<14}{} tokens\n", "context", c.context_tokens);
}

void PrintTokenizer(const ModelSummary& s) {
  if (!s.tokenizer_error.empty()) {
    fmt::print("{:<14}none: {}\n", "tokenizer", s.tokenizer_error);
    return;
  }
  fmt::print("{:<14}{}, {} tokens; bos {}{}, eos {}, ends {}\n", "tokenizer", s.tokenizer_kind, s.tokenizer_vocab_size,
             s.bos_id, s.adds_bos ? " (added)" : "", s.eos_id, fmt::join(s.end_ids, " "));
  fmt::print("{:<14}{}{}\n", "chat template", s.chat_template,
             s.chat_template_why.empty() ? "" : ": " + s.chat_template_why);
}

void Print(const ModelSummary& s) {
  PrintModel(s);
  PrintTokenizer(s);
  fmt::print("{:<14}{} per token of the full cache in {}; {} for the whole context\n", "KV cache",
             HumanBytes(s.kv_bytes_per_token), s.kv_dtype, HumanBytes(s.kv_bytes_per_token * s.config.context_tokens));
  fmt::print("{:<14}{}, {} cores, {} of {} available\n", "machine", s.machine.cpu, s.machine.available_cores,
             HumanBytes(s.machine.available_bytes), HumanBytes(s.machine.memory_bytes));
  const char* const verdict = s.tokens_in_memory >= s.config.context_tokens
                                  ? "the whole context fits"
                                  : "less than the context: choose a recipe that evicts, or a shorter input";
  fmt::print("{:<14}{} tokens of full cache beside the weights: {}\n", "fits", s.tokens_in_memory, verdict);
}

}  // namespace

void AddInspect(CLI::App& root, Command& chosen) {
  struct Arguments {
    EngineOptions engine;
    bool is_json = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* app = root.add_subcommand("inspect", "describe a model, its tokenizer and what its KV cache costs here");
  app->add_flag("--json", arguments->is_json, "print one JSON object");
  AddFlags(*app, arguments->engine, "Options", {{"model", "-m"}, {"fast_kv_bytes", "--kv-bytes"}},
           {"model", "kv_dtype", "fast_kv_bytes", "rope_scale"});
  app->callback([arguments, &chosen] {
    chosen = [arguments]() -> Result<int> {
      CACHETTE_TRY(const ModelSummary summary, InspectModel(arguments->engine));
      if (arguments->is_json) {
        PrintJson(ToJson(summary));
      } else {
        Print(summary);
      }
      return 0;
    };
  });
}

}  // namespace cachette::cli
