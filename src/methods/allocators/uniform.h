#pragma once

#include "methods/part.h"

namespace cachette {

// The same budget for every KV head of every layer. 0: protected entries only.
class Uniform final : public Allocator {
 public:
  const char* name() const override { return "uniform"; }
  void VisitOptions(OptionVisitor& v) override {
    v(budget_entries, "budget_entries", "most entries a KV head keeps; 0: only what is protected");
  }
  int64_t BudgetEntries(int, int) const override { return budget_entries; }

  int64_t budget_entries = 0;
};

}  // namespace cachette
