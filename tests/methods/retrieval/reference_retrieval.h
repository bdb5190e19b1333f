#pragma once
// What attention reads when a recipe retrieves, step by step and as slowly as it reads in the papers: per KV head, in
// double precision, without blocks, tiers or copies. Clusters are taken as they were made; everything else is derived.

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "cache/unit_table.h"
#include "methods/reference_eviction.h"

namespace cachette::reference {

enum class Units : uint8_t { kPages, kClusters, kSegments };
enum class Index : uint8_t { kMinMax, kCuboidMean, kMeanKey, kMeanKeySoftmax };
enum class Trigger : uint8_t { kEvery, kStride, kPrevious, kLast, kCoverage };
enum class Attend : uint8_t { kSelection, kBest, kAll };

struct RetrievalSettings {
  int64_t budget = 64, sinks = 16, window = 32;
  Units units = Units::kPages, output_units = Units::kPages;
  int64_t page = 16, output_page = 16;
  int64_t cluster_window = 0;    // prompt entries clustered together; 0: all
  int64_t cluster_cap = 32;      // most entries of a cluster; 0: what the budget's blocks hold
  int64_t close_every = 32;      // output entries clustered together
  int64_t segment_entries = 64;  // at most
  Index index = Index::kMinMax;
  Trigger trigger = Trigger::kEvery;
  int64_t stride = 8;
  double tau = 0.7, least_coverage = 0.9;
  Attend attend = Attend::kSelection;
  double pool = 1.0, until = 1.0, selected = 1.0;
  bool cuts_last = false;
  int64_t next_keys = 0, next_positions = 8;
  // The fast tier may be too small for the choice: its front part is brought in then, no less than what fills the
  // budget's blocks (or those of the longest unit).
  bool is_tight = false;
};

// One layer's retrieval. Where f32 arithmetic and f16 indexes cannot decide, what really happened is taken over.
class Retrieval {
 public:
  Retrieval(const RetrievalSettings& settings, const Shape& shape);

  // The next token: q [num_kv_heads * group_size][head_dim], keys [num_kv_heads][head_dim].
  void Add(const float* q, const float* keys);

  // Before the attention of the token added last, at decode. What happened: seen [num_kv_heads] positions that
  // attention reads, ascending; is_retrieval; residents [num_kv_heads] before and after. Returns what is wrong.
  struct Step {
    std::vector<std::vector<int32_t>> seen;
    bool is_retrieval = false;
    std::vector<std::set<int64_t>> before, after;
  };
  std::string Decode(const Step& step);
  // After it, or after a chunk of a prompt: tables [num_kv_heads]. Returns what is wrong with the units.
  std::string CloseOutput(const std::vector<const UnitTable*>& tables);
  std::string ClosePrompt(bool is_last_chunk, const std::vector<const UnitTable*>& tables);

  // How many entries of units that attention read are among as many with the most attention, over KV heads; a range
  // where f32 cannot tell. To be asked after Decode. seen: as Step's.
  struct Range {
    int64_t least = 0, most = 0;
  };
  Range OracleHits(const std::vector<std::vector<int32_t>>& seen) const;

  int64_t num_decisions() const { return num_decisions_; }
  int64_t num_near_ties() const { return num_near_ties_; }
  int64_t num_retrievals() const { return num_retrievals_; }
  int64_t num_guesses_seen() const { return num_guesses_seen_; }

 private:
  struct Unit {
    std::vector<int32_t> positions;
    std::vector<double> first, second;  // index vectors
    int64_t last_used = -1;
    int64_t size() const { return static_cast<int64_t>(positions.size()); }
    int64_t num_blocks() const { return (size() + 15) / 16; }
  };
  struct Head {
    std::vector<std::vector<double>> keys;  // by position
    std::vector<Unit> units;
    std::vector<double> weights, tolerances;  // of units, at this step
    std::vector<int64_t> order;               // units, best first
    std::vector<int64_t> best;                // within the budget
    std::set<int64_t> selection;
    int64_t cut_unit = -1, cut_entries = 0;
    std::set<int32_t> guesses;
    double guess_margin = 1e9;
  };

  int64_t now() const { return static_cast<int64_t>(queries_.size()) - 1; }
  int64_t LeastBlocks() const;
  std::string GiveUp(const Head& head, const std::set<int64_t>& after, std::vector<int64_t>& chosen) const;
  void Weigh(Head& head, size_t head_idx);
  void CompareWeights(const Head& head, int64_t u, int64_t v);
  void Compare(double difference, double tolerance);
  bool Fires(const std::vector<std::set<int64_t>>& residents);
  double Cosine(const std::vector<double>& other) const;
  std::string DecodeHead(size_t head_idx, const Step& step);
  std::map<int32_t, double> Attention(const Head& head, size_t head_idx, const std::vector<int32_t>& positions) const;
  void Guess(Head& head, size_t head_idx, const std::vector<int32_t>& seen);
  std::string AddRuns(int64_t first, int64_t end, int64_t length, const std::vector<const UnitTable*>& tables);
  std::string AddClusters(int64_t first, int64_t end, const std::vector<const UnitTable*>& tables);
  std::string AddUnit(size_t head_idx, std::vector<int32_t> positions, const UnitTable& table);
  void SetPages(int64_t first, int64_t end);

  RetrievalSettings settings_;
  Shape shape_;
  std::vector<std::vector<double>> queries_;  // by position
  std::vector<Head> heads_;
  int64_t local_begin_;    // first position that is neither a sink nor in the slow tier
  int64_t pending_begin_;  // first position in the slow tier that is in no unit
  bool has_selection_ = false;
  int64_t last_retrieval_ = 0;
  int64_t last_decode_ = -1;  // position of the query before this one's
  std::vector<int64_t> boundaries_;
  std::set<int64_t> page_positions_;  // that can be guessed
  double margin_ = 1e9;               // smallest difference that decided, in tolerances
  bool has_tied_ = false;
  bool brings_ = false;  // units come at this step
  int64_t num_decisions_ = 0, num_near_ties_ = 0, num_retrievals_ = 0, num_guesses_seen_ = 0;
};

}  // namespace cachette::reference
