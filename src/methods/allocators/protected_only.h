#pragma once

#include "methods/part.h"

namespace cachette {

// No entry beyond the protected ones, in every KV head.
class ProtectedOnly final : public Allocator {
 public:
  const char* name() const override { return "protected_only"; }
  int64_t BudgetEntries(int, int) const override { return 0; }
};

}  // namespace cachette
