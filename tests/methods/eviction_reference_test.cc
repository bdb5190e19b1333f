// Which entries every scored recipe keeps, against a reference in double precision: over a random grid, and on the
// attention of a real model.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/find_model.h"
#include "methods/pass_driver.h"
#include "methods/reference_eviction.h"
#include "ops/attention/kv_store.h"

namespace cachette {
namespace {

using reference::Method;
using reference::Settings;
using Options = std::map<std::string, std::string>;

// Queries and keys of a sequence, as one pass or another brings them.
struct Recording {
  reference::Shape shape;
  int64_t num_tokens = 0;
  std::vector<LayerRows> layers;  // [num_layers], rows [num_tokens]
};

// A recipe with options, and the same in the reference's words.
struct Variant {
  const char* recipe;
  Options options;
  Settings settings;
  int64_t patch = 0;
};

struct Plan {
  int64_t num_prompt = 0, num_output = 0, chunk = 0;
};

struct Tally {
  int64_t num_choices = 0, num_near_ties = 0;
};

void AppendRows(const std::vector<float>& from, int64_t width, int64_t begin, int64_t end, std::vector<float>& to) {
  to.insert(to.end(), from.begin() + begin * width, from.begin() + end * width);
}

// Rows of tokens [begin, begin + pass.num_tokens), then those of the prompt's last tokens.
std::vector<LayerRows> RowsOf(const Recording& recording, const PassInfo& pass, int64_t num_prompt) {
  const int64_t k_width = recording.shape.num_kv_heads * recording.shape.head_dim;
  std::vector<LayerRows> layers(recording.layers.size());
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    const LayerRows& from = recording.layers[layer];
    const auto append = [&](int64_t begin, int64_t end) {
      AppendRows(from.q, k_width * recording.shape.group_size, begin, end, layers[layer].q);
      AppendRows(from.keys, k_width, begin, end, layers[layer].keys);
    };
    append(pass.first_token, pass.first_token + pass.num_tokens);
    append(num_prompt - pass.num_transient, num_prompt);
  }
  return layers;
}

std::vector<std::vector<int64_t>> KeptPositions(const SequenceCache& cache, int layer) {
  std::vector<std::vector<int64_t>> kept(static_cast<size_t>(cache.shape().num_kv_heads));
  for (int head = 0; head < cache.shape().num_kv_heads; ++head) {
    const HeadStream& stream = cache.stream(layer, head);
    for (int64_t slot = 0; slot < stream.num_slots(); ++slot)
      if (stream.IsLive(slot)) kept[static_cast<size_t>(head)].push_back(stream.positions()[static_cast<size_t>(slot)]);
  }
  return kept;
}

std::string Describe(const Variant& variant, const Recording& recording, const Plan& plan) {
  std::string text = fmt::format("{} prompt {} output {} chunk {}, {} layers {} KV heads group {}:", variant.recipe,
                                 plan.num_prompt, plan.num_output, plan.chunk, recording.shape.num_layers,
                                 recording.shape.num_kv_heads, recording.shape.group_size);
  for (const auto& [name, value] : variant.options) text += fmt::format(" {}={}", name, value);
  return text;
}

// Every pass of the plan through the recipe and the reference. all_kept [num_layers][num_kv_heads], at the end.
Tally ExpectKeptAsByReference(const Variant& variant, const Recording& recording, const Plan& plan, Dtype dtype,
                              const Backend& backend,
                              std::vector<std::vector<std::vector<int64_t>>>* all_kept = nullptr) {
  SCOPED_TRACE(Describe(variant, recording, plan) + " on " + backend.name);
  const reference::Shape& s = recording.shape;
  auto recipe = Recipe::Create(variant.recipe, variant.options);
  EXPECT_TRUE(recipe.ok()) << recipe.failure().message;
  if (!recipe.ok()) return {};
  const CacheShape shape{.num_layers = s.num_layers,
                         .num_kv_heads = s.num_kv_heads,
                         .format = {dtype, s.head_dim},
                         .has_scores = recipe->has_running_score()};
  const auto prepared = recipe->Prepare(shape);
  EXPECT_TRUE(prepared.ok()) << prepared.failure().message;
  Tier tier(TierKind::kHost);
  SequenceCache cache(tier, shape);
  const SequenceCache* sequence = &cache;
  PassDriver driver(*std::move(recipe), cache, backend);
  reference::Eviction eviction(variant.settings, s);
  for (int64_t begin = 0; begin < plan.num_prompt + plan.num_output;) {
    PassInfo pass{.phase = Phase::kDecode, .first_token = begin, .num_tokens = 1};
    if (begin < plan.num_prompt) {
      pass.phase = Phase::kPrefill;
      pass.num_tokens = std::min(plan.chunk, plan.num_prompt - begin);
      pass.is_last_prefill_chunk = begin + pass.num_tokens == plan.num_prompt;
      if (!pass.is_last_prefill_chunk) pass.num_transient = std::min(variant.patch, plan.num_prompt);
    }
    const std::vector<LayerRows> rows = RowsOf(recording, pass, plan.num_prompt);
    driver.Pass(pass, rows, s.group_size, static_cast<float>(s.scale));
    for (int layer = 0; layer < s.num_layers; ++layer) {
      const LayerRows& own = rows[static_cast<size_t>(layer)];
      const std::string wrong = eviction.Check(pass, layer, own.q.data(), own.keys.data(), KeptPositions(cache, layer));
      EXPECT_EQ(wrong, "") << "layer " << layer << " after token " << begin + pass.num_tokens;
      if (!wrong.empty()) return {};
    }
    EXPECT_THAT(CheckInvariants(tier, {&sequence, 1}), ::testing::IsEmpty());
    begin += pass.num_tokens;
  }
  if (all_kept != nullptr) {
    all_kept->clear();
    for (int layer = 0; layer < s.num_layers; ++layer) all_kept->push_back(KeptPositions(cache, layer));
  }
  return {eviction.num_choices(), eviction.num_near_ties()};
}

// ---- Variants ----

// The smoothing and reduction that each recipe has by default; small windows, so that short prompts have a choice.
Variant Base(Method method, int64_t window) {
  Variant v{.recipe = "", .options = {}, .settings = {.method = method, .window = window}};
  const bool has_window = method != Method::kH2o && method != Method::kTova && method != Method::kKeyNorm;
  if (has_window) v.options["scorer.window"] = std::to_string(window);
  switch (method) {
    case Method::kH2o:
      v.recipe = "h2o";
      v.settings.decode_every = 1;
      break;
    case Method::kTova:
      v.recipe = "tova";
      v.settings.decode_every = 1;
      break;
    case Method::kSnapKv: v.recipe = "snapkv"; break;
    case Method::kPyramidKv: v.recipe = "pyramidkv"; break;
    case Method::kAdaKv:
      v.recipe = "adakv";
      v.settings.is_max_pool = v.settings.pools_reduced = true;
      v.settings.pool_width = 7;
      break;
    case Method::kChunkKv:
      v.recipe = "chunkkv";
      v.settings.pool_width = 1;
      break;
    case Method::kRKv:
      v.recipe = "rkv";
      v.settings.decode_every = 128;
      v.settings.pool_width = 7;
      break;
    case Method::kKeyNorm: v.recipe = "knorm"; break;
  }
  return v;
}

void SetFraction(Variant& v, double fraction, int64_t extra) {
  v.options["keep_fraction"] = fmt::format("{}", fraction);
  v.options["keep_extra"] = std::to_string(extra);
  v.settings.keep_fraction = fraction;
  v.settings.keep_extra = extra;
}

void SetBudget(Variant& v, int64_t budget) {
  v.options["budget"] = std::to_string(budget);
  v.settings.budget = budget;
}

void SetChunked(Variant& v, int64_t patch) {
  v.options["trigger.prefill"] = "chunked";
  v.options["trigger.patch"] = std::to_string(patch);
  v.settings.is_per_chunk = true;
  v.patch = patch;
}

void SetDecodeEvery(Variant& v, int64_t every) {
  v.options["trigger.decode_every"] = std::to_string(every);
  v.settings.decode_every = every;
}

class RandomCase {
 public:
  explicit RandomCase(uint64_t seed) : rng_(seed) {}

  int64_t Pick(int64_t bound) { return static_cast<int64_t>(rng_.Below(static_cast<uint64_t>(bound))); }
  template <class T>
  T OneOf(std::initializer_list<T> values) {
    return *(values.begin() + Pick(static_cast<int64_t>(values.size())));
  }

  // Keys are multiples of 1/16 below 8, which every dtype stores exactly; some repeat an earlier one, entirely or
  // nearly.
  Recording MakeRecording(int64_t num_tokens) {
    Recording r;
    r.shape.num_layers = static_cast<int>(1 + Pick(4));
    r.shape.num_kv_heads = static_cast<int>(1 + Pick(3));
    r.shape.group_size = OneOf({1, 3, 4});
    r.shape.head_dim = 16;
    r.shape.scale = 0.25;
    r.num_tokens = num_tokens;
    const int64_t k_width = r.shape.num_kv_heads * r.shape.head_dim;
    for (int layer = 0; layer < r.shape.num_layers; ++layer) {
      LayerRows& rows = r.layers.emplace_back();
      for (int64_t i = 0; i < num_tokens * k_width * r.shape.group_size; ++i)
        rows.q.push_back(static_cast<float>(rng_.Normal()));
      for (int64_t t = 0; t < num_tokens; ++t) {
        const int64_t likeness = t == 0 ? 0 : Pick(8);
        const int64_t twin = t == 0 ? 0 : Pick(t);
        for (int64_t i = 0; i < k_width; ++i) {
          const double fresh = std::clamp(std::nearbyint(rng_.Normal() * 16.0), -100.0, 100.0) / 16.0;
          const float old = likeness == 1 || likeness == 2 ? rows.keys[static_cast<size_t>(twin * k_width + i)] : 0.0f;
          const bool is_kept = likeness == 1 || (likeness == 2 && i % 4 != 0);
          rows.keys.push_back(is_kept ? old : static_cast<float>(fresh));
        }
      }
    }
    return r;
  }

  Plan MakePlan(int64_t window) {
    Plan plan;
    plan.num_prompt =
        OneOf<int64_t>({1, 2, window, window + 1, 2 * window + 1, 15, 16, 17, 31, 37, 61, 64, 97, 113, 128, 131});
    plan.chunk = OneOf<int64_t>({1, 7, 13, 16, 32, 45, 64, plan.num_prompt, plan.num_prompt + 5});
    plan.num_output = OneOf<int64_t>({0, 0, 1, 9, 40});
    return plan;
  }

  // Post-fill, chunked without and with a patch; by fraction and by budget.
  Variant MakeVariant(Method method) {
    const bool has_window = method != Method::kH2o && method != Method::kTova && method != Method::kKeyNorm;
    Variant v = Base(method, OneOf<int64_t>({1, 4, 8, 8, 11}));
    Settings& s = v.settings;
    const int64_t mode = Pick(3);
    if (mode > 0) SetChunked(v, mode == 1 ? 0 : has_window ? OneOf<int64_t>({1, s.window, s.window}) : 1 + Pick(9));
    if (Pick(3) == 0) {
      SetBudget(v, (has_window ? s.window : 0) + 1 + Pick(50));
    } else {
      SetFraction(v, OneOf({0.1, 0.25, 0.3, 0.5, 0.52, 0.55, 0.7, 0.9, 1.0}), Pick(3) == 0 ? Pick(12) : 0);
    }
    const auto set_width = [&](const char* option) {
      s.pool_width = OneOf<int64_t>({1, 3, 5, 7, 13});
      v.options[option] = std::to_string(s.pool_width);
    };
    switch (method) {
      case Method::kH2o:
        if (Pick(3) == 0) {
          s.recent_share = OneOf({0.0, 0.1, 0.9, 1.0});
          v.options["protect.recent_share"] = fmt::format("{}", s.recent_share);
        }
        s.is_normalised = Pick(3) == 0;
        v.options["scorer.normalise"] = s.is_normalised ? "true" : "false";
        break;
      case Method::kPyramidKv:
        s.beta = OneOf<int64_t>({1, 2, 5, 20});
        v.options["allocator.beta"] = std::to_string(s.beta);
        [[fallthrough]];
      case Method::kSnapKv:
        if (Pick(2) == 0) {
          set_width("scorer.pool_width");
          s.is_max_pool = Pick(2) == 0;
          s.is_group_max = Pick(2) == 0;
          s.pools_reduced = Pick(2) == 0;
          v.options["scorer.pool"] = s.is_max_pool ? "max" : "avg";
          v.options["scorer.reduce"] = s.is_group_max ? "max" : "mean";
          v.options["scorer.pools_reduced"] = s.pools_reduced ? "true" : "false";
        }
        if (Pick(4) == 0) SetDecodeEvery(v, OneOf<int64_t>({1, 3}));
        break;
      case Method::kAdaKv:
        if (Pick(2) == 0) set_width("scorer.pool_width");
        s.alpha = OneOf({0.0, 0.2, 0.5, 1.0});
        s.is_normalised = Pick(3) == 0;
        s.has_pyramid = Pick(2) == 0;
        v.options["allocator.floor_share"] = fmt::format("{}", s.alpha);
        v.options["allocator.normalise"] = s.is_normalised ? "true" : "false";
        v.options["allocator.skeleton"] = s.has_pyramid ? "pyramid" : "uniform";
        break;
      case Method::kChunkKv:
        s.run_tokens = OneOf<int64_t>({1, 3, 10});
        s.reuse_layers = OneOf<int64_t>({1, 2, 3});
        v.options["select.chunk_tokens"] = std::to_string(s.run_tokens);
        v.options["select.reuse_layers"] = std::to_string(s.reuse_layers);
        break;
      case Method::kRKv:
        if (Pick(2) == 0) set_width("scorer.pool_width");
        s.lambda = OneOf({0.0, 0.07, 0.1, 0.9});
        v.options["scorer.importance_share"] = fmt::format("{}", s.lambda);
        if (Pick(2) == 0) SetDecodeEvery(v, OneOf<int64_t>({1, 5, 16}));
        break;
      default: break;
    }
    return v;
  }

 private:
  Rng rng_;
};

class KeptByReference : public ::testing::TestWithParam<Method> {};
INSTANTIATE_TEST_SUITE_P(Methods, KeptByReference,
                         ::testing::Values(Method::kH2o, Method::kTova, Method::kSnapKv, Method::kPyramidKv,
                                           Method::kAdaKv, Method::kChunkKv, Method::kRKv, Method::kKeyNorm),
                         [](const auto& method) { return std::string(Base(method.param, 8).recipe); });

TEST_P(KeptByReference, OnARandomGrid) {
  std::vector<const Backend*> backends;
  for (const Backend& backend : AllBackends())
    if (backend.is_supported) backends.push_back(&backend);
  RandomCase random(static_cast<uint64_t>(GetParam()) + 2024);
  Tally total;
  for (int round = 0; round < 200; ++round) {
    const Variant variant = random.MakeVariant(GetParam());
    const Plan plan = random.MakePlan(variant.settings.window);
    const Recording recording = random.MakeRecording(plan.num_prompt + plan.num_output);
    const auto dtype = random.OneOf({Dtype::kF32, Dtype::kF16, Dtype::kBF16});
    const Tally tally = ExpectKeptAsByReference(variant, recording, plan, dtype,
                                                *backends[static_cast<size_t>(round) % backends.size()]);
    total.num_choices += tally.num_choices;
    total.num_near_ties += tally.num_near_ties;
    if (HasFailure()) return;
  }
  EXPECT_GT(total.num_choices, 200);
  EXPECT_LE(total.num_near_ties, total.num_choices / 200);
}

// The paper's own settings, long enough for W = 64 and one eviction of R-KV.
TEST_P(KeptByReference, WithDefaultSettings) {
  RandomCase random(77);
  const int64_t window = GetParam() == Method::kRKv ? 8 : GetParam() == Method::kAdaKv ? 32 : 64;
  for (const int64_t patch : {-1, 0, 64}) {
    Variant v = Base(GetParam(), window);
    if (patch >= 0) SetChunked(v, patch);
    SetFraction(v, 0.25, 0);
    const Recording recording = random.MakeRecording(389 + 130);
    const Tally tally = ExpectKeptAsByReference(v, recording, {389, 130, 128}, Dtype::kF16, AllBackends()[0]);
    EXPECT_GT(tally.num_choices, 0);
    if (HasFailure()) return;
  }
}

// Once nothing is evicted between the chunks, how the prompt is cut makes no difference.
TEST_P(KeptByReference, HoweverAPromptIsCutForPostFill) {
  RandomCase random(5);
  for (const bool is_by_budget : {false, true}) {
    const Recording recording = random.MakeRecording(97 + 5);
    Variant v = Base(GetParam(), 8);
    if (is_by_budget) SetBudget(v, 40);
    if (!is_by_budget) SetFraction(v, 0.3, 2);
    std::vector<std::vector<std::vector<int64_t>>> whole, cut;
    ExpectKeptAsByReference(v, recording, {97, 5, 97}, Dtype::kF32, AllBackends()[0], &whole);
    for (const int64_t chunk : {1, 7, 64, 96}) {
      ExpectKeptAsByReference(v, recording, {97, 5, chunk}, Dtype::kF32, AllBackends()[0], &cut);
      EXPECT_EQ(cut, whole) << chunk;
    }
  }
}

// ---- A real model's attention ----

// Copies the queries that every layer shows.
class QueryRecorder final : public LayerObserver {
 public:
  explicit QueryRecorder(Recording& recording) : recording_(recording) {}
  Result<void> AfterAttention(Context&, SequenceCache&, const LayerQueries& queries) override {
    std::vector<float>& q = recording_.layers[static_cast<size_t>(queries.layer)].q;
    q.insert(q.end(), queries.q, queries.q + queries.num_rows * queries.q_stride);
    recording_.shape.scale = static_cast<double>(queries.scale);
    recording_.shape.group_size = queries.group_size;
    return Ok();
  }

 private:
  Recording& recording_;
};

const char* kText =
    "The keeper of the lighthouse wrote down everything: the hour of every ship, the colour of its flag, the wind. "
    "In the winter of that year the harbour froze, and for three weeks nothing came. He wrote that down too. The "
    "number of the safe is 48213, he wrote on the inside of the cover, and under it the name of his sister, Ida "
    "Halvorsen, who lived in Bergen and sold rope. When the ice broke, the first ship was the Meridian, with a "
    "cargo of oranges and one passenger, a surveyor called Anselm Roth. Roth had a letter for the keeper. It said "
    "that the light would be turned off in the spring, since the new channel ran on the other side of the island. "
    "The keeper read it twice, folded it and went up the stairs to trim the lamp. Roth stayed for eleven days. He "
    "measured the rocks, drew the coast and asked about the depth of the water at every hour of the tide. At night "
    "they played chess; the keeper won nine games, Roth won four and two were drawn. On the last evening Roth said "
    "that he had drawn the map as it was, with the light on it, and that a map takes many years to be corrected. "
    "As long as the light is on the map, he said, somebody has to keep it. The keeper wrote that down as well. In "
    "the spring the men came with their order, and they found a lamp that burned, a book with every ship of forty "
    "years, and a map. They counted the ships, they looked at the map, and they went back to ask what they should "
    "do. Question: what is the number of the safe, and who was the passenger of the Meridian? Answer: the number of "
    "the safe is";

TEST(KeptByReferenceRealModel, OnItsOwnAttention) {
  const auto found = FindModel(std::string(CACHETTE_MODELS_DIR "/") + kDefaultModelFile);
  if (!found.ok() && !FindModel(kDefaultModelFile).ok())
    GTEST_SKIP() << kDefaultModelFile << " is not here; fetch it with make model";
  EngineOptions options;
  options.model = found.ok() ? *found : kDefaultModelFile;
  auto engine = Engine::Load(options);
  ASSERT_TRUE(engine.ok()) << engine.failure().message;
  Engine& e = **engine;
  auto tokenizer = e.tokenizer();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.failure().message;
  const auto encoded = (*tokenizer)->Encode(kText);
  ASSERT_TRUE(encoded.ok());
  const std::vector<int32_t>& ids = *encoded;
  const auto num_tokens = static_cast<int64_t>(ids.size());
  ASSERT_GT(num_tokens, 300);

  Recording all;
  all.num_tokens = num_tokens;
  all.shape.num_layers = e.config().num_layers;
  all.shape.num_kv_heads = e.config().num_kv_heads;
  all.shape.head_dim = e.config().head_dim;
  all.layers.resize(static_cast<size_t>(all.shape.num_layers));
  Tier tier(TierKind::kHost);
  SequenceCache cache(
      tier, {.num_layers = all.shape.num_layers, .num_kv_heads = all.shape.num_kv_heads, .format = e.kv_format()});
  QueryRecorder recorder(all);
  SequenceInput input;
  input.cache = &cache;
  input.tokens = ids;
  input.rope_context_tokens = num_tokens;
  input.observer = &recorder;
  ASSERT_TRUE(cache.BeginPass({.num_tokens = num_tokens, .is_last_prefill_chunk = true}).ok());
  ASSERT_TRUE(e.model().Forward(e.context(), {Phase::kPrefill, {&input, 1}, e.gemm_dtype(), nullptr}).ok());
  cache.EndPass();
  // Some layers are enough, from both ends and the middle.
  Recording some = all;
  some.layers.clear();
  for (const int layer : {0, 1, all.shape.num_layers / 2, all.shape.num_layers - 1}) {
    LayerRows& rows = some.layers.emplace_back(all.layers[static_cast<size_t>(layer)]);
    rows.keys.resize(static_cast<size_t>(num_tokens * all.shape.num_kv_heads * all.shape.head_dim));
    for (int64_t t = 0; t < num_tokens; ++t)
      for (int head = 0; head < all.shape.num_kv_heads; ++head) {
        const HeadStream& stream = cache.stream(layer, head);
        ops::LoadEntry(stream.format(), stream.blocks(), t,
                       rows.keys.data() + (t * all.shape.num_kv_heads + head) * all.shape.head_dim, nullptr);
      }
  }
  some.shape.num_layers = static_cast<int>(some.layers.size());

  Tally total;
  const int64_t num_output = 40, num_prompt = num_tokens - num_output;
  for (const Method method : {Method::kH2o, Method::kTova, Method::kSnapKv, Method::kPyramidKv, Method::kAdaKv,
                              Method::kChunkKv, Method::kRKv, Method::kKeyNorm}) {
    const int64_t window = method == Method::kRKv ? 8 : 32;
    for (const int64_t patch : {int64_t{-1}, int64_t{0}, window}) {
      Variant v = Base(method, window);
      if (patch >= 0) SetChunked(v, patch);
      if (method == Method::kRKv) SetDecodeEvery(v, 16);
      if (method == Method::kRKv || (method == Method::kAdaKv && patch == 0)) {
        SetBudget(v, 100);
      } else {
        SetFraction(v, 0.3, 0);
      }
      if (method == Method::kAdaKv && patch > 0) {
        v.options["allocator.skeleton"] = "pyramid";
        v.settings.has_pyramid = true;
      }
      const Tally tally =
          ExpectKeptAsByReference(v, some, {num_prompt, num_output, 128}, e.kv_format().dtype, e.context().backend());
      if (HasFailure()) return;
      EXPECT_GT(tally.num_choices, 0) << v.recipe;
      total.num_choices += tally.num_choices;
      total.num_near_ties += tally.num_near_ties;
    }
  }
  EXPECT_LE(total.num_near_ties, total.num_choices / 50);
  RecordProperty("choices", std::to_string(total.num_choices));
  RecordProperty("near_ties", std::to_string(total.num_near_ties));
}

}  // namespace
}  // namespace cachette
