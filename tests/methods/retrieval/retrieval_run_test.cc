// What attention reads when a recipe retrieves, against the slow reference: over a random grid, and on the queries and
// keys of a real model. Every entry read is compared with what was stored, to the bit.

#include "methods/retrieval/retrieval_run.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "engine/engine.h"
#include "engine/fast_need.h"
#include "engine/find_model.h"
#include "methods/recipe_run.h"
#include "methods/retrieval/reference_retrieval.h"
#include "methods/text_file.h"
#include "ops/attention/kv_store.h"

namespace cachette {
namespace {

using reference::Attend;
using reference::Index;
using reference::RetrievalSettings;
using reference::Trigger;
using reference::Units;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Options = std::map<std::string, std::string>;

// Queries and keys of a sequence.
struct Recording {
  reference::Shape shape;
  std::vector<std::vector<float>> q;     // [num_layers] [tokens][num_kv_heads][group_size][head_dim]
  std::vector<std::vector<float>> keys;  // [num_layers] [tokens][num_kv_heads][head_dim]
};

// Prompt tokens (in chunks), then output tokens.
struct Turn {
  int64_t num_prompt = 0, num_output = 0;
};

struct Tally {
  int64_t num_decisions = 0, num_near_ties = 0, num_retrievals = 0, num_guesses = 0;
};

Options OptionsOf(const RetrievalSettings& s) {
  const auto kind = [](Units units) {
    return units == Units::kPages ? "pages" : units == Units::kClusters ? "clusters" : "segments";
  };
  constexpr const char* kIndexes[] = {"min_max", "cuboid_mean", "mean_key", "mean_key_softmax"};
  constexpr const char* kTriggers[] = {"every", "stride", "prev", "last", "coverage"};
  constexpr const char* kAttends[] = {"selection", "best", "all"};
  return {{"budget", std::to_string(s.budget)},
          {"protect.sinks", std::to_string(s.sinks)},
          {"recent_window", std::to_string(s.window)},
          {"units.kind", kind(s.units)},
          {"output_units.kind", kind(s.output_units)},
          {"units.page_entries", std::to_string(s.page)},
          {"output_units.page_entries", std::to_string(s.output_page)},
          {"units.cluster_window", std::to_string(s.cluster_window)},
          {"output_units.close_every", std::to_string(s.close_every)},
          {"segment_entries", std::to_string(s.segment_entries)},
          {"index.kind", kIndexes[static_cast<int>(s.index)]},
          {"trigger.kind", kTriggers[static_cast<int>(s.trigger)]},
          {"trigger.stride", std::to_string(s.stride)},
          {"prev_tau", fmt::format("{}", s.tau)},
          {"last_tau", fmt::format("{}", s.tau)},
          {"least_coverage", fmt::format("{}", s.least_coverage)},
          {"attend", kAttends[static_cast<int>(s.attend)]},
          {"pool", fmt::format("{}", s.pool)},
          {"until", fmt::format("{}", s.until)},
          {"working_set.selected", fmt::format("{}", s.selected)},
          {"cut_last", s.cuts_last ? "true" : "false"},
          {"next_keys", std::to_string(s.next_keys)},
          {"next_positions", std::to_string(s.next_positions)},
          {"dense_layers", "0"}};
}

// Values say where they belong: position in two digits, KV head, layer. Exact in every dtype.
constexpr int kPlaceDims = 4;

// Runs a recipe without a model and tells the reference what attention would read.
class Checker {
 public:
  Checker(const Options& options, const RetrievalSettings& settings, const Recording& recording, Dtype dtype,
          const std::string& slow_tier, const Backend& backend, const char* row = "louis",
          size_t fast_bytes = Tier::kUnlimited)
      : recording_(recording), settings_(settings), cx_(backend, 2), tier_(TierKind::kHost, fast_bytes) {
    Options all = options;
    if (const auto ahead = options.find("ahead"); ahead != options.end()) ahead_ = ahead->second;
    // Everything may have to be copied there; and the reference knows one query, which may be a rehearsal's.
    asks_oracle_ = fast_bytes == Tier::kUnlimited && ahead_ != "select";
    all["oracle"] = asks_oracle_ ? "true" : "false";
    auto recipe = Recipe::Create(row, all);
    CACHETTE_CHECK(recipe.ok());
    shape_ = {.num_layers = static_cast<int>(recording.q.size()),
              .num_kv_heads = recording.shape.num_kv_heads,
              .format = {dtype, recording.shape.head_dim},
              .units = recipe->unit_shape()};
    CACHETTE_CHECK(recipe->Prepare(shape_).ok());
    auto slow = RecordStore::Create(slow_tier, shape_.format.block_bytes());
    CACHETTE_CHECK(slow.ok());
    slow_ = *std::move(slow);
    cache_ = std::make_unique<SequenceCache>(tier_, shape_, slow_.get());
    run_ = std::make_unique<RecipeRun>(std::make_shared<Recipe>(*std::move(recipe)), shape_);
    for (int layer = 0; layer < shape_.num_layers; ++layer) references_.emplace_back(settings, recording.shape);
    before_rehearsal_.resize(references_.size());
  }

  // False once something was wrong.
  bool Run(const std::vector<Turn>& turns, int64_t chunk) {
    for (const Turn& turn : turns) {
      for (int64_t done = 0; done < turn.num_prompt; done += chunk) {
        const int64_t count = std::min(chunk, turn.num_prompt - done);
        Pass({.phase = Phase::kPrefill,
              .first_token = cache_->num_tokens(),
              .num_tokens = count,
              .is_last_prefill_chunk = done + count == turn.num_prompt});
        if (testing::Test::HasFailure()) return false;
      }
      for (int64_t i = 0; i < turn.num_output; ++i) {
        Pass({.phase = Phase::kDecode, .first_token = cache_->num_tokens(), .num_tokens = 1});
        if (testing::Test::HasFailure()) return false;
      }
    }
    return true;
  }

  Tally tally() const {
    Tally tally;
    for (const reference::Retrieval& r : references_) {
      tally.num_decisions += r.num_decisions();
      tally.num_near_ties += r.num_near_ties();
      tally.num_retrievals += r.num_retrievals();
      tally.num_guesses += r.num_guesses_seen();
    }
    return tally;
  }
  const SequenceCache& cache() const { return *cache_; }
  const RetrievalStats& stats() const { return run_->retrieval()->stats(); }

 private:
  int64_t k_width() const { return static_cast<int64_t>(shape_.num_kv_heads) * shape_.format.head_dim; }

  void Pass(const PassInfo& pass) {
    const SequenceCache* sequence = cache_.get();
    run_->BeforePass(cx_, *cache_, pass);
    ASSERT_TRUE(cache_->BeginPass(pass).ok());
    for (int layer = 0; layer < shape_.num_layers; ++layer) {
      SCOPED_TRACE(
          fmt::format("layer {} tokens [{}, {})", layer, pass.first_token, pass.first_token + pass.num_tokens));
      Layer(pass, layer);
      if (testing::Test::HasFailure()) return;
    }
    cache_->EndPass();
    ASSERT_THAT(CheckInvariants(tier_, {&sequence, 1}), IsEmpty());
  }

  void Layer(const PassInfo& pass, int layer) {
    const int head_dim = shape_.format.head_dim;
    const int64_t q_width = k_width() * recording_.shape.group_size;
    const float* keys = recording_.keys[static_cast<size_t>(layer)].data() + pass.first_token * k_width();
    const float* q = recording_.q[static_cast<size_t>(layer)].data() + pass.first_token * q_width;
    std::vector<float> values(static_cast<size_t>(pass.num_tokens * k_width()), 0.0f);
    for (int64_t t = 0; t < pass.num_tokens; ++t)
      for (int head = 0; head < shape_.num_kv_heads; ++head) {
        float* value = values.data() + t * k_width() + head * head_dim;
        const int64_t position = pass.first_token + t;
        value[0] = static_cast<float>(position % 64);
        value[1] = static_cast<float>(position / 64);
        value[2] = static_cast<float>(head);
        value[3] = static_cast<float>(layer);
      }
    ASSERT_TRUE(cache_->Append(cx_, layer, keys, k_width(), values.data(), k_width()).ok());
    reference::Retrieval& reference = references_[static_cast<size_t>(layer)];
    // With ahead=select only the rehearsal's query decides, in every layer but the first.
    const bool is_rehearsed = ahead_ == "select" && pass.phase == Phase::kDecode && layer > 0;
    const std::vector<float> rehearsed = Rehearsed(pass.first_token, layer);
    for (int64_t t = 0; t < pass.num_tokens; ++t)
      reference.Add(is_rehearsed ? rehearsed.data() : q + t * q_width, keys + t * k_width());
    const LayerQueries queries = QueriesOf(layer, q, pass.num_tokens);
    reference::Retrieval::Step step{.seen = {}, .before = Residents(layer), .after = {}};
    if (!before_rehearsal_[static_cast<size_t>(layer)].empty())
      step.before = std::exchange(before_rehearsal_[static_cast<size_t>(layer)], {});
    const int64_t num_retrievals = stats().num_retrievals;
    const auto before = run_->BeforeAttention(cx_, *cache_, queries);
    ASSERT_TRUE(before.ok()) << before.failure().message;
    step.is_retrieval = stats().num_retrievals > num_retrievals;
    step.after = Residents(layer);
    for (int head = 0; head < shape_.num_kv_heads; ++head) step.seen.push_back(Seen(layer, head, pass));
    if (testing::Test::HasFailure()) return;
    if (pass.phase == Phase::kDecode) {
      ASSERT_EQ(reference.Decode(step), "");
    } else {
      for (const std::vector<int32_t>& seen : step.seen) {
        ASSERT_EQ(static_cast<int64_t>(seen.size()), pass.first_token + pass.num_tokens);
        for (size_t i = 0; i < seen.size(); ++i) ASSERT_EQ(seen[i], static_cast<int32_t>(i));
      }
    }
    if (pass.phase == Phase::kDecode && layer + 1 < shape_.num_layers) Rehearse(pass, layer + 1);
    if (testing::Test::HasFatalFailure()) return;
    const int64_t hits_before = stats().oracle_hits;
    const auto after = run_->AfterAttention(cx_, *cache_, queries);
    ASSERT_TRUE(after.ok()) << after.failure().message;
    ASSERT_FALSE(cache_->has_view(layer));
    if (asks_oracle_ && pass.phase == Phase::kDecode) {
      const int64_t num_hits = stats().oracle_hits - hits_before;
      const auto expected = reference.OracleHits(step.seen);
      ASSERT_GE(num_hits, expected.least);
      ASSERT_LE(num_hits, expected.most);
    }
    std::vector<const UnitTable*> tables;
    for (int head = 0; head < shape_.num_kv_heads; ++head) tables.push_back(&cache_->units(layer, head));
    if (pass.phase == Phase::kDecode) {
      ASSERT_EQ(reference.CloseOutput(tables), "");
    } else {
      ASSERT_EQ(reference.ClosePrompt(pass.is_last_prefill_chunk, tables), "");
    }
  }

  LayerQueries QueriesOf(int layer, const float* q, int64_t num_rows) const {
    return {.layer = layer,
            .q = q,
            .q_stride = k_width() * recording_.shape.group_size,
            .num_rows = num_rows,
            .group_size = recording_.shape.group_size,
            .scale = static_cast<float>(recording_.shape.scale)};
  }

  // The layer's queries, somewhat wrong.
  std::vector<float> Rehearsed(int64_t position, int layer) const {
    const int64_t q_width = k_width() * recording_.shape.group_size;
    const float* q = recording_.q[static_cast<size_t>(layer)].data() + position * q_width;
    Rng rng(static_cast<uint64_t>(position * 100 + layer));
    std::vector<float> rehearsed(q, q + q_width);
    for (float& x : rehearsed) x += 0.3f * static_cast<float>(rng.Normal());
    return rehearsed;
  }

  void Rehearse(const PassInfo& pass, int layer) {
    const bool has_units = cache_->units(layer, 0).num_units() > 0;
    ASSERT_EQ(run_->WantsNextQueries(*cache_, QueriesOf(layer, nullptr, 1)), ahead_ != "none" && has_units);
    if (ahead_ == "none" || !has_units) return;
    const std::vector<float> q = Rehearsed(pass.first_token, layer);
    const std::vector<std::set<int64_t>> before = Residents(layer);
    before_rehearsal_[static_cast<size_t>(layer)] = before;
    const auto rehearsed = run_->NextQueries(cx_, *cache_, QueriesOf(layer, q.data(), 1));
    ASSERT_TRUE(rehearsed.ok()) << rehearsed.failure().message;
    if (ahead_ == "fetch") {
      ASSERT_EQ(Residents(layer), before) << "it only reads";
    }
    ASSERT_LE(tier_.owned_bytes(), tier_.limit_bytes());
  }

  std::vector<std::set<int64_t>> Residents(int layer) const {
    std::vector<std::set<int64_t>> residents;
    for (int head = 0; head < shape_.num_kv_heads; ++head) {
      const std::span<const int32_t> units = cache_->units(layer, head).residents();
      residents.emplace_back(units.begin(), units.end());
    }
    return residents;
  }

  // Positions of what attention reads, sorted; each entry's bits are those that were stored.
  std::vector<int32_t> Seen(int layer, int head, const PassInfo& pass) const {
    const ops::KvRow row = cache_->AttentionRow(layer, head);
    const int head_dim = shape_.format.head_dim;
    std::vector<float> key(static_cast<size_t>(head_dim)), value(static_cast<size_t>(head_dim));
    std::vector<int32_t> seen;
    for (int64_t slot = 0; slot < row.num_slots; ++slot) {
      const auto block = static_cast<size_t>(slot / ops::kBlockTokens);
      if (row.live_masks != nullptr && ((row.live_masks[block] >> (slot % ops::kBlockTokens)) & 1) == 0) continue;
      ops::LoadEntry(shape_.format, row.blocks, slot, key.data(), value.data());
      const auto position = static_cast<int32_t>(value[0] + 64 * value[1]);
      seen.push_back(position);
      const bool is_own = position >= 0 && position < pass.first_token + pass.num_tokens &&
                          static_cast<int>(value[2]) == head && static_cast<int>(value[3]) == layer &&
                          std::all_of(value.begin() + kPlaceDims, value.end(), [](float v) { return v == 0.0f; });
      if (!is_own) {
        ADD_FAILURE() << "slot " << slot << " holds what was never stored here: position " << position;
        return seen;
      }
      const float* stored = recording_.keys[static_cast<size_t>(layer)].data() + position * k_width() +
                            head * static_cast<int64_t>(head_dim);
      if (!std::equal(key.begin(), key.end(), stored)) ADD_FAILURE() << "key of position " << position;
    }
    // The pass's own entries come last, in order: attention's causal mask counts from there.
    for (int64_t i = 0; i < pass.num_tokens; ++i)
      EXPECT_EQ(seen[seen.size() - static_cast<size_t>(pass.num_tokens - i)], pass.first_token + i);
    std::sort(seen.begin(), seen.end());
    return seen;
  }

  const Recording& recording_;
  RetrievalSettings settings_;
  bool asks_oracle_ = false;
  std::string ahead_ = "none";
  std::vector<std::vector<std::set<int64_t>>> before_rehearsal_;  // [num_layers] [num_kv_heads] or empty
  Context cx_;
  Tier tier_;
  std::unique_ptr<RecordStore> slow_;
  CacheShape shape_;
  std::unique_ptr<SequenceCache> cache_;
  std::unique_ptr<RecipeRun> run_;
  std::vector<reference::Retrieval> references_;
};

std::string Describe(const Options& options) {
  std::string text;
  for (const auto& [name, value] : options) text += fmt::format(" {}={}", name, value);
  return text;
}

class RandomCase {
 public:
  explicit RandomCase(uint64_t seed) : rng_(seed) {}
  int64_t Pick(int64_t bound) { return static_cast<int64_t>(rng_.Below(static_cast<uint64_t>(bound))); }
  template <class T>
  T OneOf(std::initializer_list<T> values) {
    return *(values.begin() + Pick(static_cast<int64_t>(values.size())));
  }

  // Keys are multiples of 1/16 below 8, which every dtype stores exactly, some near an earlier one. Queries drift and
  // turn now and then.
  Recording MakeRecording(int64_t num_tokens, int least_layers = 1) {
    Recording r;
    r.shape = {.num_layers = static_cast<int>(least_layers + Pick(2)),
               .num_kv_heads = static_cast<int>(1 + Pick(3)),
               .group_size = OneOf({1, 3, 4}),
               .head_dim = OneOf({8, 16}),
               .scale = OneOf({0.25, 0.5})};
    const int64_t k_width = r.shape.num_kv_heads * r.shape.head_dim, q_width = k_width * r.shape.group_size;
    for (int layer = 0; layer < r.shape.num_layers; ++layer) {
      std::vector<float>&keys = r.keys.emplace_back(), &q = r.q.emplace_back();
      for (int64_t t = 0; t < num_tokens; ++t) {
        const int64_t twin = Pick(4) == 0 && t > 0 ? Pick(t) : -1;
        for (int64_t i = 0; i < k_width; ++i) {
          const double fresh = std::clamp(std::nearbyint(rng_.Normal() * 16.0), -100.0, 100.0) / 16.0;
          keys.push_back(twin >= 0 && i % 4 != 0 ? keys[static_cast<size_t>(twin * k_width + i)]
                                                 : static_cast<float>(fresh));
        }
        const bool turns = t == 0 || Pick(8) == 0;
        for (int64_t i = 0; i < q_width; ++i) {
          const auto fresh = static_cast<float>(rng_.Normal());
          q.push_back(turns ? fresh : 0.95f * q[static_cast<size_t>((t - 1) * q_width + i)] + 0.3f * fresh);
        }
      }
    }
    return r;
  }

  RetrievalSettings MakeSettings() {
    RetrievalSettings s;
    s.budget = OneOf<int64_t>({16, 17, 40, 64, 64, 100, 1000});
    s.sinks = OneOf<int64_t>({0, 16, 16, 32});
    s.window = OneOf<int64_t>({0, 1, 15, 16, 33, 64});
    s.units = OneOf({Units::kPages, Units::kClusters});
    s.output_units = OneOf({Units::kPages, Units::kClusters, Units::kSegments});
    s.page = OneOf<int64_t>({16, 32, 48});
    s.output_page = OneOf<int64_t>({16, 32});
    s.cluster_window = OneOf<int64_t>({0, 16, 64});
    s.close_every = OneOf<int64_t>({16, 48});
    s.segment_entries = OneOf<int64_t>({1, 16, 17, 64});
    s.index = OneOf({Index::kMinMax, Index::kCuboidMean, Index::kMeanKey, Index::kMeanKeySoftmax});
    s.trigger = OneOf({Trigger::kEvery, Trigger::kStride, Trigger::kPrevious, Trigger::kLast, Trigger::kCoverage});
    s.stride = OneOf<int64_t>({1, 5, 8});
    s.tau = OneOf({0.5, 0.8, 0.95});
    s.least_coverage = OneOf({0.5, 0.8, 0.95, 1.0});
    s.attend = OneOf({Attend::kSelection, Attend::kBest, Attend::kAll});
    s.pool = OneOf({1.0, 1.5, 2.0});
    s.until = s.attend == Attend::kSelection ? 1.0 : OneOf({1.0, 0.9, 0.98});
    s.selected = OneOf({1.0, 1.0, 0.5});
    s.cuts_last = s.attend == Attend::kSelection && Pick(3) == 0;
    s.next_keys = OneOf<int64_t>({0, 0, 1, 4});
    s.next_positions = OneOf<int64_t>({1, 8, 40});
    return s;
  }

 private:
  Rng rng_;
};

TEST(RetrievalRun, AttentionReadsWhatTheReferenceReads) {
  std::vector<const Backend*> backends;
  for (const Backend& backend : AllBackends())
    if (backend.is_supported) backends.push_back(&backend);
  Tally total;
  for (int round = 0; round < 60; ++round) {
    RandomCase random(static_cast<uint64_t>(round) + 1);
    const RetrievalSettings settings = random.MakeSettings();
    std::vector<Turn> turns;
    turns.push_back({random.OneOf<int64_t>({1, 15, 16, 17, 31, 49, 64, 80, 97, 128, 161, 300}),
                     random.OneOf<int64_t>({0, 1, 40, 90})});
    if (random.Pick(2) == 0) turns.push_back({random.OneOf<int64_t>({1, 16, 90}), random.OneOf<int64_t>({1, 60})});
    if (round % 20 == 0) turns = {{600, 10}};
    const int64_t chunk =
        turns[0].num_prompt > 130 ? random.OneOf<int64_t>({33, 64, 1000}) : random.OneOf<int64_t>({1, 7, 16, 33, 1000});
    int64_t num_tokens = 0;
    for (const Turn& turn : turns) num_tokens += turn.num_prompt + turn.num_output;
    const Recording recording = random.MakeRecording(num_tokens);
    const Dtype dtype = random.OneOf({Dtype::kF16, Dtype::kBF16, Dtype::kF32});
    const std::string slow = random.Pick(4) == 0 ? "disk:" + testing::TempDir() : "ram";
    const Options options = OptionsOf(settings);
    const Backend& backend = *backends[static_cast<size_t>(round) % backends.size()];
    SCOPED_TRACE(fmt::format("round {} prompt {} output {} of {} tokens, chunk {}, {} on {}, group {} x {}:{}", round,
                             turns[0].num_prompt, turns[0].num_output, num_tokens, chunk, slow, backend.name,
                             recording.shape.group_size, recording.shape.num_kv_heads, Describe(options)));
    Checker checker(options, settings, recording, dtype, slow, backend);
    if (!checker.Run(turns, chunk)) return;
    const Tally tally = checker.tally();
    total.num_decisions += tally.num_decisions;
    total.num_near_ties += tally.num_near_ties;
    total.num_retrievals += tally.num_retrievals;
    total.num_guesses += tally.num_guesses;
  }
  EXPECT_GT(total.num_decisions, 5000);
  EXPECT_GT(total.num_retrievals, 500);
  EXPECT_GT(total.num_guesses, 500);
  EXPECT_LE(total.num_near_ties, total.num_decisions / 100);
}

// With fetch the reference need not know of rehearsals; with select it is given their query.
TEST(RetrievalRun, RehearsedAttentionReadsWhatTheReferenceReads) {
  int64_t num_ahead = 0, num_used = 0, num_decisions = 0, num_near_ties = 0;
  for (int round = 0; round < 16; ++round) {
    RandomCase random(static_cast<uint64_t>(round) + 900);
    RetrievalSettings settings = random.MakeSettings();
    const bool selects = round % 2 == 1;
    if (selects) settings.next_keys = 0;  // guessed by the true query
    const std::vector<Turn> turns = {{random.OneOf<int64_t>({17, 64, 161, 300}), random.OneOf<int64_t>({40, 90})},
                                     {random.OneOf<int64_t>({1, 90}), 30}};
    const Recording recording = random.MakeRecording(600, 2);
    Options options = OptionsOf(settings);
    options["ahead"] = selects ? "select" : "fetch";
    const std::string slow =
        random.OneOf<std::string>({"ram", "disk:" + testing::TempDir(), "disk:" + testing::TempDir() + ",threads"});
    SCOPED_TRACE(fmt::format("round {} prompts {} and {}, on {}{}", round, turns[0].num_prompt, turns[1].num_prompt,
                             slow, Describe(options)));
    Checker checker(options, settings, recording, Dtype::kF16, slow, AllBackends()[0]);
    if (!checker.Run(turns, random.OneOf<int64_t>({33, 1000}))) return;
    num_ahead += checker.stats().entries_ahead;
    num_used += checker.stats().entries_ahead_used;
    if (selects) {
      EXPECT_EQ(checker.stats().entries_ahead_used, checker.stats().entries_ahead);
    }
    num_decisions += checker.tally().num_decisions;
    num_near_ties += checker.tally().num_near_ties;
  }
  EXPECT_GT(num_ahead, 3000);
  EXPECT_GT(num_used, num_ahead / 2);
  EXPECT_LT(num_used, num_ahead) << "rehearsals are wrong now and then";
  EXPECT_LE(num_near_ties, num_decisions / 100);
}

// The bytes that the engine asks for before it begins, for two turns of one sequence.
size_t NeededBytes(const RetrievalSettings& s, const CacheShape& shape, const std::vector<Turn>& turns, int64_t chunk) {
  int64_t needed = 0, num_held = 0;
  for (const Turn& turn : turns) {
    needed = std::max(needed, ComputeFastNeed({.num_retrieving_layers = shape.num_layers,
                                               .num_kv_heads = shape.num_kv_heads,
                                               .block_bytes = static_cast<int64_t>(shape.format.block_bytes()),
                                               .protected_entries = s.sinks + s.window,
                                               .local_entries = shape.units.local_entries,
                                               .least_blocks = shape.units.least_blocks,
                                               .num_held = num_held,
                                               .num_prompt = turn.num_prompt,
                                               .num_output = turn.num_output,
                                               .chunk = chunk})
                                  .bytes());
    num_held += turn.num_prompt + turn.num_output;
  }
  return static_cast<size_t>(needed);
}

// In as little of a fast tier as the engine lets begin, nothing fails, and attention reads the best units that fit:
// whatever fills its blocks badly, down to segments of one entry.
TEST(RetrievalRun, InTheLeastFastTierAttentionReadsTheBestThatFit) {
  int64_t num_left_out = 0, num_retrievals = 0, num_ahead = 0;
  for (int round = 0; round < 60; ++round) {
    RandomCase random(static_cast<uint64_t>(round) + 500);
    RetrievalSettings s = random.MakeSettings();
    s.is_tight = true;
    s.next_keys = 0;  // guesses are left out first, and are not foreseen
    s.budget = random.OneOf<int64_t>({16, 17, 64, 100});
    if (round % 2 == 0) {
      s.output_units = Units::kSegments;
      s.segment_entries = random.OneOf<int64_t>({1, 2, 17});
    }
    const std::vector<Turn> turns = {{random.OneOf<int64_t>({1, 33, 200, 300}), random.OneOf<int64_t>({60, 150})},
                                     {random.OneOf<int64_t>({1, 60}), 40}};
    const int64_t chunk = random.OneOf<int64_t>({16, 33, 64, 1000});
    const Recording recording = random.MakeRecording(800, round < 40 ? 1 : 2);
    Options options = OptionsOf(s);
    if (round >= 40) options["ahead"] = round % 4 < 2 ? "fetch" : "select";
    const auto recipe = Recipe::Create("louis", options);
    ASSERT_TRUE(recipe.ok());
    const CacheShape shape = {.num_layers = recording.shape.num_layers,
                              .num_kv_heads = recording.shape.num_kv_heads,
                              .format = {Dtype::kF16, recording.shape.head_dim},
                              .units = recipe->unit_shape()};
    SCOPED_TRACE(fmt::format("round {} prompts {} and {}, outputs {} and {}, chunk {}{}", round, turns[0].num_prompt,
                             turns[1].num_prompt, turns[0].num_output, turns[1].num_output, chunk, Describe(options)));
    Checker checker(options, s, recording, Dtype::kF16, "ram", AllBackends()[0], "louis",
                    NeededBytes(s, shape, turns, chunk));
    if (!checker.Run(turns, chunk)) return;
    num_left_out += checker.stats().entries_left_out;
    num_retrievals += checker.tally().num_retrievals;
    num_ahead += checker.stats().entries_ahead;
  }
  EXPECT_GT(num_ahead, 1000);
  EXPECT_GT(num_left_out, 1000);
  EXPECT_GT(num_retrievals, 1000);
}

// The five rows of the table with what they are published with, in a small budget.
TEST(RetrievalRun, TheRecipesOfTheTableReadWhatTheReferenceReads) {
  RandomCase random(99);
  const Recording recording = random.MakeRecording(500);
  struct Row {
    const char* name;
    RetrievalSettings settings;
  };
  RetrievalSettings quest, arkvale, clusterkv, louis, plus;
  arkvale.page = arkvale.output_page = 32;
  arkvale.index = Index::kCuboidMean;
  arkvale.attend = Attend::kAll;
  arkvale.selected = 0.5;
  clusterkv.units = clusterkv.output_units = louis.units = plus.units = Units::kClusters;
  clusterkv.index = Index::kMeanKey;
  clusterkv.cuts_last = true;
  clusterkv.cluster_cap = 0;
  clusterkv.close_every = 320;
  louis.output_units = Units::kSegments;
  louis.index = plus.index = Index::kMeanKeySoftmax;
  louis.trigger = Trigger::kPrevious;
  plus.cluster_cap = 16;
  plus.trigger = Trigger::kCoverage;
  plus.attend = Attend::kBest;
  plus.pool = 2.5;
  plus.least_coverage = 0.95;
  plus.until = 0.98;
  plus.next_keys = 4;
  for (const Row& row :
       {Row{"quest", quest}, {"arkvale", arkvale}, {"clusterkv", clusterkv}, {"louis", louis}, {"louis+", plus}}) {
    SCOPED_TRACE(row.name);
    // Only what the reference needs to know of the sizes; the rest must be what the row says.
    for (const char* ahead : {"none", "fetch"}) {
      const Options options = {{"budget", "64"}, {"recent_window", "32"}, {"dense_layers", "0"}, {"ahead", ahead}};
      Checker checker(options, row.settings, recording, Dtype::kF16, "ram", AllBackends()[0], row.name);
      if (!checker.Run({{250, 150}, {50, 50}}, 128)) return;
      const Tally tally = checker.tally();
      EXPECT_GT(tally.num_retrievals, 2);
      EXPECT_LE(tally.num_near_ties, tally.num_decisions / 50);
    }
  }
}

// ---- A real model's queries and keys ----

class Recorder final : public LayerObserver {
 public:
  explicit Recorder(Recording& recording) : recording_(recording) {}
  Result<void> AfterAttention(Context&, SequenceCache&, const LayerQueries& queries) override {
    std::vector<float>& q = recording_.q[static_cast<size_t>(queries.layer)];
    q.insert(q.end(), queries.q, queries.q + queries.num_rows * queries.q_stride);
    recording_.shape.scale = static_cast<double>(queries.scale);
    recording_.shape.group_size = queries.group_size;
    return Ok();
  }

 private:
  Recording& recording_;
};

TEST(RetrievalRunRealModel, OnItsOwnQueriesAndKeys) {
  const auto found = FindModel(std::string(CACHETTE_MODELS_DIR "/") + kDefaultModelFile);
  if (!found.ok()) GTEST_SKIP() << kDefaultModelFile << " is not here; fetch it with make model";
  EngineOptions engine_options;
  engine_options.model = *found;
  auto engine = Engine::Load(engine_options);
  ASSERT_TRUE(engine.ok()) << engine.failure().message;
  Engine& e = **engine;
  auto tokenizer = e.tokenizer();
  ASSERT_TRUE(tokenizer.ok());
  std::string text = "A ledger of the harbour, in the order in which the ships came.\n";
  for (int i = 0; i < 24; ++i)
    text += fmt::format("Ship number {} carried {} barrels of {} and left on day {} for {}.\n", 17 * i % 101, 7 * i + 3,
                        i % 3 == 0   ? "salt"
                        : i % 3 == 1 ? "oil"
                                     : "tar",
                        i * i % 29, i % 2 == 0 ? "Bergen" : "Riga");
  text += "Question: how many barrels did ship number 51 carry? Answer: it carried";
  const auto ids = (*tokenizer)->Encode(text);
  ASSERT_TRUE(ids.ok());
  const auto num_tokens = static_cast<int64_t>(ids->size());
  ASSERT_GT(num_tokens, 450);
  Recording all;
  all.shape.num_kv_heads = e.config().num_kv_heads;
  all.shape.head_dim = e.config().head_dim;
  all.q.resize(static_cast<size_t>(e.config().num_layers));
  Tier tier(TierKind::kHost);
  SequenceCache cache(
      tier, {.num_layers = e.config().num_layers, .num_kv_heads = all.shape.num_kv_heads, .format = e.kv_format()});
  Recorder recorder(all);
  SequenceInput input;
  input.cache = &cache;
  input.tokens = *ids;
  input.rope_context_tokens = num_tokens;
  input.observer = &recorder;
  ASSERT_TRUE(cache.BeginPass({.num_tokens = num_tokens, .is_last_prefill_chunk = true}).ok());
  ASSERT_TRUE(e.model().Forward(e.context(), {Phase::kPrefill, {&input, 1}, e.gemm_dtype(), nullptr}).ok());
  cache.EndPass();
  Recording some = {.shape = all.shape, .q = {}, .keys = {}};
  for (const int layer : {0, e.config().num_layers / 2}) {
    some.q.push_back(all.q[static_cast<size_t>(layer)]);
    std::vector<float>& keys = some.keys.emplace_back();
    for (int64_t t = 0; t < num_tokens; ++t)
      for (int head = 0; head < all.shape.num_kv_heads; ++head) {
        keys.resize(keys.size() + static_cast<size_t>(all.shape.head_dim));
        ops::LoadEntry(e.kv_format(), cache.stream(layer, head).blocks(), t,
                       keys.data() + keys.size() - all.shape.head_dim, nullptr);
      }
  }
  some.shape.num_layers = static_cast<int>(some.q.size());
  Tally total;
  constexpr Trigger kTriggers[] = {Trigger::kEvery, Trigger::kPrevious, Trigger::kLast, Trigger::kCoverage};
  constexpr Index kIndexes[] = {Index::kMinMax, Index::kCuboidMean, Index::kMeanKey, Index::kMeanKeySoftmax};
  for (const Units units : {Units::kPages, Units::kClusters})
    for (size_t i = 0; i < 4; ++i) {
      const Trigger trigger = kTriggers[i];
      const Index index = kIndexes[units == Units::kPages ? i : 3 - i];
      RetrievalSettings s;
      s.units = units;
      s.index = index;
      s.trigger = trigger;
      s.output_units = trigger == Trigger::kEvery ? Units::kPages : Units::kSegments;
      s.attend = trigger == Trigger::kCoverage ? Attend::kBest : Attend::kSelection;
      s.until = s.attend == Attend::kBest ? 0.98 : 1.0;
      s.pool = s.attend == Attend::kBest ? 2.0 : 1.0;
      s.next_keys = index == Index::kMeanKeySoftmax ? 4 : 0;
      s.budget = 96;
      const Options options = OptionsOf(s);
      SCOPED_TRACE(Describe(options));
      Checker checker(options, s, some, e.kv_format().dtype, "ram", e.context().backend());
      if (!checker.Run({{num_tokens - 40, 40}}, 256)) return;
      const Tally tally = checker.tally();
      total.num_decisions += tally.num_decisions;
      total.num_near_ties += tally.num_near_ties;
      EXPECT_GT(tally.num_retrievals, 2);
    }
  EXPECT_LE(total.num_near_ties, total.num_decisions / 20);
}

}  // namespace
}  // namespace cachette
