#pragma once
// What a retrieval brings in, what stays, and what attention reads of it.

#include "methods/retrieval/retrieval_part.h"

namespace cachette {

class WorkingSet final : public Part {
 public:
  struct Defaults {
    std::string attend = "selection";
    double pool = 1.0;
    double until = 1.0;
    double selected = 1.0;
    bool cuts_last = false;
    int64_t next_keys = 0;
    int64_t dense_layers = 0;
  };
  explicit WorkingSet(const Defaults& d)
      : attend(d.attend),
        pool(d.pool),
        until(d.until),
        selected(d.selected),
        cuts_last(d.cuts_last),
        next_keys(d.next_keys),
        dense_layers(d.dense_layers) {}
  const char* name() const override { return "working_set"; }
  void VisitOptions(OptionVisitor& v) override {
    v(attend, "attend",
      "what attention reads: selection (of the last retrieval), best (of the resident units, within the budget, chosen "
      "at every step) or all (resident units)");
    v(pool, "pool", "entries of a KV head that may be resident, in budgets; the least recently useful units go first");
    v(until, "until", "a retrieval stops once the resident units weigh this share of the best; 1: it brings them all");
    v(selected, "selected", "share of the budget that a retrieval selects");
    v(cuts_last, "cut_last", "use the budget up with a part of one more unit");
    v(next_keys, "next_keys", "keys of largest attention whose following positions are fetched too, for the next step");
    v(next_positions, "next_positions", "positions after each of them");
    v(ahead, "ahead",
      "what a rehearsal with the layer before's input is for: none; fetch: its units are read ahead, the layer's own "
      "query chooses; select: it chooses");
    v(asks_oracle, "oracle",
      "count at every step how many of the entries read an oracle would have read too; slow, for measurements");
    v(dense_layers, "dense_layers", "first layers that keep every entry in the fast tier");
  }
  Result<void> Prepare(const CacheShape& shape) override {
    const auto refuse = [](const char* option, double value, const char* must) {
      return Fail(Error::kInvalidArgument, fmt::format("{} {} must be {}", option, value, must));
    };
    if (attend != "selection" && attend != "best" && attend != "all")
      return Fail(Error::kInvalidArgument, fmt::format("attend '{}' is none of selection, best and all", attend));
    if (ahead != "none" && ahead != "fetch" && ahead != "select")
      return Fail(Error::kInvalidArgument, fmt::format("ahead '{}' is none of none, fetch and select", ahead));
    if (!(pool >= 1.0 && pool <= 1e6)) return refuse("pool", pool, "1 budget or more");
    if (!(until > 0.0 && until <= 1.0)) return refuse("until", until, "in (0, 1]");
    if (until < 1.0 && attend == "selection")
      return Fail(
          Error::kInvalidArgument,
          fmt::format("until {} leaves parts of a selection out; use attend=best or attend=all with it", until));
    if (!(selected > 0.0 && selected <= 1.0)) return refuse("selected", selected, "in (0, 1]");
    if (next_keys < 0) return refuse("next_keys", static_cast<double>(next_keys), "0 or more");
    if (next_positions < 1 || next_positions > 1024)
      return refuse("next_positions", static_cast<double>(next_positions), "in [1, 1024]");
    if (dense_layers < 0 || dense_layers > shape.num_layers)
      return refuse("dense_layers", static_cast<double>(dense_layers), "between 0 and the number of layers");
    return Ok();
  }

  std::string attend;
  double pool;
  double until;
  double selected;
  bool cuts_last;
  int64_t next_keys;
  int64_t next_positions = 8;
  int64_t dense_layers;
  std::string ahead = "none";
  bool asks_oracle = false;
};

}  // namespace cachette
